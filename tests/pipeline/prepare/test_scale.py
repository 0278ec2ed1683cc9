"""A store of a million tiles opens at once and costs a worker nothing per tile."""

import pickle
import time
import tracemalloc

import numpy as np
import pytest

from samdiff import ShardDataset, ShardLoader
from samdiff.pipeline.shards.schema import ARRAYS, shape_of
from samdiff.pipeline.shards.writer import StoreWriter
from samdiff.pipeline.storage.local import LocalStore
from samdiff.pipeline.stream.order import Order

N, IMAGES = 1_000_000, 40_000
SIZES = {"I": IMAGES, "N": N, "M": 3 * IMAGES, "R": 0, "B": 5 * IMAGES, "B2": 0, "T": 4, "t": 1}


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """Tiles of 4 px whose first three bytes are their row's number; 25 tiles and 3 masks per image."""
    path = tmp_path_factory.mktemp("scale") / "million.zarr"
    writer = StoreWriter(LocalStore(path), SIZES)
    tables = {s.path: np.zeros(shape_of(s, SIZES), s.dtype) for s in ARRAYS if not s.path.startswith("tiles/")}
    tables["images/n_masks"][:], tables["images/first_mask"][:] = 3, 3 * np.arange(IMAGES)
    tables["images/n_tiles"][:], tables["images/first_tile"][:] = 25, 25 * np.arange(IMAGES)
    tables["images/height"][:], tables["images/width"][:] = 4, 4
    tables["images/name_offset"][:] = 5 * np.arange(IMAGES + 1)
    tables["images/name"][:] = np.frombuffer("".join(f"{k:05d}" for k in range(IMAGES)).encode(), np.uint8)
    tables["masks/codes"][:, 0] = np.arange(3 * IMAGES)
    writer.append(tables)
    for first in range(0, N, 4096 * 4):
        rows = np.arange(first, min(N, first + 4096 * 4))
        number = np.stack([rows >> 16, rows >> 8 & 255, rows & 255], axis=1).astype(np.uint8)
        hr = np.broadcast_to(number[:, None, None], (len(rows), 4, 4, 3))
        labels = np.ones((len(rows), 4, 4), np.uint16)
        place = np.stack([rows // 25, rows * 0, rows * 0], axis=1).astype(np.int32)
        writer.append({"tiles/hr": hr, "tiles/lr": hr[:, ::4, ::4], "tiles/labels": labels, "tiles/place": place})
    writer.commit({"scale": 4, "fingerprint": "f"})
    return path


@pytest.mark.slow
def test_a_million_tiles_open_and_give_the_first_batch_within_a_second(million):
    """Also from the middle of epoch 3, where a resume begins; and the right tiles."""
    ShardDataset(million).batch(0, 1)  # whatever Python imports on first use
    for start in (0, 3 * N + 777_777):
        begin = time.perf_counter()
        batch = next(iter(ShardLoader(ShardDataset(million, seed=start), 16, start=start, workers=2)))
        assert time.perf_counter() - begin < 1
        rows = batch["hr"][:, 0, 0].numpy().astype(int) @ [65536, 256, 1]
        np.testing.assert_array_equal(batch["image"], rows // 25)


@pytest.mark.slow
def test_a_worker_holds_nothing_per_tile(million):
    """What is pickled for a worker is small, and so is what opening and a hundred batches allocate: bytes per tile would be megabytes."""
    data = ShardDataset(million)
    assert len(pickle.dumps(data)) < 200_000
    tracemalloc.start()
    data = ShardDataset(million, seed=5)
    for index in range(100):
        data.batch(index * 16, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24e6, f"{peak / N:.1f} bytes per tile"


@pytest.mark.slow
def test_an_epoch_holds_each_of_a_million_tiles_once(million):
    """The order alone; asked in one go and in pieces."""
    order = ShardDataset(million, seed=9).order
    _, row = order.locate(np.arange(N, 2 * N))
    assert (np.bincount(row, minlength=N) == 1).all()
    np.testing.assert_array_equal(order.locate(np.arange(N + 500_000, N + 500_100))[1], row[500_000:500_100])


@pytest.mark.slow
def test_the_codes_of_a_large_store_are_read_fast(million):
    """The lookup table of all masks, which the trainer takes to its device."""
    begin = time.perf_counter()
    table, offset = ShardDataset(million).codes()
    assert time.perf_counter() - begin < 1
    assert table[offset[777] + 2] == 3 * 777 + 1
    assert table[offset[777]] == 0


def test_the_order_of_fifty_such_stores_is_found_at_once():
    """780,000 shards: the first position of an epoch within seconds, the next in no time."""
    order = Order((1_000_000,) * 50, (64,) * 50, seed=1)
    begin = time.perf_counter()
    order.locate(np.arange(16))
    assert time.perf_counter() - begin < 5
    begin = time.perf_counter()
    order.locate(np.arange(16, 32))
    assert time.perf_counter() - begin < 0.2
