"""Masks from the LR image and from files: in the right frame, listed where they are missing."""

import json
import os
import random
import unicodedata
import warnings

import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ChangedError, ConfigError, printable
from samdiff.pipeline.degrade.recipes import degrade
from samdiff.pipeline.encode.mask_table import MaskTable
from samdiff.pipeline.encode.rle import counts_of, decode, encode, to_coco
from samdiff.pipeline.mask_files import folder as mask_files
from samdiff.pipeline.mask_files.imported import ImportedMasks
from samdiff.pipeline.mask_files.json_folder import JsonFolder
from samdiff.pipeline.masks.adapters import MasksFromLR
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.tile_stage import image_masks
from samdiff.pipeline.shards.verify import verify_store

from ...helpers.strange_input import mask_json
from ...helpers.zoo import file_of, photo


def records_of(mask: np.ndarray) -> list[dict]:
    """Records of one mask as the generator makes them, with invented scores."""
    segmentation = to_coco(encode(mask), *mask.shape)
    record = {"segmentation": segmentation, "predicted_iou": 0.9, "stability_score": 0.97, "point_coords": [[2.5, 1.5]]}
    return MaskTable.of_records([record], *mask.shape).records()


class Blob:
    """A segmenter that marks a fixed shape in whatever it is shown."""

    def __init__(self):
        self.seen = []

    def describe(self):
        return {"name": "blob", "masks_from": "hr"}

    def generate_batch(self, images):
        for image in images:
            self.seen.append(image)
            mask = np.zeros(image.shape[:2], bool)
            mask[1:3, 2:5] = True
            mask[1, 4] = False
            yield records_of(mask)


def test_masks_from_lr_are_scaled_to_hr():
    """The segmenter sees the bicubic LR image; every number of the record is in the HR frame."""
    blob, image = Blob(), np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    source = MasksFromLR(blob, 4)
    (table,) = source.generate_batch([image])
    (record,) = table.records()
    np.testing.assert_array_equal(blob.seen[0], degrade(image, "bicubic", 4))
    mask = decode(counts_of(record["segmentation"], 24, 32), 24, 32)
    expected = np.zeros((24, 32), bool)
    expected[4:12, 8:20] = True
    expected[4:8, 16:20] = False
    np.testing.assert_array_equal(mask, expected)
    (again,) = MaskTable.of_records([record], 24, 32).records()  # area, box: from the runs themselves
    assert record == again
    assert record["point_coords"] == [[10.0, 6.0]]
    assert record["crop_box"] == [0, 0, 32, 24]
    assert source.describe() == {"name": "blob", "masks_from": "lr"}


def test_records_with_other_values_are_told(tmp_path):
    """Each is the fault of one file, so one image is skipped and the run continues."""
    (good,) = records_of(np.ones((4, 4), bool))
    faults = (
        {"predicted_iou": "high"},
        {"stability_score": [1]},
        {"crop_box": [0, 0, 4]},
        {"crop_box": ["a", 0, 4, 4]},
        {"point_coords": [1, 2]},
        {"point_coords": [[1]]},
        {"segmentation": {"size": 4, "counts": [0, 16]}},
        {"segmentation": {"size": [4, 4], "counts": [[1, 2], [3]]}},
    )
    for fault in faults:
        (tmp_path / "a.json").write_text(json.dumps([{**good, **fault}]))
        assert "expected" in str(ImportedMasks(tmp_path, 1).expect("a.png", 4, 4)), fault
    for fine in ({"predicted_iou": None}, {"point_coords": []}, {"crop_box": [0, 0, 4, 4], "point_coords": [[1, 2.5]]}):
        (tmp_path / "a.json").write_text(json.dumps([{**good, **fine}]))
        assert ImportedMasks(tmp_path, 1).expect("a.png", 4, 4) is None, fine


def test_imported_masks_match_by_name_and_size(tmp_path):
    """By path, then by stem; cut like the image; missing, foreign and damaged ones are told with the reason."""
    mask = np.zeros((26, 35), bool)
    mask[3:20, 4:34] = True
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text(json.dumps(records_of(mask)))
    (tmp_path / "b.json").write_text(json.dumps({"annotations": records_of(mask[:24, :32])}))
    (tmp_path / "bad.json").write_text('{"masks": [')
    (tmp_path / "png.json").write_text('[{"segmentation": [[1, 2]]}]')
    cut = records_of(mask)
    cut[0]["segmentation"]["counts"] = cut[0]["segmentation"]["counts"][:-1]
    (tmp_path / "cut.json").write_text(json.dumps(cut))
    source = ImportedMasks(tmp_path, scale=4)
    assert source.expect("sub/a.png", 24, 32) is None
    assert source.expect("other/b.jpg", 24, 32) is None
    assert "no masks: expected c.json" in source.expect("c.png", 24, 32)
    assert "made for 35 x 26 pixels (W x H), the image has 32 x 28" in source.expect("sub/a.png", 28, 32)
    assert "its masks bad.json: not readable as JSON" in source.expect("bad.png", 24, 32)
    assert not any(str(tmp_path) in source.expect(name, 24, 32) for name in ("c.png", "bad.png", "cut.png"))
    assert "COCO RLE (amg.py --convert-to-rle)" in source.expect("png.png", 24, 32)
    assert "damaged" in source.expect("cut.png", 24, 32)
    first, second = source.generate_batch([np.zeros((24, 32, 3), np.uint8)] * 2)
    for table in (first, second):
        np.testing.assert_array_equal(decode(table.counts[0], 24, 32), mask[:24, :32])
    before = source.describe()
    (tmp_path / "b.json").write_text("[]")
    assert ImportedMasks(tmp_path, 4).describe() != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected a folder with NAME\.json"):
        ImportedMasks(tmp_path / "empty", 4)


def hostile_files(good):
    """Name -> content: each was seen to end a run, or to leave something in the store that is no number."""
    record = json.dumps(good)

    def changed(**fault):
        return json.dumps([{**good, **fault}]).encode()

    return {
        "deep": b"[" * 100_000,
        "deep_value": record.replace("0.97", "[" * 900 + "]" * 900).join("[]").encode(),
        "bom_twice": b"\xef\xbb\xbf" * 2 + changed(),
        "surrogate_counts": changed(segmentation={"size": [64, 64], "counts": "\ud800"}),
        "surrogate_key": changed(segmentation={"\ud800": 1}),
        "surrogate_value": changed(predicted_iou="\ud800\x1b"),
        "huge": changed(predicted_iou=10**400),
        "infinite": b"[" + record.replace("0.97", "1e999").encode() + b"]",
        "infinite_point": changed(point_coords=[[float("inf"), 1]]),
        "huge_score": changed(stability_score=1e300),
        "huge_box": changed(crop_box=[0, 0, 1e30, 5]),
        "far_box": changed(crop_box=[2**31, 0, 5, 5]),
        "negative_box": changed(crop_box=[-1, 0, 5, 5]),
        "float_box": changed(crop_box=[0.5, 0, 5, 5]),
        "nan_box": changed(crop_box=[float("nan"), 0, 5, 5]),
        "bool_score": changed(predicted_iou=True),
        "huge_size": changed(segmentation={"size": [2**70, 1], "counts": [2**70]}),
        "large_size": changed(segmentation={"size": [65_000, 65_000], "counts": [65_000 * 65_000]}),
        "many_digits": b'[{"segmentation": {"size": [64, 64], "counts": [' + b"9" * 5000 + b"]}}]",
        "too_many": json.dumps([good] * 65_536).encode(),
    }


def test_a_strange_file_is_the_fault_of_one_image(tmp_path):
    """Its reason is short and printable, the run resumes with the others, and the store is sound."""
    (good,) = records_of(np.pad(np.ones((20, 30), bool), ((3, 41), (4, 30))))
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    hostile = hostile_files(good)
    sound = {"aaa": json.dumps([good]).encode(), "zzz": b"\xef\xbb\xbf" + json.dumps([good]).encode()}  # one BOM is allowed
    sound["sa1b"] = json.dumps(
        {"annotations": [{**good, "crop_box": [0.0, 0.0, 64.0, 64.0], "predicted_iou": float("nan")}]}
    ).encode()
    for number, (name, content) in enumerate({**hostile, **sound}.items()):
        (tmp_path / "masks" / f"{name}.json").write_bytes(content)
        (tmp_path / "images" / f"{name}.png").write_bytes(file_of(photo(64, 64, number), "PNG"))
    report = prepare(tmp_path / "images", tmp_path / "o.zarr", ImportedMasks(tmp_path / "masks", 4), PrepareConfig(tile=64))
    assert sorted(report.skipped) == sorted(f"{name}.png" for name in hostile)
    for name, reason in report.skipped.items():
        assert reason.startswith(f"its masks {name.removesuffix('.png')}.json: ")
        assert printable(reason) == reason
        assert len(reason) <= 401
    store = open_store(tmp_path / "o.zarr")
    assert report.masks == 3
    assert np.isfinite(store.table("masks/codes")).all()
    assert verify_store(tmp_path / "o.zarr", deep=True) == []


def test_a_file_that_changes_is_an_error_that_names_it(tmp_path):
    """What the digest says was read is what is used."""
    (tmp_path / "a.json").write_text(json.dumps(records_of(np.ones((4, 4), bool))))
    (tmp_path / "b.json").write_text("[]")
    source = ImportedMasks(tmp_path, 1)
    source.describe()
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ChangedError, match=r"a\.json: the file changed during the run"):
        source.expect("a.png", 4, 4)
    (tmp_path / "b.json").unlink()
    with pytest.raises(ChangedError, match=r"b\.json: the file changed during the run \(No such file"):
        source.expect("b.png", 4, 4)
    (tmp_path / "c.json").write_text("[]")
    assert "no masks" in source.expect("c.png", 4, 4)
    assert "no masks" in source.expect("../a/..", 4, 4)
    assert "no masks" in source.expect("", 4, 4)


def test_the_store_lies_apart_from_the_files_of_masks(tmp_path):
    """Its own documents end in .json, too: they would count as masks, and the same command would find other ones than before."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(file_of(photo(64, 64), "PNG"))
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(ConfigError, match="lies inside the folder of --import-masks"):
            prepare(tmp_path / "photos/a.png", tmp_path / "data/a.zarr", ImportedMasks(folder, 4), PrepareConfig(tile=64))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "link", "photos"]


def test_a_file_without_end_is_not_read(tmp_path, monkeypatch):
    """A sparse file of 30 GB is refused by its length; it does not hinder the digest."""
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(30 * 10**9)
    source = ImportedMasks(tmp_path, 1)
    assert len(source.describe()["masks_sha256"]) == 64
    assert "expected at most 134217728 bytes, got 30000000000" in source.expect("a.png", 4, 4)
    monkeypatch.setattr(mask_files, "_MOST_BYTES", 100)
    (tmp_path / "b.json").write_bytes(b" " * 101)
    assert "expected at most 100 bytes, got 101" in ImportedMasks(tmp_path, 1).expect("b.png", 4, 4)


def fuzz_masks(folder, seeds):
    """Counts of accepted and refused files; anything but a reason is a fault."""
    (good,) = records_of(np.pad(np.ones((10, 12), bool), ((3, 11), (4, 16))))
    path, counts = folder / "a.json", [0, 0]
    for seed in seeds:
        path.write_bytes(mask_json(random.Random(seed), good))
        source = ImportedMasks(folder, 4)
        source.describe()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reason = source.expect("a.png", 24, 32)
            counts[reason is not None] += 1
            if reason is not None:
                assert printable(reason) == reason, seed
                assert len(reason) <= 401, seed
                continue
            (table,) = source.generate_batch([np.zeros((24, 32, 3), np.uint8)])
            record = image_masks(table)
        assert np.isfinite(record.codes).all(), seed
        assert not np.isinf(record.point_hr).any(), seed
        assert (record.crop_box_hr >= 0).all(), seed
    return counts


def test_fuzzed_files_of_masks(tmp_path):
    accepted, refused = fuzz_masks(tmp_path, range(300))
    assert accepted > 30
    assert refused > 100


@pytest.mark.slow
def test_many_fuzzed_files_of_masks(tmp_path):
    """Other seeds each time; the one of a failure is in its message."""
    first = random.SystemRandom().randrange(10**9)
    fuzz_masks(tmp_path, range(first, first + 5000))


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_masks_are_found_in_any_normal_form(forms, tmp_path):
    """Images from a Mac, masks from Linux, and the other way round; two files of both forms keep their own."""
    for k, stem in enumerate(("Übung", "パ", "a/é")):
        image, mask = (unicodedata.normalize(form, stem) for form in forms)
        (tmp_path / "m" / mask).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / f"{mask}.json").write_text(json.dumps([]))
        assert ImportedMasks(tmp_path / "m", 4).expect(f"{image}.png", 8, 8 + 4 * k) is None
    both = [unicodedata.normalize(form, "ö") for form in forms]
    for name in both:
        (tmp_path / "m" / f"{name}.json").write_text("[]")
    files = JsonFolder(tmp_path / "m")
    assert [files.find(f"{name}.png")[0] for name in both] == [f"{name}.json" for name in both]


def test_a_closed_folder_of_masks_is_an_error(tmp_path, monkeypatch):
    """Its images would be listed as images without masks."""
    for name in ("mine/a.json", "theirs/b.json"):
        (tmp_path / "m" / name).parent.mkdir(parents=True)
        (tmp_path / "m" / name).write_text("[]")
    real = os.scandir

    def closed(path):
        if os.path.basename(path) == "theirs":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ConfigError, match="theirs: a folder that cannot be read .Permission denied."):
        ImportedMasks(tmp_path / "m", 4)
