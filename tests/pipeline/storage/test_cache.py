"""Stores over a network: cut connections, a bounded cache on the disk, damage found and mended."""

import pickle
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from samdiff import ShardDataset, ShardLoader, open_store
from samdiff.errors import StoreError
from samdiff.pipeline.storage.cache import CachingStore, RetryingStore, plan_room
from samdiff.pipeline.storage.local import LocalStore
from samdiff.pipeline.storage.lru import LRUCache

from ...helpers.stores import make_store


class Flaky(LocalStore):
    """A place far away: `cut` of three requests fail, in turn by an error and by an answer cut short; counts what was fetched whole."""

    def __init__(self, root: Path, cut: int = 0):
        super().__init__(root)
        self.cut, self.asked, self.whole = cut, 0, Counter()
        self.lock = threading.Lock()

    def __reduce__(self):
        return Flaky, (self.root, self.cut)

    def get(self, key, start=0, length=None):
        with self.lock:
            self.asked += 1
            turn = self.asked
        if turn % 3 < self.cut and key.startswith("tiles/") and "/c/" in key:
            if turn % 2:
                raise ConnectionError("connection reset by peer")
            return super().get(key, start, length)[:-5]
        if length is None:
            self.whole[key] += 1
        return super().get(key, start, length)


def _stream(far, folder, **more):
    return ShardDataset(open_store(CachingStore(far, folder, "s", wait_s=0.001, **more)), patch=12, seed=2)


def _bytes(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_cut_connections_are_asked_again_and_each_shard_comes_once(tmp_path):
    """The batches are those of the local store; each object is fetched once, also by four threads at a time."""
    path = make_store(tmp_path / "a.zarr", n=5000)  # two shards
    far = Flaky(path, cut=1)
    data, local = _stream(far, tmp_path / "cache"), ShardDataset(path, patch=12, seed=2)
    for index, batch in enumerate(ShardLoader(data, 16, steps=30, workers=4)):
        for name, values in local.batch(index * 16, 16).items():
            np.testing.assert_array_equal(batch[name].numpy(), values)
    shards = {key: count for key, count in far.whole.items() if key.startswith("tiles/") and "/c/" in key}
    assert len(shards) >= 6
    assert set(shards.values()) == {1}
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - a worker's copy uses the same folder
    np.testing.assert_array_equal(copy.batch(0, 64)["hr"], local.batch(0, 64)["hr"])
    assert not [key for key in copy.stores[0].place.inner.whole if "/c/" in key]


def test_a_dead_connection_is_a_clear_error(tmp_path):
    """After the last attempt: what, where, how often, and what to do."""
    far = Flaky(make_store(tmp_path / "a.zarr"))
    data = _stream(far, tmp_path / "cache", attempts=3)
    far.cut = 3
    with pytest.raises(StoreError, match=r"tiles/.*attempts: 3.*(reset by peer|incomplete).*same command resumes"):
        data.batch(0, 4)
    far.cut = 0
    assert len(data.batch(0, 4)["hr"]) == 4  # and it recovers


def test_the_folder_never_grows_beyond_its_bound(tmp_path):
    """With room for a third of the store the samples are right all the same, and the folder stays in its bound."""
    path = make_store(tmp_path / "a.zarr", n=12000)
    limit = _bytes(path / "tiles") // 3
    data, local = _stream(Flaky(path), tmp_path / "cache", limit=limit), ShardDataset(path, patch=12, seed=2)
    for first in range(0, 12000, 2999):
        np.testing.assert_array_equal(data.batch(first, 8)["hr"], local.batch(first, 8)["hr"])
        assert 0 < _bytes(tmp_path / "cache") <= limit
    small = _stream(Flaky(path), tmp_path / "small", limit=10)
    np.testing.assert_array_equal(small.batch(7, 8)["hr"], local.batch(7, 8)["hr"])
    assert _bytes(tmp_path / "small") == 0


def test_a_damaged_copy_is_fetched_anew_and_a_damaged_store_is_an_error(tmp_path):
    """A flipped bit on the local disk is mended; one at the store itself is a StoreError that names the shard."""
    path = make_store(tmp_path / "a.zarr")
    data, local = _stream(Flaky(path), tmp_path / "cache"), ShardDataset(path, patch=12, seed=2)
    data.batch(0, 20)
    copies = [p for p in (tmp_path / "cache").rglob("hr/c/**/0") if p.is_file()]
    assert copies

    def flip(file):
        content = bytearray(file.read_bytes())
        content[10] ^= 1
        file.write_bytes(content)

    flip(copies[0])
    np.testing.assert_array_equal(data.batch(0, 20)["hr"], local.batch(0, 20)["hr"])
    copies[0].write_bytes(copies[0].read_bytes()[:50])  # cut short
    fresh = _stream(Flaky(path), tmp_path / "cache")
    np.testing.assert_array_equal(fresh.batch(0, 20)["hr"], local.batch(0, 20)["hr"])
    flip(path / "tiles/hr/c/0/0/0/0")
    flip(copies[0])
    with pytest.raises(StoreError, match="tiles/hr/c/0/0/0/0"):
        data.batch(0, 20)


def test_the_next_window_is_fetched_in_advance(tmp_path):
    """While one window of shards is read, the next one's shards arrive: a later batch waits for nothing."""
    path = make_store(tmp_path / "a.zarr", n=3 * 4096, masks=(1,))
    far = Flaky(path)
    data = _stream(far, tmp_path / "cache")
    data.batch(0, 1)
    data.stores[0].place._pool[1].shutdown(wait=True)
    assert {key for key in far.whole if "/c/" in key and key.startswith("tiles/hr")} == {
        f"tiles/hr/c/{i}/0/0/0" for i in range(3)
    }


def test_room_is_made_by_last_use():
    """The files used longest ago go; nothing goes that need not."""
    files = [(3.0, 10, Path("c")), (1.0, 10, Path("a")), (2.0, 10, Path("b"))]
    assert plan_room(files, 30) == []
    assert plan_room(files, 29) == [Path("a")]
    assert plan_room(files, 10) == [Path("b"), Path("a")]
    assert plan_room(files, -1) == [Path("c"), Path("b"), Path("a")]


def test_a_place_for_reading_cannot_be_written(tmp_path):
    """Neither set nor delete reaches the store."""
    place = RetryingStore(LocalStore(make_store(tmp_path / "a.zarr")))
    for write in (lambda: place.set("zarr.json", b""), lambda: place.delete("zarr.json")):
        with pytest.raises(StoreError, match="opened for reading"):
            write()
    assert "zarr.json" in list(place.list_keys())


def test_recent_keeps_what_was_used_last():
    """A bounded dictionary; its copy starts empty."""
    recent = LRUCache(2)
    recent["a"], recent["b"] = 1, 2
    assert recent.get("a") == 1
    recent["c"] = 3
    assert (recent.get("a"), recent.get("b"), recent.get("c"), len(recent)) == (1, None, 3, 2)
    assert len(pickle.loads(pickle.dumps(recent))) == 0  # noqa: S301
