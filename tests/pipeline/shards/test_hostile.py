"""Stores that are damaged, mixed up, or made by somebody who means harm: refused with one error, in bounded memory and time, or read as they are."""

import json
import os
import shutil
import signal
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from samdiff import ShardDataset, open_store
from samdiff.errors import StoreError
from samdiff.pipeline.prepare.info import store_lines
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.verify import verify_store

from ...helpers import hostile_stores as hostile
from ..prepare.test_prepare import PositionMasks, position_image, write


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A sound store with a skipped image, another one of the same shape, and what reading the first one gives."""
    folder = tmp_path_factory.mktemp("hostile")
    write(folder / "photos" / "a.png", position_image(160, 188, 10))
    write(folder / "photos" / "b.png", position_image(100, 128, 20))
    (folder / "photos" / "c.png").write_bytes(b"no image")
    prepare(folder / "photos", folder / "x.zarr", PositionMasks(), PrepareConfig(scale=4, tile=64))
    shutil.copytree(folder / "x.zarr", folder / "y.zarr")
    hostile.other_store(folder / "y.zarr")
    return folder / "x.zarr", folder / "y.zarr", hostile.read_everything(folder / "x.zarr")


@pytest.fixture
def copy(stores, tmp_path) -> Path:
    return Path(shutil.copytree(stores[0], tmp_path / "x.zarr"))


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """What waits for ever (a FIFO's writer, a count of 10^30) fails instead."""

    def late(*_: object) -> None:
        raise TimeoutError("still not done")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", hostile.DAMAGE, ids=lambda kind: kind.__name__)
def test_damage_is_refused_or_reads_equal(stores, tmp_path, kind):
    """Numbers edited, files swapped, bits flipped, FIFOs and folders in place of files: never another content, never in silence."""
    sound, other, expected = stores
    for seed in range(3):
        result = hostile.trial(kind, sound, other, tmp_path / "work", seed, expected)
        assert result in (("refused named",) if not hostile.same(sound, tmp_path / "work") else ("equal",)), (seed, result)


@pytest.mark.parametrize("kind", hostile.STRANGER, ids=lambda kind: kind.__name__)
def test_a_strangers_store_never_traces_back(stores, tmp_path, kind):
    """Whatever the documents, record, tables, names and frames say with right digests: StoreError, or a store that is whole."""
    sound, other, expected = stores
    for seed in range(3):
        result = hostile.trial(kind, sound, other, tmp_path / "work", seed, expected)
        assert result != "refused", (seed, "verify finds nothing in a store that cannot be read")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*hostile.DAMAGE, *hostile.STRANGER], ids=lambda kind: kind.__name__)
def test_many_trials_with_fresh_seeds(stores, tmp_path, kind):
    """The same with seeds of this run, which a failure names."""
    sound, other, expected = stores
    first = time.time_ns() % 2**31
    for seed in range(first, first + 60):
        try:
            result = hostile.trial(kind, sound, other, tmp_path / "work", seed, expected)
        except Exception as error:
            raise AssertionError(f"{kind.__name__}, seed {seed}: {type(error).__name__}: {error}") from error
        assert kind not in hostile.DAMAGE or result in ("refused named", "equal"), (kind.__name__, seed)


def test_every_number_of_every_document_is_compared_on_opening(stores, copy):
    """Also those of the groups; one at a time, and nothing else has to be read to find it."""
    sound = stores[0]
    edited = 0
    for document in sorted(copy.rglob("zarr.json")):
        clean = document.read_bytes()
        for k, line in enumerate(clean.decode().split("\n")):
            if any(character.isdigit() for character in line):
                lines = clean.decode().split("\n")
                lines[k] = "".join(str((int(c) + 1) % 10) if c.isdigit() else c for c in line)
                document.write_bytes("\n".join(lines).encode())
                with pytest.raises(StoreError):
                    open_store(copy)
                edited += 1
        document.write_bytes(clean)
    assert edited > 150
    assert hostile.read_everything(copy) == hostile.read_everything(sound)


@pytest.mark.parametrize("bare", [(True, False), (False, True), (True, True)])
def test_a_sound_store_with_images_without_masks_is_sound(tmp_path, bare):
    """First, last, or all of them."""

    class Some(PositionMasks):
        def generate_batch(self, images):
            for image in images:
                masks = next(super().generate_batch([image]))
                yield [] if bare[int(image[0, 0, 2] == 20)] else masks

    write(tmp_path / "photos" / "a.png", position_image(160, 188, 10))
    write(tmp_path / "photos" / "b.png", position_image(100, 128, 20))
    prepare(tmp_path / "photos", tmp_path / "x.zarr", Some(), PrepareConfig(scale=4, tile=64))
    assert open_store(tmp_path / "x.zarr").n_masks == 5 * bare.count(False)
    assert verify_store(tmp_path / "x.zarr", deep=True) == []


@pytest.mark.parametrize("key", ["zarr.json", "record/c/0", "record/zarr.json", "masks/codes/zarr.json", "tiles/lr/c/0/0/0/0"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_no_regular_file(copy, key, kind):
    """A FIFO, a folder or a device in place of a file: reading and verifying end, and both name it."""
    (copy / key).unlink()
    {"fifo": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](copy / key)
    with pytest.raises(StoreError, match=rf"{key}: expected a regular file, got a"):
        hostile.read_everything(copy)
    assert any(problem.startswith(f"{key}: ") for problem in verify_store(copy))


@pytest.mark.parametrize("path", ["record", "tiles/hr", "masks/rle", "masks/area", "images/status"])
def test_an_edited_count_costs_neither_time_nor_memory(copy, path):
    """10^15 rows in a document, with and without right digests."""
    document = json.loads((copy / path / "zarr.json").read_bytes())
    document["shape"][0] = 10**15
    (copy / path / "zarr.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    for sign in (False, True):
        if sign and path != "record":
            hostile.resign(copy)
        tracemalloc.start()
        begin = time.process_time()
        with pytest.raises(StoreError):
            open_store(copy)
        assert verify_store(copy) != []
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150e6
        assert time.process_time() - begin < 10


def test_a_count_of_masks_beyond_what_is_there(copy):
    """An image with 2^31 - 1 masks, every digest right: 64 GB were taken for their codes."""
    hostile.rewrite(copy, lambda rows: rows["images/n_masks"].__setitem__(0, 2**31 - 1))
    with pytest.raises(StoreError, match="images/n_masks: the images have"):
        ShardDataset(copy).codes()
    assert any("images/n_masks" in problem for problem in verify_store(copy, deep=True))


@pytest.mark.parametrize("name", hostile.NAMES)
def test_names_that_no_source_has(copy, name):
    """One error when they are read; an escape sequence, which a file's name may hold, is shown as such."""

    def change(rows: dict[str, np.ndarray]) -> None:
        text = [name, b"b.png", b"c.png"]
        rows["images/name"] = np.frombuffer(b"".join(text), np.uint8)
        rows["images/name_offset"] = np.cumsum([0, *map(len, text)]).astype(np.uint64)

    hostile.rewrite(copy, change)
    if name in (b"\x1b[2Jclear.png", b"a\0b"):
        assert open_store(copy).names()[0] == name.decode()
        assert "\x1b" not in "\n".join(store_lines(open_store(copy)))
    else:
        with pytest.raises(StoreError, match="images/name: "):
            open_store(copy).names()
        assert any(problem.startswith("images/name: ") for problem in verify_store(copy))


def test_a_label_that_names_no_mask_is_refused(copy):
    """It would take the next image's code, in silence."""
    hostile.rewrite(copy, lambda rows: rows["tiles/labels"].__setitem__((0, 0, 0), 9))
    with pytest.raises(StoreError, match="tile 0 has label 9, but its image has 5 masks"):
        open_store(copy).read_tiles("labels", [0])
    data = ShardDataset(copy)
    with pytest.raises(StoreError, match="tile 0 has label 9"):
        data.batch(0, len(data))
