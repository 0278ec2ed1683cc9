"""Polygons as masks, with COCO's rasterisation (cocoapi, `maskApi.c: rleFrPoly`), vectorised; and unions of masks given as runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import SamdiffError
from .rle import spans

_STEPS = 5  # points per pixel of the boundary, as in maskApi.c
_TOLERANCE = 1.0  # pixels that a polygon may lie outside its image; tools round, and clip at different borders
_MOST_POINTS = 5_000_000  # of one boundary, which takes some 300 MB of memory


def polygon_runs(numbers: Sequence[float] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs of one polygon, equal to those of pycocotools: uint32 [R].

    Args:
        numbers: x0, y0, x1, y1, … in pixels; at least 3 points.
        height: H of the image.
        width: W of the image.

    Raises:
        SamdiffError: not such a list, or a point outside the image.
    """
    points = _points(numbers, height, width)
    corners = np.trunc(_STEPS * points + 0.5).astype(np.int64)
    u, v = _boundary(corners)
    step = np.flatnonzero(u[1:] != u[:-1]) + 1  # the boundary enters another column of the fine grid
    column = np.where(u[step] < u[step - 1], u[step], u[step] - 1)
    x = (column - _STEPS // 2) // _STEPS
    kept = (column % _STEPS == _STEPS // 2) & (x >= 0) & (x <= width - 1)  # columns through the centres of pixels
    row = (np.minimum(v[step], v[step - 1])[kept] + 0.5) / _STEPS - 0.5
    y = np.ceil(np.clip(row, 0, height)).astype(np.int64)
    position, count = np.unique(x[kept] * height + y, return_counts=True)
    toggles = position[(count % 2 == 1) & (position < height * width)]  # two at one pixel cancel
    return np.diff(np.concatenate([[0], toggles, [height * width]])).astype(np.uint32)


def union_runs(masks: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Runs of the union of masks, uint32 [R], given as runs; `size` is H W."""
    if len(masks) == 1:
        return masks[0]
    parts = [spans(counts) for counts in masks]
    start = np.concatenate([np.zeros(0, np.int64), *(first for first, _ in parts)])
    stop = np.concatenate([np.zeros(0, np.int64), *(last for _, last in parts)])
    order = np.argsort(start, kind="stable")
    start, stop = start[order], np.maximum.accumulate(stop[order])
    new = np.ones(len(start), bool)  # whether an interval begins a new run
    new[1:] = start[1:] > stop[:-1]
    begins = np.flatnonzero(new)
    ends = np.append(begins[1:], len(start))[: len(begins)] - 1
    edges = np.stack([start[begins], stop[ends]], axis=1).ravel()
    edges = edges[:-1] if len(edges) and edges[-1] == size else edges
    return np.diff(np.concatenate([[0], edges, [size]])).astype(np.uint32)


def _points(numbers: Sequence[float] | np.ndarray, height: int, width: int) -> np.ndarray:
    """float64 [k, 2] of (x, y), checked."""
    try:
        values = np.asarray(numbers, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise SamdiffError(f"polygon: expected numbers x0, y0, x1, y1, … ({error})") from error
    if values.ndim != 1 or len(values) % 2 or len(values) < 6:
        raise SamdiffError(f"polygon: expected at least 3 points x0, y0, x1, y1, …, got numbers of shape {list(values.shape)}")
    points = values.reshape(-1, 2)
    inside = ((points >= -_TOLERANCE) & (points <= np.array([width, height]) + _TOLERANCE)).all(axis=1)  # not for NaN
    if not inside.all():
        x, y = points[np.flatnonzero(~inside)[0]].tolist()
        raise SamdiffError(
            f"polygon: the point ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels (W x H); "
            "the polygon is damaged, or belongs to another image or another scale"
        )
    return points


def _boundary(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points along all edges of a closed polygon, int64 [k, 2] on the fine grid: u int64 [m], v int64 [m]."""
    start, stop = corners, np.roll(corners, -1, axis=0)
    distance = np.abs(stop - start)
    flat = distance[:, 0] >= distance[:, 1]
    length = distance.max(axis=1)
    if int(length.sum()) + len(length) > _MOST_POINTS:
        raise SamdiffError(f"polygon: its boundary is longer than {_MOST_POINTS // _STEPS} pixels")
    major = np.where(flat, 0, 1)
    edge = np.arange(len(corners))
    flipped = start[edge, major] > stop[edge, major]
    low, high = np.where(flipped[:, None], stop, start), np.where(flipped[:, None], start, stop)
    slope = (high[edge, 1 - major] - low[edge, 1 - major]) / np.maximum(length, 1)
    which = np.repeat(edge, length + 1)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    along = np.where(flipped[which], length[which] - offset, offset)
    on_major = along + low[which, major[which]]
    on_minor = np.trunc(low[which, 1 - major[which]] + slope[which] * along + 0.5).astype(np.int64)
    return np.where(flat[which], on_major, on_minor), np.where(flat[which], on_minor, on_major)
