"""From images to a store: aligned everywhere, resumable, deterministic, clear about what it cannot use."""

import logging
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from samdiff import ShardDataset, open_store, rope_table
from samdiff.errors import BusyError, ImageError, StoreError
from samdiff.pipeline.prepare.run import PrepareConfig, plan_prepare, prepare
from samdiff.pipeline.prepare.scan import scan
from samdiff.pipeline.storage.local import LocalStore
from samdiff.pipeline.stream.dataset import e_sam

SETTINGS = PrepareConfig(scale=4, tile=64)


def position_image(height: int, width: int, blue: int) -> np.ndarray:
    """Red = row, green = column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(y, blue)], axis=-1).astype(np.uint8)


def position_masks(height: int, width: int) -> np.ndarray:
    """bool [5, H, W]: columns, rows over them, a corner, an empty mask and a frame; overlapping, functions of the place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x // 24 % 3 == 1, y // 40 % 2 == 1, (y < 20) & (x < 30), x < 0, (x > 7) & (x < 13) & (y % 32 < 9)])


class PositionMasks:
    """A segmenter that knows where it is: the masks of `position_masks` for any image. Counts what it was shown."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self.fail_after = fail_after

    def describe(self):
        return {"name": "position", "versions": {"position": "1"}}

    def generate_batch(self, images):
        for image in images:
            height, width = image.shape[:2]
            np.testing.assert_array_equal(image[..., 0], np.mgrid[:height, :width][0])  # the whole image, not a tile
            if self.fail_after is not None and len(self.seen) >= self.fail_after:
                raise KeyboardInterrupt
            self.seen.append((height, width))
            yield [
                {
                    "segmentation": {"size": [height, width], "counts": _runs(mask)},
                    "predicted_iou": 0.9 + number / 100,
                    "stability_score": 0.95,
                    "point_coords": [[float(number), 2.0]],
                    "crop_box": [0, 0, width, height],
                }
                for number, mask in enumerate(position_masks(height, width))
            ]


def _runs(mask: np.ndarray) -> list[int]:
    """COCO runs by the definition, one pixel at a time: column-major, zeros first."""
    runs, current = [0], False
    for value in mask.T.ravel().tolist():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two images that fit (one with sides that are no multiples of 4), one too small, one that is no image."""
    folder = tmp_path / "photos"
    write(folder / "b.png", position_image(163, 190, 10))
    write(folder / "deep" / "a ü.png", position_image(100, 130, 20))
    write(folder / "c small.png", position_image(60, 90, 30))
    (folder / "d.png").write_text("not a picture")
    return folder


def test_alignment_through_every_stage(photos, tmp_path):
    """HR, LR, labels and E_SAM of every tile, and of every crop, agree about where they are (what the official code breaks)."""
    prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    store = open_store(tmp_path / "x.zarr")
    sizes = {10: (160, 188), 20: (100, 128)}
    expected_labels, expected_e = {}, {}
    for blue, (height, width) in sizes.items():
        masks, table = position_masks(height, width), rope_table(height, width).astype(np.float64)
        labels = np.zeros((height, width), int)
        for number, mask in enumerate(masks, start=1):
            labels[mask] = number
        means = np.array([0.0, *(table[mask].mean() if mask.any() else 0.0 for mask in masks)])
        expected_labels[blue], expected_e[blue] = labels, means[labels]
    for patch in (None, 32):
        data = ShardDataset(store, patch=patch, seed=1)
        batch = data.batch(0, 120)
        table, offset = (torch.from_numpy(values) for values in data.codes("mask"))
        e = e_sam(torch.from_numpy(batch["labels"]), torch.from_numpy(batch["image"]), table, offset)[:, 0].numpy()
        for hr, lr, labels, code in zip(batch["hr"], batch["lr"], batch["labels"], e, strict=True):
            y, x, blue = hr[..., 0].astype(int), hr[..., 1].astype(int), int(hr[0, 0, 2])
            np.testing.assert_array_equal(labels, expected_labels[blue][y, x])
            np.testing.assert_allclose(code, expected_e[blue][y, x], atol=1e-5)
            blocks = hr[..., :2].reshape(len(lr), 4, len(lr), 4, 2).mean(axis=(1, 3))  # of a ramp, LR is the mean
            inside = (blocks > 6).all(axis=-1) & (blocks < np.array(sizes[blue]) - 7).all(axis=-1)
            assert np.abs(lr[..., :2] - blocks)[inside].max() <= 0.5
            assert np.abs(lr[..., :2] - blocks).max() < 2.5  # at the image's border the ramp is mirrored


def test_tiles_cover_the_image_and_say_where_they_are(photos, tmp_path):
    """`place` is the corner of the tile in its image; together the tiles cover every pixel."""
    prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    store = open_store(tmp_path / "x.zarr")
    place = store.table("tiles/place")
    covered = {image: np.zeros((int(h), int(w)), bool) for image, (h, w) in enumerate(_sizes(store)) if h}
    for (image, y, x), hr in zip(place, store.read_tiles("hr", range(len(store))), strict=True):
        np.testing.assert_array_equal(hr[..., :2], position_image(256, 256, 0)[y : y + 64, x : x + 64, :2])
        assert (y % 4, x % 4) == (0, 0)
        covered[image][y : y + 64, x : x + 64] = True
    assert all(found.all() for found in covered.values())
    names = store.names()
    assert names == ["b.png", "c small.png", "d.png", "deep/a ü.png"]
    assert store.table("images/n_tiles").tolist() == [9, 0, 0, 4]


def _sizes(store):
    return zip(store.table("images/height"), store.table("images/width"), strict=True)


def test_masks_are_kept_as_found(photos, tmp_path):
    """The overlapping masks come back bit for bit, with area, box, scores and codes of independent formulas."""
    prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    store = open_store(tmp_path / "x.zarr")
    expected, table = position_masks(160, 188), rope_table(160, 188).astype(np.float64)
    found = store.masks(0)
    assert [runs.tolist() for runs in found] == [_runs(mask) for mask in expected]
    first, count = int(store.table("images/first_mask")[0]), int(store.table("images/n_masks")[0])
    mine = slice(first, first + count)
    np.testing.assert_array_equal(store.table("masks/area")[mine], expected.sum(axis=(1, 2)))
    assert store.table("masks/box_hr")[mine][2].tolist() == [0, 0, 30, 20]
    np.testing.assert_allclose(store.table("masks/predicted_iou")[mine], 0.9 + np.arange(5) / 100, rtol=1e-6)
    means = np.array([table[mask].mean() if mask.any() else 0.0 for mask in expected])
    shares = means * expected.sum(axis=(1, 2)) / (160 * 188)
    np.testing.assert_allclose(store.table("masks/codes")[mine], np.stack([means, shares], axis=1), atol=1e-6)
    assert store.masks(1) == []


def test_what_cannot_be_used_is_listed_with_its_reason(photos, tmp_path, caplog):
    """Too small, and no image at all; the others are used. --strict stops at the first."""
    with caplog.at_level(logging.WARNING):
        report = prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    assert sorted(report.skipped) == ["c small.png", "d.png"]
    assert "smaller than a tile: 90 x 60 pixels" in report.skipped["c small.png"]
    assert open_store(tmp_path / "x.zarr").skipped() == report.skipped
    assert "skipped c small.png" in caplog.text
    with pytest.raises(ImageError, match=r"(c small|d)\.png: .*--strict"):
        prepare(photos, tmp_path / "y.zarr", PositionMasks(), SETTINGS, strict=True)
    with pytest.raises(StoreError, match="not finished"):
        open_store(tmp_path / "y.zarr")


def test_interrupted_and_run_again(photos, tmp_path):
    """A finished image is not segmented again, and the bytes are those of an uninterrupted run."""
    whole = tmp_path / "whole.zarr"
    prepare(photos, whole, PositionMasks(), SETTINGS)
    part = tmp_path / "part.zarr"
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, part, PositionMasks(fail_after=1), SETTINGS)
    assert not part.exists()
    plan = plan_prepare(scan(photos), part, SETTINGS.as_attributes(PositionMasks().describe()))
    assert len([item for item in plan.missing if "ü" in item.image_file.name or item.image_file.name == "b.png"]) == 1
    again = PositionMasks()
    prepare(photos, part, again, SETTINGS)
    assert len(again.seen) == 1
    assert _bytes(part) == _bytes(whole)
    assert not list(tmp_path.glob("*.staging"))
    third = PositionMasks()
    report = prepare(photos, part, third, SETTINGS)
    assert (report.already_complete, third.seen) == (True, [])
    assert _bytes(part) == _bytes(whole)


def test_damaged_records_are_made_anew_all_at_once(photos, tmp_path, monkeypatch):
    """One run finds them all, the next one makes them: the bytes are those of an uninterrupted run."""
    whole, part = tmp_path / "whole.zarr", tmp_path / "part.zarr"
    prepare(photos, whole, PositionMasks(), SETTINGS)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("samdiff.pipeline.prepare.run.write_store", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare(photos, part, PositionMasks(), SETTINGS)
    records = sorted((tmp_path / "part.zarr.staging/images").glob("*.npz"))
    assert len(records) == 2
    for record in records:
        record.write_bytes(b"PK\x03\x04")
    with pytest.raises(
        StoreError, match=r"run the same command again to make new ones \(2 of \d+ images, the others are kept\)"
    ):
        prepare(photos, part, PositionMasks(), SETTINGS)
    prepare(photos, part, PositionMasks(), SETTINGS)
    assert _bytes(part) == _bytes(whole)


def _bytes(path: Path) -> dict[str, bytes]:
    folder = LocalStore(path)
    return {key: folder.get(key) for key in folder.list_keys()}


def test_killed_while_the_shards_were_written(photos, tmp_path, monkeypatch):
    """A writer that dies half-way leaves no store; the same command ends in the same bytes without segmenting."""
    whole, part = tmp_path / "whole.zarr", tmp_path / "part.zarr"
    prepare(photos, whole, PositionMasks(), SETTINGS)
    writes = len(_bytes(whole))
    real, count = LocalStore.set, [0]
    for stop in (3, writes // 2, writes - 1):

        def dying(self, key, value, stop=stop):
            count[0] += 1
            if count[0] > stop:
                raise OSError(28, "No space left on device", key)
            real(self, key, value)

        count[0] = 0
        monkeypatch.setattr(LocalStore, "set", dying)
        with pytest.raises(OSError, match="No space left"):
            prepare(photos, part, PositionMasks(), SETTINGS)
        monkeypatch.setattr(LocalStore, "set", real)
        with pytest.raises(StoreError, match="not finished"):
            open_store(part)
    again = PositionMasks()
    prepare(photos, part, again, SETTINGS)
    assert again.seen == []
    assert _bytes(part) == _bytes(whole)


def test_a_zip_gives_the_same_tiles_as_its_folder(photos, tmp_path):
    """Members are read without unpacking."""
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(photos.rglob("*.png")):
            file.write(path, path.relative_to(photos).as_posix())
    prepare(photos, tmp_path / "a.zarr", PositionMasks(), SETTINGS)
    prepare(archive, tmp_path / "b.zarr", PositionMasks(), SETTINGS)
    ours, theirs = _bytes(tmp_path / "a.zarr"), _bytes(tmp_path / "b.zarr")
    assert [
        key for key in ours if ours[key] != theirs[key] and key != "zarr.json" and "note" not in key and "record" not in key
    ] == []


def test_other_settings_on_a_begun_or_finished_store_are_refused(photos, tmp_path):
    """The difference is shown, and nothing is lost."""
    out = tmp_path / "x.zarr"
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, out, PositionMasks(fail_after=1), SETTINGS)
    with pytest.raises(StoreError, match="tile: was 64, now 32"):
        prepare(photos, out, PositionMasks(), PrepareConfig(tile=32))
    prepare(photos, out, PositionMasks(), SETTINGS)
    before = _bytes(out)
    with pytest.raises(StoreError, match="scale: was 4, now 2"):
        prepare(photos, out, PositionMasks(), PrepareConfig(scale=2, tile=64))
    write(photos / "e.png", position_image(80, 80, 1))
    with pytest.raises(StoreError, match=r"images new in the source: 1, such as e\.png"):
        prepare(photos, out, PositionMasks(), SETTINGS)
    assert _bytes(out) == before


def test_foreign_files_are_never_overwritten(photos, tmp_path):
    """`--out` on somebody's folder or file is refused."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"holds files that are not a store's \(thesis.txt\)"):
        prepare(photos, mine, PositionMasks(), SETTINGS)
    with pytest.raises(StoreError, match="got a file"):
        prepare(photos, mine / "thesis.txt", PositionMasks(), SETTINGS)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_no_usable_picture_leaves_nothing_behind(tmp_path):
    """An empty folder, and one whose images are all too small or broken."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty"):
        prepare(tmp_path / "empty", tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    write(tmp_path / "bad" / "small.png", position_image(20, 20, 0))
    (tmp_path / "bad" / "z.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(ImageError, match=r"none of 2 images can be used \(.*small.png: smaller than a tile"):
        prepare(tmp_path / "bad", tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "empty"]


def test_two_at_once_on_one_store(photos, tmp_path):
    """The second is refused while the first is at work, and may go on after it."""

    class Second(PositionMasks):
        def generate_batch(self, images):
            with pytest.raises(BusyError, match=rf"another `samdiff prepare` is running there \(process {os.getpid()} on "):
                prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
            yield from super().generate_batch(images)

    assert prepare(photos, tmp_path / "x.zarr", Second(), SETTINGS).segmented == 2
