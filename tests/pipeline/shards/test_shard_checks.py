# ruff: noqa: F811 - fixtures of another module
"""Tables and shards are those of the record: at their first use, once per process, near and far."""

import os
import pickle
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from samdiff import ShardDataset, ShardStream, open_store
from samdiff.cli import app
from samdiff.errors import StoreError
from samdiff.pipeline.shards.files import _PIECE
from samdiff.pipeline.storage.cache import CachingStore
from samdiff.pipeline.storage.local import LocalStore
from samdiff.pipeline.storage.once import Once
from samdiff.pipeline.storage.remote import FsspecStore
from samdiff.pipeline.stream.dataset import open_to_stream

from ...helpers.stores import make_store
from .test_hostile import copy, stores  # noqa: F401 - fixtures


def test_a_file_of_another_store_is_named(stores, copy):
    """Each table and shard in turn, in a process that has read none of it; checksums and shapes are right."""
    sound, other, _ = stores
    swapped = 0
    for key, (_, sha256) in open_store(other).manifest.items():
        if "/c/" not in key or sha256 == open_store(sound).manifest[key][1]:
            continue
        shutil.copyfile(other / key, copy / key)
        opened = open_store(copy)  # costs no pass over the data
        path = key.partition("/c/")[0]
        with pytest.raises(StoreError, match=key):
            opened.table(path)
        if path in ("tiles/hr", "tiles/lr", "tiles/labels"):
            size = (copy / key).stat().st_size
            if size == open_store(sound).manifest[key][0]:
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


class Counting(LocalStore):
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
        return open_store(CachingStore(LocalStore(sound), tmp_path / "cache", "s", wait_s=0.001))

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


def test_training_from_a_url_reads_each_shard_once(tmp_path, monkeypatch):
    """`train --shards URL` goes through the cache of shards, as `ShardDataset(URL)` does."""

    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    here, url = LocalStore(make_store(tmp_path / "a.zarr", n=960)), "memory://hostile/train.zarr"
    for key in here.list_keys():
        FsspecStore(url).set(key, here.get(key))
    given, asked, get = [], Counter(), FsspecStore.get

    def counted(self, key, start=0, length=None):
        asked[key] += 1
        return get(self, key, start, length)

    monkeypatch.setattr(FsspecStore, "get", counted)
    monkeypatch.setattr("samdiff.model.training.run.train", lambda opened, *_, **__: given.extend(opened) or tmp_path)
    done = CliRunner().invoke(
        app, ["train", "--shards", url, "--out", str(tmp_path / "run"), "--preset", "tiny", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    assert isinstance(given[0].place, CachingStore)
    assert given[0]._files.check_shards
    ShardDataset(given, 12).batch(0, 960)
    assert {count for key, count in asked.items() if "/c/" in key} == {1}
    assert not open_to_stream(url, check_shards=False)._files.check_shards


class Logging(LocalStore):
    """Notes in a file, which processes share, each pass over a whole shard."""

    def get(self, key, start=0, length=None):
        if length == _PIECE and start == 0:
            with open(self.root.with_suffix(".log"), "a") as file:
                file.write(f"{key}\n")
        return super().get(key, start, length)


def test_workers_share_the_checks(tmp_path):
    """New worker processes in each epoch do not hash what one of them has hashed; a damaged shard is found by the first, and again."""
    path = make_store(tmp_path / "a.zarr", n=40)
    stream = ShardStream(ShardDataset(open_store(Logging(path))), 8)
    loader = DataLoader(stream, batch_size=None, num_workers=1, timeout=60)
    for _ in range(3):
        assert len(list(loader)) == 5
    hashed = Counter((tmp_path / "a.log").read_text().splitlines())
    assert hashed == {
        key: 1 for key in open_store(path).manifest if key.startswith("tiles/") and "place" not in key and "/c/" in key
    }
    copied = pickle.loads(pickle.dumps(stream))  # noqa: S301 - another program's copy looks for itself
    next(iter(copied))
    assert set(Counter((tmp_path / "a.log").read_text().splitlines()).values()) == {2}
    shard = path / "tiles/hr/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # in the index
    shard.write_bytes(data)
    damaged = DataLoader(ShardStream(ShardDataset(path), 8), batch_size=None, num_workers=1, timeout=60)
    for _ in range(2):
        with pytest.raises(StoreError, match="tiles/hr/c/0/0/0/0"):
            list(damaged)
