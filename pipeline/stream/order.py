"""The order of samples as arithmetic on (seed, epoch, position), independent of the number of workers and ranks. Pure.

Global positions form one stream: position p is in epoch p // N, and batches may span epochs. Tiles are shuffled in two steps, so that
reads stay nearly sequential: first the order of blocks (one shard each), then the tiles in a window of a few blocks. Each tile occurs once
per epoch. A shuffle as a pure function (sizes, seed, epoch) -> ids is the idea of mosaicml/streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .random_streams import Stream

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*words: int | np.ndarray) -> np.ndarray:
    """A uint64 hash of integers (scalars or arrays that broadcast): splitmix64 (Steele et al. 2014), applied word by word."""
    with np.errstate(over="ignore"):
        state: np.ndarray | np.uint64 = np.uint64(0)
        for word in words:
            state = state ^ np.asarray(word).astype(np.uint64)
            state = state + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def draw(low: int, high: int, *, words: Sequence[int | np.ndarray]) -> np.ndarray:
    """Uniform int64 in [low, high) as a function of the words. The bias of the modulo is below 1e-15 for any image size."""
    return (low + (mix(*words) % np.uint64(high - low)).astype(np.int64)).astype(np.int64)


@dataclass(frozen=True)
class Order:
    """A shuffled order of the tiles of several stores."""

    lengths: tuple[int, ...]
    """Number of tiles of each store."""
    block: tuple[int, ...]
    """Number of tiles per shard of each store."""
    seed: int = 0
    window: int = 8
    """Number of blocks whose tiles are shuffled together; a reader uses that many shards at a time."""

    @property
    def total(self) -> int:
        """Number of tiles per epoch."""
        return sum(self.lengths)

    def locate(self, positions: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The (store, row) of global positions, int64 [n] each; `positions` are integers [n] of at least 0."""
        positions = np.asarray(positions, np.int64)
        store, row = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(positions // self.total):
            here = positions // self.total == epoch
            store[here], row[here] = self._in_epoch(int(epoch), positions[here] % self.total)
        return store, row

    def ahead(self, position: int) -> tuple[tuple[int, int], np.ndarray]:
        """The blocks that are read at and after a position, to download them in advance.

        Returns:
            The window of the position, as (epoch, number); and the blocks of this window and the next, int64 [n, 3]: store, first row,
            number of rows.
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
            here = window == index
            rows = _window(self, epoch, int(index))[within[here] - edges[index]]
            store[here], row[here] = rows[:, 0], rows[:, 1]
        return store, row


def _permutation(n: int, *, words: Sequence[int]) -> np.ndarray:
    """A permutation of range(n): the order of n hashes. It stays a permutation if two hashes are equal."""
    return np.argsort(mix(*words, np.arange(n)), kind="stable")


@lru_cache(maxsize=4)
def _blocks(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The shuffled blocks of an epoch, int64 [n, 3]: store, first row, number of rows; and the position in the epoch where each window starts."""
    parts = []
    for store, (length, size) in enumerate(zip(order.lengths, order.block, strict=True)):
        first = np.arange(0, length, size)
        parts.append(np.stack([np.full_like(first, store), first, np.minimum(size, length - first)], axis=1))
    blocks = np.concatenate(parts)
    blocks = blocks[_permutation(len(blocks), words=(order.seed, Stream.BLOCKS, epoch))]
    ends = np.cumsum(blocks[:, 2])
    starts = np.concatenate([[0], ends[order.window - 1 : -1 : order.window]])
    return blocks, starts


@lru_cache(maxsize=8)
def _window(order: Order, epoch: int, index: int) -> np.ndarray:
    """The shuffled tiles of one window, int64 [n, 2]: store, row."""
    blocks, _ = _blocks(order, epoch)
    mixed = blocks[index * order.window : (index + 1) * order.window]
    rows = np.concatenate([np.stack([np.full(n, s), np.arange(f, f + n)], axis=1) for s, f, n in mixed])
    return rows[_permutation(len(rows), words=(order.seed, Stream.WINDOW, epoch, index))]
