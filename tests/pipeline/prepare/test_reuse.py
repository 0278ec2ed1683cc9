"""Masks of other stores: taken where pixels and segmenter are equal, and nowhere else."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ConfigError, StoreError
from samdiff.pipeline.export.mask_export import export_masks
from samdiff.pipeline.mask_files.imported import ImportedMasks
from samdiff.pipeline.masks.adapters import MasksFromLR
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.prepare.reuse import ReusedStore, plan_reuse, reuse_differences
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.scan import scan

from ..shards.test_frozen import FROZEN, FrozenBoxes
from .test_prepare import write

CONFIG = PrepareConfig(scale=2, tile=32)


class Counting(FrozenBoxes):
    """The frozen store's boxes; counts the images that it was shown."""

    def __init__(self, **facts: object) -> None:
        self.facts, self.seen = facts, 0

    def describe(self) -> dict[str, Any]:
        return {"name": "frozen-boxes", **self.facts}

    def generate_batch(self, images):
        yield from super().generate_batch(self._counted(images))

    def _counted(self, images):
        for image in images:
            self.seen += 1
            yield image


def photo(seed: int, height: int = 48, width: int = 72) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 250, (6, 9, 3), np.uint8)
    return np.minimum(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 250)  # white has no masks


def folder_of(path: Path, seeds: range, height: int = 48, width: int = 72) -> Path:
    for seed in seeds:
        write(path / f"{seed}.png", photo(seed, height, width))
    return path


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def test_only_new_images_are_segmented_and_the_bytes_are_those_of_a_run_without_reuse(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", range(4))
    prepare(source, tmp_path / "old.zarr", Counting(), CONFIG)
    folder_of(source, range(4, 6))
    (source / "2.png").rename(source / "renamed.png")
    shutil.copy(source / "0.png", source / "copy.png")
    lines: list[str] = []
    masks = Counting()
    report = prepare(source, tmp_path / "new.zarr", masks, CONFIG, reuse=[tmp_path / "old.zarr"], report=lines.append)
    prepare(source, tmp_path / "plain.zarr", Counting(), CONFIG)
    assert masks.seen == report.segmented == 2
    assert report.reused == {str(tmp_path / "old.zarr"): 5}
    assert lines == [f"masks of 5 of 7 images reused from {tmp_path / 'old.zarr'}"]
    assert files(tmp_path / "new.zarr") == files(tmp_path / "plain.zarr")


@pytest.mark.parametrize(
    "config",
    [
        PrepareConfig(scale=2, tile=16, stride=8),
        PrepareConfig(scale=2, tile=32, degradation="blind", seed=3),
        PrepareConfig(scale=4, tile=48),
    ],
)
def test_another_tile_stride_degradation_or_scale_keeps_the_masks(config: PrepareConfig, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", range(3))
    prepare(source, tmp_path / "old.zarr", Counting(), CONFIG)
    masks = Counting()
    prepare(source, tmp_path / "new.zarr", masks, config, reuse=[tmp_path / "old.zarr"])
    prepare(source, tmp_path / "plain.zarr", Counting(), config)
    assert masks.seen == 0
    assert files(tmp_path / "new.zarr") == files(tmp_path / "plain.zarr")


def test_the_same_pixels_in_another_file_are_found_and_another_crop_is_segmented(tmp_path: Path) -> None:
    """Pixels decide, not files: a PNG saved again is the same image; 50 rows at x4 are cropped to 48."""
    source = folder_of(tmp_path / "photos", range(1))
    write(source / "odd.png", photo(9, 50, 72))
    prepare(source, tmp_path / "old.zarr", Counting(), CONFIG)
    image = cv2.imread(str(source / "0.png"))
    assert cv2.imwrite(str(source / "0.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    masks, lines = Counting(), []
    config = PrepareConfig(scale=4, tile=32)
    prepare(source, tmp_path / "new.zarr", masks, config, reuse=[tmp_path / "old.zarr"], report=lines.append)
    assert masks.seen == 1
    assert lines[0].startswith(f"masks of 1 of 2 images reused from {tmp_path / 'old.zarr'}; it has the files of 1 more, but")


def test_one_other_pixel_is_another_image(tmp_path: Path) -> None:
    """In the first tile, in the last one, and with equal first tiles."""
    source = folder_of(tmp_path / "photos", range(1))
    prepare(source, tmp_path / "old.zarr", Counting(), CONFIG)
    reused = ReusedStore(open_store(tmp_path / "old.zarr"))
    pixels = photo(0)
    assert reused.find(pixels) == 0
    assert reused.find(pixels[:, :-2]) is None
    for y, x in ((0, 0), (47, 71), (10, 60)):
        other = pixels.copy()
        other[y, x, 1] ^= 1
        assert reused.find(other) is None


def test_the_frozen_store_of_the_first_release_can_be_reused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(FROZEN) as archive:
        archive.extractall(tmp_path)
    masks = Counting()
    prepare(tmp_path / "source", tmp_path / "new.zarr", masks, PrepareConfig(scale=2, tile=16), reuse=[tmp_path / "store.zarr"])
    assert masks.seen == 0
    before, now = open_store(tmp_path / "store.zarr"), open_store(tmp_path / "new.zarr")
    np.testing.assert_array_equal(before.table("masks/codes"), now.table("masks/codes"))
    np.testing.assert_array_equal(before.table("masks/rle"), now.table("masks/rle"))


def test_another_segmenter_is_an_error_with_one_line_per_store(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", range(2))
    prepare(source, tmp_path / "a.zarr", Counting(points_per_side=32, weights={"sha256": "a", "origin": "x"}), CONFIG)
    prepare(source, tmp_path / "b.zarr", Counting(points_per_side=16, weights={"sha256": "b"}), CONFIG)
    masks = Counting(points_per_side=32, weights={"sha256": "b"})
    with pytest.raises(ConfigError) as caught:
        prepare(source, tmp_path / "c.zarr", masks, CONFIG, reuse=[tmp_path / "a.zarr", tmp_path / "b.zarr"])
    first, second, advice = str(caught.value).split("\n")
    assert "a.zarr" in first
    assert "segmenter.weights: was 'a', now 'b'" in first
    assert "b.zarr" in second
    assert "segmenter.points_per_side: was 16, now 32" in second
    assert "leave out" in advice
    assert masks.seen == 0
    assert not (tmp_path / "c.zarr.staging").exists()
    unknown = Counting(points_per_side=32, weights={"sha256": None})
    with pytest.raises(ConfigError, match="SHA-256 is not known"):
        prepare(source, tmp_path / "c.zarr", unknown, CONFIG, reuse=[tmp_path / "a.zarr"])
    again = Counting(points_per_side=32, weights={"sha256": "a", "origin": "another place"})  # the same weights
    assert prepare(source, tmp_path / "c.zarr", again, CONFIG, reuse=[tmp_path / "a.zarr"]).segmented == 0


def test_nothing_to_reuse_is_an_error_before_anything_is_segmented_but_not_when_a_run_is_resumed(tmp_path: Path) -> None:
    prepare(folder_of(tmp_path / "a", range(2)), tmp_path / "a.zarr", Counting(), CONFIG)
    other, masks = folder_of(tmp_path / "b", range(5, 8)), Counting()
    with pytest.raises(StoreError, match="has none of the 3 images"):
        prepare(other, tmp_path / "b.zarr", masks, CONFIG, reuse=[tmp_path / "a.zarr"])
    assert masks.seen == 0
    assert not (tmp_path / "b.zarr.staging").exists()

    class Dying(Counting):
        def generate_batch(self, images):
            yield next(super().generate_batch(images))
            raise KeyboardInterrupt

    shutil.copy(tmp_path / "a" / "0.png", other)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepare(other, tmp_path / "b.zarr", Dying(), CONFIG, reuse=[tmp_path / "a.zarr"])
    report = prepare(other, tmp_path / "b.zarr", Counting(), CONFIG, reuse=[tmp_path / "a.zarr"])
    assert (report.images, report.segmented, report.reused) == (4, 1, {str(tmp_path / "a.zarr"): 0})
    assert prepare(other, tmp_path / "b.zarr", Counting(), CONFIG, reuse=[tmp_path / "gone.zarr"]).already_complete


def test_masks_of_lr_are_never_taken_across_scales(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", range(2))
    prepare(source, tmp_path / "old.zarr", MasksFromLR(Counting(), 2), CONFIG)
    with pytest.raises(ConfigError, match="scale: was 2, now 4"):
        prepare(
            source, tmp_path / "new.zarr", MasksFromLR(Counting(), 4), PrepareConfig(tile=32), reuse=[tmp_path / "old.zarr"]
        )
    masks = Counting()
    prepare(
        source,
        tmp_path / "new.zarr",
        MasksFromLR(masks, 2),
        PrepareConfig(scale=2, tile=16),
        reuse=[tmp_path / "old.zarr"],
    )
    assert masks.seen == 0
    of_lr = {"scale": 2, "degradation": {"kind": "bicubic"}, "segmenter": {"name": "x", "masks_from": "lr"}}
    assert reuse_differences({**of_lr, "degradation": {"kind": "blind"}}, of_lr) == [
        "degradation.kind: was 'blind', now 'bicubic'"
    ]
    assert reuse_differences({**of_lr, "segmenter": 3}, of_lr)  # an untrusted store


def test_a_damaged_store_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", range(2))
    prepare(source, tmp_path / "old.zarr", Counting(), CONFIG)
    shard = tmp_path / "old.zarr" / "tiles" / "hr" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="tiles/hr.*or leave out this --reuse"):
        prepare(source, tmp_path / "new.zarr", Counting(), CONFIG, reuse=[tmp_path / "old.zarr"])
    assert not list(tmp_path.glob("new.zarr*"))  # nothing was saved, so nothing begun is left


def test_a_dry_run_counts_equal_files(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", range(3))
    prepare(source, tmp_path / "old.zarr", Counting(weights={"sha256": "a"}), CONFIG)
    folder_of(source, range(3, 5))
    settings = CONFIG.as_attributes({"name": "frozen-boxes", "weights": None})  # not downloaded yet
    (line,) = plan_reuse([tmp_path / "old.zarr"], settings, scan(source))
    assert line == f"reuse   {tmp_path / 'old.zarr'}: has the files of 3 of 5 images"


def test_the_command_counts_them_in_its_document(tmp_path: Path, monkeypatch, capsys) -> None:
    from samdiff.cli import main
    from samdiff.pipeline.masks import generator

    monkeypatch.setattr(generator, "MaskGenerator", lambda *_, **__: Counting())
    source = folder_of(tmp_path / "photos", range(2))
    command = ["prepare", str(source), "--tile", "32", "--scale", "2", "--sam", "mobile_sam", "--json"]
    for out, more in (("a", []), ("b", ["--reuse", str(tmp_path / "a.zarr")])):
        monkeypatch.setattr("sys.argv", ["samdiff", *command, "--out", str(tmp_path / f"{out}.zarr"), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    done = capsys.readouterr()
    last = json.loads(done.out[done.out.rindex("\n{") :] if "\n{" in done.out else done.out)
    assert last["reused"] == {str(tmp_path / "a.zarr"): 2}
    assert last["segmented"] == 0
    assert "masks of 2 of 2 images reused from" in done.err


def test_masks_of_mobile_sam_are_reused_and_come_back_from_files(mobile_sam, tmp_path: Path, monkeypatch) -> None:
    """The real segmenter on a crop of a photograph: with other tiles the same masks, and through a COCO file the same codes and labels."""
    from skimage import data

    generator = MaskGenerator(mobile_sam, points_per_side=3)
    write(tmp_path / "photos" / "cat.png", data.chelsea()[60:188, 80:240])
    config = PrepareConfig(scale=4, tile=128)
    prepare(tmp_path / "photos", tmp_path / "a.zarr", generator, config)
    before = open_store(tmp_path / "a.zarr")
    assert before.n_masks > 0
    monkeypatch.setattr(generator, "generate_batch", lambda images: (pytest.fail("segmented") for _ in images))
    report = prepare(
        tmp_path / "photos", tmp_path / "b.zarr", generator, PrepareConfig(scale=4, tile=64), reuse=[tmp_path / "a.zarr"]
    )
    assert report.reused == {str(tmp_path / "a.zarr"): 1}
    export_masks(open_store(tmp_path / "b.zarr"), tmp_path / "masks")
    prepare(tmp_path / "photos", tmp_path / "c.zarr", ImportedMasks(tmp_path / "masks" / "coco.json", 4), config)
    after = open_store(tmp_path / "c.zarr")
    for table in ("masks/codes", "masks/rle", "masks/point_hr", "masks/predicted_iou", "masks/stability", "masks/box_hr"):
        np.testing.assert_array_equal(before.table(table), after.table(table), err_msg=table)
    np.testing.assert_array_equal(
        before.read_tiles("labels", range(len(before))), after.read_tiles("labels", range(len(after)))
    )
