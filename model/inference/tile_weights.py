"""The tiles of an image, and smooth weights that blend them without a seam. Pure.

A tiling is the product of two axes. Along an axis the weights of the tiles that cover a pixel sum to 1: they follow
half a cosine over the overlap, and are 0 on its outermost quarter, where a network sees the edge of the tile instead of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import ConfigError


@dataclass(frozen=True)
class Axis:
    """Equal tiles along one axis."""

    size_lr: int
    """Pixels of a tile."""
    starts_lr: tuple[int, ...]
    """First pixel of each tile; the last tile ends with the image."""
    weights: np.ndarray
    """float32 [tiles, s size_lr]: weight of each tile per HR pixel; the weights of overlapping tiles sum to 1."""


@dataclass(frozen=True)
class Tile:
    """One tile: its position and its weights."""

    index: int
    """In reading order."""
    y_lr: int
    """First row."""
    x_lr: int
    """First column."""
    weight_y: np.ndarray
    """float32, one per HR row."""
    weight_x: np.ndarray
    """float32, one per HR column."""


@dataclass(frozen=True)
class Tiling:
    """All tiles of an image have one size, so they can share a batch."""

    rows: Axis
    columns: Axis
    scale: int

    @property
    def tiles(self) -> list[Tile]:
        """In reading order."""
        return [
            Tile(
                i * len(self.columns.starts_lr) + j,
                y_lr=y,
                x_lr=x,
                weight_y=self.rows.weights[i],
                weight_x=self.columns.weights[j],
            )
            for i, y in enumerate(self.rows.starts_lr)
            for j, x in enumerate(self.columns.starts_lr)
        ]


def plan_tiles(height: int, width: int, scale: int, multiple: int, tile: int, overlap: int) -> Tiling:
    """Cover an image with tiles.

    Args:
        height: of LR in pixels, such that s height is a multiple of `multiple`.
        width: of LR in pixels, likewise.
        scale: HR pixels per LR pixel.
        multiple: HR pixels of the network's coarsest pixel; tiles start and end on multiples of it.
        tile: largest side of a tile in LR pixels; 0: one tile.
        overlap: least overlap of neighbours in LR pixels.

    Raises:
        ConfigError: a tile smaller than the minimum of the network, or too small for its overlap.
    """
    step = multiple // math.gcd(multiple, scale)
    least = -(-max(-(-2 * multiple // scale), 2 * overlap + 1, overlap + step) // step) * step
    if tile < 0 or overlap < 0 or 0 < tile < least:
        raise ConfigError(
            f"tile: expected 0 (none) or at least {least} pixels of the input (twice the network's coarsest pixel of "
            f"{multiple}/{scale}, and more than twice the overlap of {overlap}), got {tile} with overlap {overlap}"
        )
    size = tile // step * step
    rows, columns = (_axis(side, size or side, overlap, step=step, scale=scale) for side in (height, width))
    return Tiling(rows, columns, scale)


def _axis(length: int, size: int, overlap: int, step: int, scale: int) -> Axis:
    """Evenly spread tiles, so that all overlaps are about equal."""
    if size >= length:
        return Axis(length, (0,), np.ones((1, length * scale), np.float32))
    stride = (size - overlap) // step * step
    count = math.ceil((length - size) / stride) + 1
    starts = tuple(round(i * (length - size) / (count - 1) / step) * step for i in range(count))
    total = np.zeros(length * scale)
    windows = [
        _window(size * scale, overlap * scale, fades_in=index > 0, fades_out=index < count - 1) for index in range(count)
    ]
    for start, window in zip(starts, windows, strict=True):
        total[start * scale : (start + size) * scale] += window
    cut = [window / total[start * scale : (start + size) * scale] for start, window in zip(starts, windows, strict=True)]
    return Axis(size, starts, np.stack(cut).astype(np.float32))


def _window(size: int, overlap: int, fades_in: bool, fades_out: bool) -> np.ndarray:
    """float64 [size]: 1, except for half a cosine over the middle half of the overlap at each side that has a neighbour."""
    ramp = np.clip((np.arange(overlap) + 0.5 - overlap / 4) / max(overlap / 2, 1), 0, 1)
    rise = np.sin(np.pi / 2 * ramp) ** 2
    window = np.ones(size)
    if fades_in:
        window[:overlap] = rise
    if fades_out:
        window[size - overlap :] *= rise[::-1]
    return window
