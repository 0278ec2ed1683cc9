"""The order of samples as arithmetic on (seed, epoch, position): pure, the same for any number of workers or ranks.

One continuous stream: position p stands in epoch p // N, and batches cross the borders of epochs. Tiles are shuffled in two
steps so that reads stay sequential: the order of the blocks (one shard each), then the tiles within a window of a few blocks.
Each tile comes once per epoch. The idea of a shuffle as pure (sizes, seed, epoch) -> ids is that of mosaicml/streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .random_streams import Stream

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*words: int | np.ndarray) -> np.ndarray:
    """uint64 hash of integers (scalars or equal shapes): splitmix64, folded over the words (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state: np.ndarray | np.uint64 = np.uint64(0)
        for word in words:
            state = state ^ np.asarray(word).astype(np.uint64)
            state = state + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def draw(low: int, high: int, *words: int | np.ndarray) -> np.ndarray:
    """Integers in [low, high) as a function of the words alone. The modulo's bias is below 1e-15 for any image size."""
    return (low + (mix(*words) % np.uint64(high - low)).astype(np.int64)).astype(np.int64)


@dataclass(frozen=True)
class Order:
    """Rows of several stores in a shuffled order."""

    lengths: tuple[int, ...]
    """Tiles of each store."""
    block: tuple[int, ...]
    """Tiles per shard of each store."""
    seed: int = 0
    window: int = 8
    """Blocks that are mixed with each other; a reader touches that many shards at a time."""

    @property
    def total(self) -> int:
        """Tiles per epoch."""
        return sum(self.lengths)

    def locate(self, positions: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(store, row), int64 each, for global sample positions (any integers >= 0)."""
        positions = np.asarray(positions, np.int64)
        store, row = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(positions // self.total):
            chosen = positions // self.total == epoch
            store[chosen], row[chosen] = self._in_epoch(int(epoch), positions[chosen] % self.total)
        return store, row

    def ahead(self, position: int) -> tuple[tuple[int, int], np.ndarray]:
        """What a reader at a position reads now and next, to fetch it in advance.

        Returns:
            the window it is in, as (epoch, number); int64 [n, 3] of store, first row, rows: the blocks of that window and of the
            one after it.
        """
        epoch, within = divmod(position, self.total)
        blocks, edges = _blocks(self, epoch)
        index = int(np.searchsorted(edges, within, side="right")) - 1
        now_and_next = blocks[index * self.window : (index + 2) * self.window]
        if (index + 1) * self.window >= len(blocks):
            now_and_next = np.concatenate([now_and_next, _blocks(self, epoch + 1)[0][: self.window]])
        return (epoch, index), now_and_next

    def _in_epoch(self, epoch: int, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks, edges = _blocks(self, epoch)
        window = np.searchsorted(edges, within, side="right") - 1
        store, row = np.empty_like(within), np.empty_like(within)
        for index in np.unique(window):
            chosen = window == index
            rows = _window(self, epoch, int(index))[within[chosen] - edges[index]]
            store[chosen], row[chosen] = rows[:, 0], rows[:, 1]
        return store, row


def _permutation(n: int, *words: int) -> np.ndarray:
    """A permutation of range(n): the order of n hashes. Equal hashes (2^-64 n^2) would keep their order: still a permutation."""
    return np.argsort(mix(*words, np.arange(n)), kind="stable")


@lru_cache(maxsize=4)
def _blocks(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The epoch's blocks, shuffled: int64 [n, 3] of store, first row, rows; and where each window of blocks starts."""
    parts = []
    for store, (length, size) in enumerate(zip(order.lengths, order.block, strict=True)):
        first = np.arange(0, length, size)
        parts.append(np.stack([np.full_like(first, store), first, np.minimum(size, length - first)], axis=1))
    blocks = np.concatenate(parts)
    blocks = blocks[_permutation(len(blocks), order.seed, Stream.BLOCKS, epoch)]
    ends = np.cumsum(blocks[:, 2])
    starts = np.concatenate([[0], ends[order.window - 1 : -1 : order.window]])
    return blocks, starts


@lru_cache(maxsize=8)
def _window(order: Order, epoch: int, index: int) -> np.ndarray:
    """int64 [n, 2] of store and row: the tiles of one window, shuffled."""
    blocks, _ = _blocks(order, epoch)
    chosen = blocks[index * order.window : (index + 1) * order.window]
    rows = np.concatenate([np.stack([np.full(n, s), np.arange(f, f + n)], axis=1) for s, f, n in chosen])
    return rows[_permutation(len(rows), order.seed, Stream.WINDOW, epoch, index)]
