"""Stores that are damaged, mixed up, or made by somebody who means harm: refused with one error, in bounded memory and time, or read as they are."""

import json
import os
import shutil
import signal
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from samdiff import ShardDataset, open_store
from samdiff.errors import StoreError
from samdiff.pipeline.cache import CachedPlace
from samdiff.pipeline.files import _PIECE
from samdiff.pipeline.info import store_lines
from samdiff.pipeline.keystore import LocalFolder
from samdiff.pipeline.once import Once
from samdiff.pipeline.prepare import PrepareSettings, prepare
from samdiff.pipeline.stream import open_to_stream
from samdiff.pipeline.verify import verify_store

from . import hostile
from .stores import make_store
from .test_prepare import PositionMasks, position_image, write


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A sound store with a skipped image, another one of the same shape, and what reading the first one gives."""
    folder = tmp_path_factory.mktemp("hostile")
    write(folder / "photos" / "a.png", position_image(160, 188, 10))
    write(folder / "photos" / "b.png", position_image(100, 128, 20))
    (folder / "photos" / "c.png").write_bytes(b"no image")
    prepare(folder / "photos", folder / "x.zarr", PositionMasks(), PrepareSettings(scale=4, tile=64))
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


def test_a_file_of_another_store_is_named(stores, copy):
    """Each table and shard in turn, in a process that has read none of it; checksums and shapes are right."""
    sound, other, _ = stores
    swapped = 0
    for key, (_, sha256) in open_store(other).record.items():
        if "/c/" not in key or sha256 == open_store(sound).record[key][1]:
            continue
        shutil.copyfile(other / key, copy / key)
        opened = open_store(copy)  # costs no pass over the data
        path = key.partition("/c/")[0]
        with pytest.raises(StoreError, match=key):
            opened.table(path)
        if path in ("tiles/hr", "tiles/lr", "tiles/labels"):
            size = (copy / key).stat().st_size
            if size == open_store(sound).record[key][0]:
                open_store(copy, check_shards=False).table(path)  # as was wanted
        shutil.copyfile(sound / key, copy / key)
        swapped += 1
    assert swapped >= 20


def test_runs_are_read_and_checked_piece_by_piece(stores, copy):
    """The large table of runs is not touched before a mask is wanted."""
    shutil.copyfile(stores[1] / "masks/rle/c/0", copy / "masks/rle/c/0")
    opened = open_store(copy)
    opened.table("masks/codes"), opened.table("masks/rle_offset"), opened.read_tiles("hr", [0])
    with pytest.raises(StoreError, match="masks/rle/c/0"):
        opened.masks(0)


class Counting(LocalFolder):
    """Counts requests; `far` if it is to be taken for a place that is no local folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: Counter[tuple[str, bool]] = Counter()
        self.lock = threading.Lock()

    def get(self, key, start=0, length=None):
        with self.lock:
            self.asked[key, length is None] += 1
        time.sleep(0.002)
        return super().get(key, start, length)


def test_a_shard_is_hashed_once_whatever_number_of_threads(tmp_path):
    """Eight threads want its first tile at a time; later tiles cost one read each."""
    place = Counting(make_store(tmp_path / "a.zarr", n=40))
    opened, key = open_store(place), "tiles/hr/c/0/0/0/0"
    pieces = -(-place.size(key) // _PIECE)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: opened.read_tiles("hr", [row]), range(8)))
    assert place.asked[key, False] <= pieces + 8 + 8  # the pieces once, eight tiles, at most eight looks at the index
    before = place.asked[key, False]
    opened.read_tiles("hr", range(40))
    assert place.asked[key, False] == before + 40


class Far:
    """A place that is no local folder, such as a URL."""

    def __init__(self, inner: Counting) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return "far://x.zarr"


def test_reads_of_one_tile_far_away(stores, copy):
    """Checked, the shard comes whole in one request that serves all its tiles; unchecked, each tile is a range, and a swap passes."""
    key = "tiles/hr/c/0/0/0/0"
    place = Far(Counting(copy))
    opened = open_store(place)
    tiles = opened.read_tiles("hr", range(8))
    assert (place.asked[key, True], place.asked[key, False]) == (1, 0)
    loose = open_store(place, check_shards=False)
    np.testing.assert_array_equal(loose.read_tiles("hr", range(8)), tiles)
    assert (place.asked[key, True], place.asked[key, False]) == (1, 9)  # the index and eight ranges
    shutil.copyfile(stores[1] / key, copy / key)
    with pytest.raises(StoreError, match=rf"far://x\.zarr/{key}"):
        open_store(place).read_tiles("hr", [0])


def test_a_swapped_copy_in_the_cache_is_fetched_anew(stores, tmp_path):
    """The cache is only a copy: what differs from the record there costs a fetch, not the run."""
    sound, other, _ = stores
    key = "tiles/hr/c/0/0/0/0"

    def opened():
        return open_store(CachedPlace(LocalFolder(sound), tmp_path / "cache", "s", wait_s=0.001))

    expected = opened().read_tiles("hr", range(8))
    shutil.copyfile(other / key, tmp_path / "cache/s" / key)
    shutil.copyfile(other / "masks/codes/c/0/0", tmp_path / "cache/s/masks/codes/c/0/0") if (
        tmp_path / "cache/s/masks/codes/c/0/0"
    ).exists() else None
    np.testing.assert_array_equal(opened().read_tiles("hr", range(8)), expected)
    np.testing.assert_array_equal(opened().table("masks/codes"), open_store(sound).table("masks/codes"))


def test_a_fork_while_a_check_runs_does_not_stop_the_child():
    """The lock of another thread is copied by a fork and never given back; the child makes its own."""
    once, held, done = Once(), threading.Event(), threading.Event()

    def slow(_: str) -> None:
        held.set()
        done.wait(30)

    thread = threading.Thread(target=once.run, args=("shard", slow))
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        once.run("shard", lambda _: None)
        os._exit(7)
    deadline, status = time.monotonic() + 30, (0, 0)
    while status[0] == 0 and time.monotonic() < deadline:
        status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    done.set()
    thread.join()
    if status[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status[1]) == 7
    assert status[0] == child


def test_a_failed_check_is_made_again():
    """What did not pass is not remembered as passed."""
    once, seen = Once(), []

    def check(name: str) -> None:
        seen.append(name)
        if len(seen) == 1:
            raise StoreError("damaged")

    with pytest.raises(StoreError):
        once.run("a", check)
    once.run("a", check)
    once.run("a", check)
    assert seen == ["a", "a"]


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
    prepare(tmp_path / "photos", tmp_path / "x.zarr", Some(), PrepareSettings(scale=4, tile=64))
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


def test_training_from_a_url_reads_each_shard_once(tmp_path, monkeypatch):
    """`train --shards URL` goes through the cache of shards, as `ShardDataset(URL)` does."""
    from typer.testing import CliRunner

    from samdiff.cli import app
    from samdiff.pipeline.remote import RemoteFolder

    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    here, url = LocalFolder(make_store(tmp_path / "a.zarr", n=960)), "memory://hostile/train.zarr"
    for key in here.list_keys():
        RemoteFolder(url).set(key, here.get(key))
    given, asked, get = [], Counter(), RemoteFolder.get

    def counted(self, key, start=0, length=None):
        asked[key] += 1
        return get(self, key, start, length)

    monkeypatch.setattr(RemoteFolder, "get", counted)
    monkeypatch.setattr("samdiff.model.train.train", lambda stores, *_: given.extend(stores) or tmp_path)
    done = CliRunner().invoke(
        app, ["train", "--shards", url, "--out", str(tmp_path / "run"), "--preset", "tiny", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    assert isinstance(given[0].place, CachedPlace)
    assert given[0]._files.check_shards
    ShardDataset(given, 12).batch(0, 960)
    assert {count for key, count in asked.items() if "/c/" in key} == {1}
    assert not open_to_stream(url, check_shards=False)._files.check_shards
