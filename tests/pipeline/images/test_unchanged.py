"""What a store records of a file is what was read of it: files that change during a run end it with their name."""

import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from samdiff.errors import ChangedError, ImageError
from samdiff.pipeline.images.decode import Limits
from samdiff.pipeline.images.sources import SourceReader
from samdiff.pipeline.mask_files.imported import ImportedMasks
from samdiff.pipeline.prepare.mask_stage import local_masks
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.scan import read_usable, scan
from samdiff.pipeline.shards.reader import open_store

from ..prepare.test_prepare import PositionMasks, position_image, write

SETTINGS = PrepareConfig(scale=4, tile=64)
STAGES = ["masks", "tiles"]


def image_bytes(tmp_path: Path, blue: int, side: int = 80) -> bytes:
    """A BMP, so that another blue gives a file of the same size."""
    path = tmp_path / f"of-{blue}-{side}.bmp"
    write(path, position_image(side, side, blue))
    return path.read_bytes()


def folder(path: Path, contents: list[bytes]) -> Path:
    path.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (path / f"{number}.bmp").write_bytes(content)
    return path


def as_zip(path: Path, contents: list[bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.bmp", content)
    return path


def as_tar(path: Path, contents: list[bytes]) -> Path:
    files = folder(path.parent / "for-tar", contents)
    with tarfile.open(path, "w") as archive:
        for number in range(len(contents)):
            archive.add(files / f"{number}.bmp", f"{number}.bmp")
    return path


def run(source: Path, out: Path, change: Callable[[], object], before: str, masks=None, settings=SETTINGS, **more):
    """`prepare`, with a change of the world before a stage."""
    masks = masks or PositionMasks()

    def mask_stage(items, read):
        if before == "masks":
            change()
        yield from local_masks(masks, items, read)
        if before == "tiles":
            change()

    return prepare(source, out, masks, settings, mask_stage=mask_stage, **more)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("make", [folder, as_zip, as_tar])
def test_an_image_that_changes(tmp_path, make, stage):
    """Same name, same size, other pixels: an error that names it; the next run stores what is there then, with its hash."""
    old, new = ([image_bytes(tmp_path, blue) for blue in colours] for colours in ((1, 2, 3), (1, 9, 3)))
    source, out = make(tmp_path / "src", old), tmp_path / "s.zarr"
    with pytest.raises(ChangedError, match=r"1\.bmp: the file changed during the run"):
        run(source, out, lambda: make(tmp_path / "src", new), stage)
    assert not (out / "zarr.json").exists()
    masks = PositionMasks()
    assert prepare(source, out, masks, SETTINGS).images == 3
    assert stage == "masks" or len(masks.seen) == 1  # what is finished is kept
    sha256 = open_store(out).table("images/sha256")
    assert [bytes(row).hex() for row in sha256] == [hashlib.sha256(content).hexdigest() for content in new]


@pytest.mark.parametrize("stage", STAGES)
def test_an_lr_file_that_changes(tmp_path, stage):
    """Given with --lr: the same."""
    source = folder(tmp_path / "hr", [image_bytes(tmp_path, blue) for blue in (1, 2)])
    lr = folder(tmp_path / "lr", [image_bytes(tmp_path, blue, side=20) for blue in (1, 2)])
    other = image_bytes(tmp_path, 7, side=20)
    given = PrepareConfig(scale=4, tile=64, degradation="given")
    with pytest.raises(ChangedError, match=r"lr/0\.bmp: the file changed during the run"):
        run(source, tmp_path / "s.zarr", lambda: (lr / "0.bmp").write_bytes(other), stage, settings=given, lr=lr)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("change", ["gone", "cut", "empty", "longer", "a folder"])
def test_a_file_that_goes_or_breaks(tmp_path, change, stage):
    """Not skipped under the hash of what was there before."""
    source = folder(tmp_path / "src", [image_bytes(tmp_path, blue) for blue in (1, 2)])
    victim = source / "0.bmp"
    content = victim.read_bytes()

    def broken() -> None:
        victim.unlink()
        if change == "a folder":
            victim.mkdir()
        elif change != "gone":
            victim.write_bytes({"cut": content[:-100], "empty": b"", "longer": content + b"x" * (1 << 25)}[change])

    small = PrepareConfig(scale=4, tile=64, limits=Limits(0.01))
    with pytest.raises(ChangedError, match=r"0\.bmp: the file changed"):
        run(source, tmp_path / "s.zarr", broken, stage, settings=small)


def test_a_file_that_could_not_be_read_and_now_can(tmp_path):
    """Its recorded hash would be of nothing."""
    source = folder(tmp_path / "src", [image_bytes(tmp_path, 1)])
    (source / "later.bmp").symlink_to(tmp_path / "nowhere.bmp")
    found = scan(source)
    with SourceReader() as source_reader:
        assert isinstance(
            read_usable(found[1], source_reader, scale=4, tile=64, limits=Limits()), ImageError
        )  # as it was scanned
    os.unlink(source / "later.bmp")
    (source / "later.bmp").mkdir()
    found = scan(source)
    os.rmdir(source / "later.bmp")
    (source / "later.bmp").write_bytes(image_bytes(tmp_path, 2))
    with (
        SourceReader() as source_reader
    ):  # it stays what it was when it was scanned: an image that is skipped, whatever lies there now
        assert isinstance(read_usable(found[1], source_reader, scale=4, tile=64, limits=Limits()), ImageError)


def test_a_file_that_was_too_large_at_first(tmp_path):
    """It stays skipped with its reason; nothing of it was read."""
    source = folder(tmp_path / "src", [image_bytes(tmp_path, 1), bytes(1 << 25)])
    report = prepare(source, tmp_path / "s.zarr", PositionMasks(), PrepareConfig(scale=4, tile=64, limits=Limits(0.01)))
    assert list(report.skipped) == ["1.bmp"]


def test_an_archive_with_fewer_files(tmp_path):
    """Its index may lead nowhere."""
    contents = [image_bytes(tmp_path, blue) for blue in (1, 2)]
    source = as_zip(tmp_path / "a.zip", contents)
    with pytest.raises(ChangedError, match=r"a\.zip: 1\.bmp: the file changed"):
        run(source, tmp_path / "s.zarr", lambda: as_zip(source, contents[:1]), "masks")


def imported(path: Path, runs: list[int]) -> Path:
    path.mkdir(exist_ok=True)
    for number, length in enumerate(runs):
        record = {"segmentation": {"size": [80, 80], "counts": [100, length, 6300 - length]}}
        (path / f"{number}.json").write_text(json.dumps([record]))
    return path


def test_imported_masks_that_change(tmp_path):
    """Their digest stands for the segmenter, so a file must be what was counted: changed, gone or come later."""
    source = folder(tmp_path / "src", [image_bytes(tmp_path, blue) for blue in (1, 2)])
    files = imported(tmp_path / "m", [40, 50])
    masks = ImportedMasks(files, 4)
    first = masks.describe()
    imported(files, [40, 60])
    assert masks.describe() == first  # once
    with pytest.raises(ChangedError, match=r"m/1\.json: the file changed"):
        prepare(source, tmp_path / "s.zarr", masks, SETTINGS)
    (files / "1.json").unlink()
    with pytest.raises(ChangedError, match=r"m/1\.json: the file changed"):
        prepare(source, tmp_path / "s.zarr", masks, SETTINGS)
    masks = ImportedMasks(files, 4)
    masks.describe()
    imported(files, [40, 60])
    report = prepare(source, tmp_path / "t.zarr", masks, SETTINGS)
    assert "expected 1.json" in report.skipped["1.bmp"]


def test_imported_masks_behind_a_linked_folder_are_counted(tmp_path):
    """Files that are read are in the digest."""
    real = imported(tmp_path / "elsewhere", [40])
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "sub").symlink_to(real)
    (real / "round").symlink_to(tmp_path / "m")
    masks = ImportedMasks(tmp_path / "m", 4)
    assert masks.expect("sub/0.bmp", 80, 80) is None
    before = masks.describe()
    imported(real, [41])
    assert ImportedMasks(tmp_path / "m", 4).describe() != before


def test_a_pixel_is_a_change(tmp_path):
    """The hash is of the bytes that were decoded, not of another reading."""
    source = folder(tmp_path / "src", [image_bytes(tmp_path, 1)])
    (item,) = scan(source)
    content = bytearray((source / "0.bmp").read_bytes())
    content[-1] ^= 1
    (source / "0.bmp").write_bytes(content)
    with SourceReader() as source_reader, pytest.raises(ChangedError):
        read_usable(item, source_reader, scale=4, tile=64, limits=Limits())
    with SourceReader() as source_reader:
        (again,) = scan(source)
        assert np.asarray(read_usable(again, source_reader, scale=4, tile=64, limits=Limits()).pixels).shape == (80, 80, 3)
