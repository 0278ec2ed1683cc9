"""Loaders: one order for any number of workers and ranks, exact resume, errors that arrive, no deadlock under fork or spawn."""

import multiprocessing
import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from samdiff import ShardDataset, ShardLoader, ShardStream
from samdiff.errors import ConfigError, StoreError
from samdiff.pipeline.stream.loader import plan_steps

from ...helpers.stores import make_store


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """23 tiles in two stores: no batch size below divides the epoch."""
    folder = tmp_path_factory.mktemp("loader")
    return ShardDataset([make_store(folder / "a.zarr", n=16), make_store(folder / "b.zarr", n=7)], patch=12, seed=4)


def _equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), err_msg=name)


@given(
    batch=st.integers(1, 7),
    start=st.integers(0, 500),
    steps=st.integers(0, 9),
    ranks=st.integers(1, 3),
    workers=st.sampled_from([1, 2, 4]),
)
def test_workers_and_ranks_cover_the_stream_once(batch, start, steps, ranks, workers):
    """All workers of all ranks together make each position of the stream once; taken in turn, in order."""
    plans = [
        [
            list(plan_steps(batch, start=start, steps=steps, rank=r, ranks=ranks, worker=w, workers=workers))
            for w in range(workers)
        ]
        for r in range(ranks)
    ]
    made = sorted(first + i for rank in plans for worker in rank for first in worker for i in range(batch))
    assert made == list(range(start, start + steps * ranks * batch))
    for rank, worker_plans in enumerate(plans):
        turns = [worker_plans[k % workers][k // workers] for k in range(steps)]
        assert turns == list(plan_steps(batch, start=start, steps=steps, rank=rank, ranks=ranks))


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_tile_once_per_epoch_for_any_workers_and_ranks(data, workers, ranks):
    """The ranks' batches, put together step by step, are the one stream; over two epochs each tile comes twice."""
    steps = 23  # 2 x ranks x 23 samples: a whole number of epochs
    loaders = [ShardLoader(data, 2, steps=steps, rank=r, ranks=ranks, workers=workers) for r in range(ranks)]
    positions, red = [], []
    for parts in zip(*loaders, strict=True):
        for part in parts:
            positions += part["position"].tolist()
            red += part["hr"][:, 0, 0, 0].tolist()
    assert positions == list(range(2 * ranks * steps))
    for epoch in range(2 * ranks):
        assert sorted(red[epoch * 23 : (epoch + 1) * 23]) == sorted([*range(16), *range(7)])


def test_resume_twice_at_the_edge_with_other_workers_and_ranks(data):
    """Stopped after 3 steps, at an epoch's edge and beyond, each time resumed with other workers and ranks: the same samples."""
    whole = data.batch(0, 96)
    position, seen = 0, []
    for batch, ranks, workers, steps in ((6, 1, 2, 3), (5, 1, 4, 1), (3, 2, 0, 5), (1, 3, 1, 6), (5, 1, 2, 5)):
        loaders = [
            ShardLoader(data, batch, start=position, steps=steps, rank=r, ranks=ranks, workers=workers) for r in range(ranks)
        ]
        seen += [part for parts in zip(*loaders, strict=True) for part in parts]
        position += batch * ranks * steps
    assert position == 96  # 18 | 23, the first epoch's edge | 53 | 71 | 96
    _equal({name: torch.cat([part[name] for part in seen]) for name in seen[0]}, whole)


def test_breaking_off_ends_the_threads(data):
    """A loop left early, or an iterator let go, leaves no thread behind; the loader can be used again."""
    loader = ShardLoader(data, 3, workers=4)
    for _ in loader:
        break
    first = next(iter(loader))
    _equal(first, data.batch(0, 3))
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("shards") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread is still there"
        time.sleep(0.01)


def test_an_error_in_a_worker_arrives_in_its_turn(data):
    """The batches before a failing one are handed out, then its error is raised with its own message."""

    def make(first, size):
        if first == 12:
            raise StoreError("tiles/hr/c/1: damaged")
        return data.batch(first, size)

    taken = []
    with pytest.raises(StoreError, match="tiles/hr/c/1: damaged"):
        taken.extend(batch["position"][0].item() for batch in ShardLoader(make, 4, workers=3))
    assert taken == [0, 4, 8]


def test_batches_are_made_ahead_but_not_without_bound(data):
    """While the consumer is busy, workers x ahead batches (and no more) are made."""
    made = []
    batches = iter(ShardLoader(lambda first, size: made.append(first) or data.batch(first, size), 1, workers=2, ahead=3))
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(made) == list(range(7))  # the one taken and 2 x 3 in store
    batches.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_loader_gives_the_same_batches_for_any_workers(data, workers):
    """`ShardStream` in forked workers; threads that read and decode are at work in this process when it forks."""
    busy = iter(ShardLoader(data, 4, workers=2))
    next(busy)
    stream = ShardStream(data, 5, start=20, steps=5)
    loader = DataLoader(stream, batch_size=None, num_workers=workers, timeout=60 if workers else 0)
    batches = list(loader)
    _equal({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, data.batch(20, 25))
    assert next(busy)["position"].tolist() == [4, 5, 6, 7]
    busy.close()


def test_torch_loader_with_spawned_workers_and_map_style(data):
    """Spawned workers get the data set by pickle; the map-style data set gives the same samples, asked in any order."""
    context = multiprocessing.get_context("spawn")
    loader = DataLoader(data, batch_size=4, sampler=range(30, 38), num_workers=1, multiprocessing_context=context, timeout=120)
    batches = list(loader)
    _equal({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, data.batch(30, 8))
    shuffled = data.__getitems__([37, 2, 30])
    assert [int(sample["position"]) for sample in shuffled] == [37, 2, 30]
    np.testing.assert_array_equal(shuffled[2]["hr"], data.batch(30, 1)["hr"][0])


def test_settings_that_cannot_be_meant(data):
    """Named at construction, not at the first batch."""
    for wrong in ({"rank": 2, "ranks": 2}, {"start": -1}, {"workers": -1}, {"ahead": 0}, {"steps": -1}):
        with pytest.raises(ConfigError, match="expected"):
            ShardLoader(data, 2, **wrong)
    with pytest.raises(ConfigError, match="batch 0"):
        ShardStream(data, 0)
    assert len(list(islice(ShardStream(data, 5), 99))) == 4  # an epoch of 23, whole batches
