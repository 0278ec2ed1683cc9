"""Which points of a grid mode `fast` prompts: a coarse grid, and the points where the embedding has most contrast. Pure.

All are known before the first prompt is decoded. To choose more of them by what the first ones found was measured, too: it finds no
more masks for the same number of points (docs/masks.md).
"""

from __future__ import annotations

import math

import numpy as np

_COARSE = 8
"""Cells along each side of the image; each has one point of the coarse grid."""


def choose_points(points: np.ndarray, values: np.ndarray, share: float) -> np.ndarray:
    """The points to prompt.

    Args:
        points: float64 [n, 2]: (x, y) in 0 .. 1.
        values: float32 [n]: the contrast at each.
        share: of the n points to take for their contrast, 0 .. 1, rounded up.

    Returns:
        int64 [m]: their indices, ascending. Equal values are taken in the order of the points.
    """
    taken = np.zeros(len(points), bool)
    taken[coarse_points(points)] = True
    taken[np.argsort(-values, kind="stable")[: math.ceil(share * len(points))]] = True
    return np.flatnonzero(taken)


def coarse_points(points: np.ndarray) -> np.ndarray:
    """The point nearest to the centre of each of 8 x 8 cells, the first one of several: int64 [at most 64]; cells without points have none.

    Of 32 x 32 points: every fourth in both directions.
    """
    cell = np.minimum((points * _COARSE).astype(np.int64), _COARSE - 1)
    distance = np.abs(points * _COARSE - cell - 0.5).max(1)
    order = np.argsort(distance, kind="stable")
    _, first = np.unique((cell @ np.array([1, _COARSE]))[order], return_index=True)
    return order[first]
