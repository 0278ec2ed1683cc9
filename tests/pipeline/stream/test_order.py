"""The order of samples: arithmetic, each tile once per epoch, mixed well, the same however it is asked."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from samdiff.pipeline.stream.order import Order, draw, mix


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    block=st.integers(1, 32),
    window=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
)
def test_every_tile_once_per_epoch(lengths, block, window, seed, epoch):
    """An epoch is a permutation of all rows of all stores."""
    order = Order(tuple(lengths), (block,) * len(lengths), seed, window)
    positions = np.arange(order.total) + epoch * order.total
    store, row = order.locate(positions)
    found = sorted(zip(store.tolist(), row.tolist(), strict=True))
    assert found == [(s, r) for s, n in enumerate(lengths) for r in range(n)]


def test_any_portion_gives_the_same_rows():
    """Asked one by one, backwards or across the epoch's edge, a position has the same row."""
    order = Order((70, 33), (16, 8), seed=5, window=2)
    whole = np.stack(order.locate(np.arange(300)), axis=1)
    assert all((np.stack(order.locate([p]), axis=1)[0] == whole[p]).all() for p in (0, 102, 103, 205, 206, 299))
    backwards = np.stack(order.locate(np.arange(299, -1, -1)), axis=1)
    np.testing.assert_array_equal(backwards[::-1], whole)


def test_epochs_and_seeds_differ():
    """The order changes with the epoch and with the seed."""
    rows = [Order((500,), (64,), seed=s).locate(np.arange(500) + e * 500)[1] for s, e in ((0, 0), (0, 1), (1, 0))]
    assert all((a != b).mean() > 0.9 for i, a in enumerate(rows) for b in rows[:i])


def test_a_window_touches_few_blocks():
    """Reads stay sequential: within any window only `window` blocks are open."""
    order = Order((6400,), (64,), seed=3, window=4)
    _, row = order.locate(np.arange(6400))
    blocks = (row // 64).reshape(-1, 256)
    assert max(len(np.unique(part)) for part in blocks) == 4
    correlation = np.corrcoef(row[:256], np.arange(256))[0, 1]
    assert abs(correlation) < 0.2


def test_the_hash_is_uniform_and_frozen():
    """Chi-square over 64 bins of consecutive positions, and two frozen values (orders must not change between releases)."""
    counts = np.bincount(draw(0, 64, words=(7, np.arange(64_000))), minlength=64)
    chi2 = ((counts - 1000.0) ** 2 / 1000).sum()
    assert 25 < chi2 < 110  # 63 degrees of freedom: .00001 on either side
    assert [int(mix(0)), int(mix(1, 2))] == [0xE220A8397B1DCDAF, 13608149317741381227]  # the first is the published one
    bits = (mix(np.arange(4096)) ^ mix(np.arange(4096) ^ 1))[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    assert 31 < bits.sum(axis=1).mean() < 33  # one flipped input bit flips half of the output
