"""Masks of other tools: COCO files, polygons and label maps; what is damaged or belongs to another image is named."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from samdiff import open_store
from samdiff.errors import ConfigError, ImageError, StoreError
from samdiff.pipeline.encode.rle import decode, encode, to_coco
from samdiff.pipeline.mask_files import coco_file
from samdiff.pipeline.mask_files.coco_file import CocoFile
from samdiff.pipeline.mask_files.imported import ImportedMasks
from samdiff.pipeline.prepare.run import PrepareConfig, prepare

from ..prepare.test_reuse import folder_of

MASK = np.zeros((48, 72), bool)
MASK[5:20, 10:40] = True
IMAGE = {"id": 7, "file_name": "0.png", "height": 48, "width": 72}


def coco(path: Path, *annotations: Any, images: list | None = None) -> Path:
    listed = [IMAGE] if images is None else images
    path.write_text(
        json.dumps({"licenses": [], "images": listed, "annotations": [{"image_id": 7, **each} for each in annotations]})
    )
    return path


def masks_of(path: Path, name: str = "0.png", height: int = 48, width: int = 72) -> list[np.ndarray]:
    source = ImportedMasks(path, 4)
    assert source.expect(name, height, width) is None
    (table,) = source.generate_batch([np.zeros((height, width, 3), np.uint8)])
    return [decode(runs, height, width) for runs in table.counts]


def why(path: Path, name: str = "0.png", height: int = 48, width: int = 72) -> str:
    reason = ImportedMasks(path, 4).expect(name, height, width)
    assert reason is not None
    return reason


def test_every_kind_of_segmentation(tmp_path: Path) -> None:
    """Compressed and uncompressed RLE, one polygon, and two of one object; in the order of the file."""
    rectangle = [10, 5, 40, 5, 40, 20, 10, 20]
    path = coco(
        tmp_path / "c.json",
        {"id": 9, "segmentation": to_coco(encode(MASK), 48, 72)},
        {"id": 3, "segmentation": {"size": [48, 72], "counts": encode(MASK).tolist()}, "iscrowd": 1, "category_id": 4},
        {"id": 4, "segmentation": [rectangle]},
        {"id": 5, "segmentation": [rectangle, [0, 0, 72, 0, 72, 4, 0, 4]], "score": 0.5},
    )
    *same, both = masks_of(path)
    for mask in same:
        np.testing.assert_array_equal(mask, MASK)
    expected = MASK.copy()
    expected[:4] = True
    np.testing.assert_array_equal(both, expected)


def test_masks_of_the_uncropped_image_are_cut_like_it(tmp_path: Path) -> None:
    images = [{**IMAGE, "height": 50, "width": 75}]
    path = coco(tmp_path / "c.json", {"segmentation": [[60, 40, 75, 40, 75, 50, 60, 50]]}, images=images)
    (mask,) = masks_of(path)
    assert np.argwhere(mask).min(axis=0).tolist() == [40, 60]
    assert mask.sum() == 8 * 12


def test_images_are_found_by_name_then_by_stem(tmp_path: Path) -> None:
    """`a.png` is not `a.jpg` while both are listed; a name that several fit is refused."""
    images = [{**IMAGE, "id": k, "file_name": name} for k, name in enumerate(("a.png", "a.jpg", "deep/b.png", "c.tif"))]
    source = CocoFile(coco(tmp_path / "c.json", images=images))
    found = {name: source.find(name)[0] for name in ("a.jpg", "deep/b.jpg", "other/c.png", "b.png", "none.png", "")}
    assert found == {
        "a.jpg": "a.jpg",
        "deep/b.jpg": "deep/b.png",
        "other/c.png": "c.tif",
        "b.png": None,
        "none.png": None,
        "": None,
    }
    assert "several images of c.json fit, such as a.png and a.jpg" in why(tmp_path / "c.json", "a.webp")


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [48, 72], "counts": "abc"}, "counts: not a COCO RLE string|runs cover"),
        ({"size": [48, 72], "counts": [5, 6]}, "runs cover 11 pixels"),
        ({"size": [24, 36], "counts": [24 * 36]}, r"a mask of 36 x 24 pixels \(W x H\) in a file of 72 x 48"),
        ([[1, 1, 90, 5, 3, 9]], r"\(90, 5\) lies outside the image of 72 x 48"),
        ([[1, 1, 5, 5]], "at least 3 points"),
        ([3], "at least 3 points"),
        (None, "expected records with `segmentation`"),
        ("text", "expected records with `segmentation`"),
    ],
)
def test_a_damaged_annotation_is_the_fault_of_its_image(segmentation: Any, reason: str, tmp_path: Path) -> None:
    path = coco(tmp_path / "c.json", {"segmentation": segmentation})
    with pytest.raises(AssertionError):
        masks_of(path)
    assert __import__("re").search(reason, why(path)), why(path)
    assert why(path).startswith("its masks 0.png: ")


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    path = coco(tmp_path / "c.json", {"segmentation": to_coco(encode(MASK), 48, 72)})
    assert why(path, height=64) == "its masks 0.png: made for 72 x 48 pixels (W x H), the image has 72 x 64"
    without = coco(tmp_path / "d.json", {"segmentation": [[1, 1, 9, 1, 9, 9]]}, images=[{"id": 7, "file_name": "0.png"}])
    assert "polygons need the image's height and width in the file" in why(without)
    odd = coco(tmp_path / "e.json", images=[{**IMAGE, "height": "48"}])
    assert "expected positive integers" in why(odd)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"images": [IMAGE, {**IMAGE, "id": 8}], "annotations": []}, r"lists the image 0\.png twice \(id 7 and 8\)"),
        (
            {"images": [IMAGE, {**IMAGE, "file_name": "1.png"}], "annotations": []},
            r"lists the id 7 twice \(0\.png and 1\.png\)",
        ),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 9}]},
            "annotations of images that it does not list: 1, such as image_id 9",
        ),
        ({"images": [{"id": 7}], "annotations": []}, "expected a file_name for id 7"),
        ({"images": [{"file_name": "a"}], "annotations": []}, "expected id as an integer"),
        ({"images": [IMAGE]}, "expected a COCO file"),
        ({"images": {}, "annotations": []}, "not readable as JSON"),
        ({"images": [3], "annotations": []}, "images: expected objects"),
        ({"images": [None], "annotations": []}, "expected objects, got null"),
        ([], "not readable as JSON"),
        (b'{"images": [', "not readable as JSON"),
        (b'{"images": [],, "annotations": []}', "not readable as JSON"),
        (b'{"images": [], "annotations": [],}', "not readable as JSON"),
        (b'{"images": [], "annotations": []} {', "text after the end"),
        (b'{"other": ' + b"[" * 100_000, "not readable as JSON"),
        (b'{"images": [' + b"[" * 100_000, "not readable as JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "not readable as JSON"),
    ],
)
def test_a_file_that_is_no_coco_file_is_one_error(content: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ConfigError, match=problem) as caught:
        CocoFile(path)
    assert str(caught.value).startswith(f"--import-masks {path}: ")


def test_size_and_kind_of_the_file_are_checked_first(tmp_path: Path, monkeypatch) -> None:
    path = coco(tmp_path / "c.json")
    monkeypatch.setattr(coco_file, "_MOST_BYTES", 10)
    with pytest.raises(ConfigError, match="expected at most 10 bytes"):
        CocoFile(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        ImportedMasks(tmp_path / "none.json", 4)


def test_label_maps_are_masks(tmp_path: Path) -> None:
    """Grey of 8 and 16 bits, and a palette; the values in ascending order, 0 is no mask."""
    labels = np.zeros((50, 75), np.uint16)
    labels[10:20, :9], labels[30:, 40:], labels[:5] = 300, 2, 1000
    expected = [(labels == value)[:48, :72] for value in (2, 300, 1000)]
    palette = Image.fromarray((labels % 255).astype(np.uint8), "L").convert("P")
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep" / "a.png"), labels)
    cv2.imwrite(str(tmp_path / "b.png"), (labels // 4).astype(np.uint8))
    palette.save(tmp_path / "c.png")
    for name, found in (("deep/a.jpg", expected), ("b.png", [expected[1], expected[2]])):
        np.testing.assert_array_equal(masks_of(tmp_path, name), found)
    assert len(masks_of(tmp_path, "c.png")) == 3
    assert "no masks: expected d.png in the folder of --import-masks" in why(tmp_path, "d.png")


def test_label_maps_that_do_not_fit_are_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "rgb.png"), np.zeros((48, 72, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((24, 36), np.uint8))
    cv2.imwrite(str(tmp_path / "cut.png"), np.random.default_rng(0).integers(0, 255, (48, 72), np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image")
    assert "expected a label map of one channel (grey of 8 or 16 bits, or palette), got mode RGB" in why(tmp_path, "rgb.png")
    assert "made for 36 x 24 pixels (W x H), the image has 72 x 48" in why(tmp_path, "small.png")
    assert why(tmp_path, "cut.png").startswith("its masks cut.png: ")
    assert why(tmp_path, "text.png").startswith("its masks text.png: ")


def test_files_that_state_their_image_are_found_by_it(tmp_path: Path) -> None:
    """As SA-1B's and ours; a file is never taken for another image, and two of one image are an error."""

    def sa1b(path: str, name: str, mask: np.ndarray) -> None:
        entry = {"image_id": 1, "file_name": name, "height": 48, "width": 72}
        records = [{"segmentation": to_coco(encode(mask), 48, 72)}]
        (tmp_path / path).write_text(json.dumps({"image": entry, "annotations": records}))

    sa1b("a.json", "a.png", MASK)
    sa1b("deep_a.json", "deep/a.png", ~MASK)
    sa1b("z.json", "sa_1.jpg", MASK)
    sa1b("x.json", "y.png", MASK)
    np.testing.assert_array_equal(masks_of(tmp_path, "deep/a.png"), [~MASK])
    np.testing.assert_array_equal(masks_of(tmp_path, "a.png"), [MASK])
    np.testing.assert_array_equal(masks_of(tmp_path, "sa_1.jpg"), [MASK])
    assert "its masks x.json: states that its image is y.png" in why(tmp_path, "x.png")
    sa1b("again.json", "a.png", MASK)
    with pytest.raises(ConfigError, match=r"a\.json and again\.json both state the image a\.png"):
        ImportedMasks(tmp_path, 4)


def test_missing_and_superfluous_masks_are_listed(tmp_path: Path, caplog) -> None:
    """An image without masks is skipped, or ends the run with `strict`; it is never segmented. Masks without an image are a warning."""
    source = folder_of(tmp_path / "photos", range(3))
    images = [{**IMAGE, "id": k, "file_name": f"{k}.png"} for k in (0, 1, 5, 6)]
    path = coco(tmp_path / "c.json", {"image_id": 0, "segmentation": to_coco(encode(MASK), 48, 72)}, images=images)
    config = PrepareConfig(scale=4, tile=32)
    with caplog.at_level(logging.WARNING):
        report = prepare(source, tmp_path / "a.zarr", ImportedMasks(path, 4), config)
    assert report.skipped == {"2.png": "no masks: expected 2.png in the COCO file c.json"}
    assert "masks of 2 images that are not in the source are not used: 5.png, 6.png" in caplog.text
    store = open_store(tmp_path / "a.zarr")
    assert store.table("images/n_masks").tolist() == [1, 0, 0]
    assert store.attrs["segmenter"]["name"] == "imported"
    with pytest.raises(ImageError, match=r"2\.png: no masks"):
        prepare(source, tmp_path / "b.zarr", ImportedMasks(path, 4), config, strict=True)
    caplog.clear()
    prepare(source, tmp_path / "c.zarr", ImportedMasks(path, 4), config, limit=2)
    assert "not in the source" not in caplog.text
    with pytest.raises(
        StoreError, match="make a new store with --out NEW.zarr and the same --import-masks; nothing is segmented"
    ):
        prepare(source, tmp_path / "a.zarr", ImportedMasks(path, 4), replace(config, tile=16))  # --reuse is for segmenters
