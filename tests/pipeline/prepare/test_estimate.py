"""What a run will take, before it takes it: measured on two images, near what comes of it, with a warning for a disk that is too small."""

import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from samdiff import open_store
from samdiff.pipeline.images.sources import ImageFile
from samdiff.pipeline.prepare import estimate as module
from samdiff.pipeline.prepare.estimate import Estimate, ImageCost, estimate
from samdiff.pipeline.prepare.mask_stage import local_masks
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.scan import SourceImage

from .test_prepare import write
from .test_reuse import Counting, photo

CONFIG = PrepareConfig(scale=4, tile=32)


def image(name: str, size: int) -> SourceImage:
    return SourceImage(ImageFile(name, name, size), name)


def noisy(folder: Path, count: int, height: int = 96, width: int = 128) -> Path:
    """Images with noise, so that the pixels make up nearly all of the store."""
    rng = np.random.default_rng(0)
    for k in range(count):
        write(
            folder / f"{k}.png",
            np.clip(photo(k, height, width) + rng.normal(0, 9, (height, width, 3)), 0, 250).astype(np.uint8),
        )
    return folder


def test_sizes_go_with_the_files_and_masks_with_the_number_of_images() -> None:
    """By hand: two images of 100 bytes cost 1 s and 1000 + 10 bytes each; four more have 200 bytes each, so the sum is 5 times as much.

    20 tiles are one shard: three indices of 64 x 16 + 4 bytes.
    """
    measured = [image("a.png", 100), image("b.png", 100)]
    costs = [ImageCost(item, seconds=1.0, tiles=2, tile_bytes=1000, mask_bytes=10) for item in measured]
    others = [image(f"{k}.png", 200) for k in range(4)]
    found = estimate(costs, [*measured, *others], tile=320, seconds_per_image=7.0, missing=4)
    assert found == Estimate(images=4, mask_seconds=28.0, tile_seconds=10.0, store_bytes=13_184, staging_bytes=100)
    assert found.bytes == 13_284
    for odd in (image("c.jpg", 200), image("c.png", 0)):  # another format; a size that is not known
        assert (
            estimate(costs, [*measured, *others[1:], odd], tile=320, seconds_per_image=7.0, missing=4).store_bytes
            == 6060 + 3084
        )
    assert found.line(2) == (
        "about 38 s left: masks of 4 images 28 s, tiles 10 s; about 13.3 kB on disk: store 13.2 kB, work in progress 100 B "
        "(measured on 2 images)"
    )
    assert found.line(8).endswith("(measured on 8 images, sizes on 2)")


def test_the_estimate_is_near_what_the_run_takes(tmp_path: Path) -> None:
    """Of images of about equal content; reported once, after two of six."""
    lines: list[str] = []
    masks = Counting()
    report = prepare(noisy(tmp_path / "photos", 6), tmp_path / "a.zarr", masks, CONFIG, report=lines.append)
    assert report.estimate is not None
    assert report.estimate.images == 4
    (line,) = lines
    assert re.fullmatch(r"about .* left: masks of 4 images .*, tiles .*; about .* on disk: .* \(measured on 2 images\)", line)
    store = open_store(tmp_path / "a.zarr")
    actual = sum(size for key, (size, _) in store.manifest.items() if key.startswith("tiles/") and key[-4:] != "json")
    assert report.estimate.store_bytes == pytest.approx(actual, rel=0.1)


def test_time_is_measured_on_the_first_two(tmp_path: Path, monkeypatch) -> None:
    """With a clock of our own: 5 s per image in this process. Of workers, which start up, between the first image (or task) and the eighth."""
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(Counting):
        def generate_batch(self, images):
            for table in super().generate_batch(images):
                now[0] += 5.0
                yield table

    def elsewhere(items, read):
        now[0] += 1000.0  # loading
        return local_masks(Slow(), items, read)

    class ThreeAtOnce:
        group = 3

        def __call__(self, items, read):
            now[0] += 1000.0
            for start in range(0, len(items), 3):
                yield from list(local_masks(Slow(), items[start : start + 3], read))

    source = noisy(tmp_path / "photos", 12, 48, 64)
    assert prepare(source, tmp_path / "a.zarr", Slow(), CONFIG).estimate.mask_seconds == 50.0
    assert prepare(source, tmp_path / "b.zarr", Slow(), CONFIG, mask_stage=elsewhere).estimate.mask_seconds == 20.0
    assert prepare(source, tmp_path / "c.zarr", Slow(), CONFIG, limit=2).estimate is None  # nothing is left
    monkeypatch.setattr(module, "FIRST_ELSEWHERE", 2)
    assert prepare(source, tmp_path / "d.zarr", Slow(), CONFIG, mask_stage=ThreeAtOnce()).estimate.mask_seconds == 30.0


def test_a_disk_that_is_too_small_is_a_warning_before_the_other_images(tmp_path: Path, monkeypatch, caplog) -> None:
    source = noisy(tmp_path / "photos", 5)
    seen: list[int] = []

    class Watching(Counting):
        def generate_batch(self, images):
            for table in super().generate_batch(images):
                seen.append(len(caplog.records))
                yield table

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    with caplog.at_level(logging.WARNING):
        prepare(source, tmp_path / "deep" / "er" / "a.zarr", Watching(), CONFIG)
    assert seen[0] == 0
    assert seen[-1] == 1
    assert re.search(r"a\.zarr: needs about [0-9.]+ kB, but 5 kB are free on that disk", caplog.text)
    caplog.clear()
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING):
        prepare(source, tmp_path / "b.zarr", Counting(), CONFIG)
        prepare(source, "memory://estimate/b.zarr", Counting(), CONFIG)
    assert "free on that disk" not in caplog.text


def test_images_that_cannot_be_read_again_do_not_end_the_run(tmp_path: Path) -> None:
    """Skipped images are not measured; the estimate is of those that were segmented."""
    source = noisy(tmp_path / "photos", 4)
    (source / "00.png").write_text("no image")
    report = prepare(source, tmp_path / "a.zarr", Counting(), CONFIG)
    assert list(report.skipped) == ["00.png"]
    assert report.estimate is not None
    assert report.estimate.images == 3
