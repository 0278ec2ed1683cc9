"""COCO's run-length encoding of masks, vectorised. Pure.

`counts` is uint32 [R]: lengths of alternating runs of zeros and ones in column-major order, zeros first (that run may have
length 0); they sum to H W. COCO's compressed string is in `coco`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ...errors import SamdiffError
from .coco import from_string, to_string

MAX_MASKS = 65535
"""Labels are uint16, and 0 means no mask."""

CocoMask = Mapping[str, Any]
"""COCO's run-length encoding of a mask (`size`, `counts`), or a record of segment-anything that holds one: JSON values by key."""


def counts_of(mask: CocoMask | np.ndarray, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Runs of one mask, checked: uint32 [R].

    Args:
        mask: a COCO dict `{"size": [H, W], "counts": str | bytes | list[int]}`, runs (integers [R]) or a mask (bool [H, W]).
        height: expected H; None: that of the dict or mask. Required for runs, which have no size.
        width: expected W, likewise.

    Raises:
        SamdiffError: the size differs, the runs do not sum to H W, or they are not integers [R].
    """
    if isinstance(mask, Mapping):
        size, given = _size_of(mask), mask["counts"]
        counts = from_string(given) if isinstance(given, str | bytes) else _as_integers(given)
    elif isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
        if mask.ndim != 2:
            raise SamdiffError(f"mask: expected bool [H, W], got shape {list(mask.shape)}")
        size, counts = (mask.shape[0], mask.shape[1]), encode(mask)
    else:
        if height is None or width is None:
            raise SamdiffError("mask: expected height and width with runs, which have no size of their own")
        size, counts = (height, width), _as_integers(mask)
    size = int(size[0]), int(size[1])
    expected = (size[0] if height is None else height, size[1] if width is None else width)
    if size != expected:
        raise SamdiffError(
            f"mask: expected {expected[0]} x {expected[1]} (H x W) like the image, got {size[0]} x {size[1]}; "
            "masks must have the size and orientation of the full image"
        )
    _check_runs(counts, *expected)
    return counts.astype(np.uint32, copy=False)


def encode(mask: np.ndarray) -> np.ndarray:
    """bool [H, W] -> runs, uint32 [R]; only the first run can have length 0."""
    flat = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).ravel() if mask.size else np.zeros(0, np.uint8)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0, 0] if flat.size and flat[0] else [0]
    return np.diff(np.concatenate([first, edges, [flat.size]])).astype(np.uint32)


def decode(counts: np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs uint32 [R] -> bool [H, W], C-contiguous."""
    if height == 0 or width == 0:
        return np.zeros((height, width), bool)
    values = np.repeat((np.arange(len(counts)) % 2).astype(np.uint8), counts)
    return cv2.transpose(values.reshape(width, height)).view(bool)


def area(counts: np.ndarray) -> int:
    """Number of pixels of a mask given as runs."""
    return int(counts[1::2].sum(dtype=np.int64))


def box(counts: np.ndarray, height: int) -> tuple[int, int, int, int]:
    """Bounding box x0, y0, x1, y1 of a mask given as runs, half-open; all 0 if the mask is empty."""
    start, stop = spans(counts)
    if not len(start):
        return 0, 0, 0, 0
    first, last = start // height, (stop - 1) // height
    whole = bool((first != last).any())  # a run over several columns touches the top and the bottom row
    y0, y1 = (0, height) if whole else (int((start % height).min()), int(((stop - 1) % height).max()) + 1)
    return int(first[0]), y0, int(last[-1]) + 1, y1


def spans(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (exclusive) of each non-empty run of ones, as column-major pixel indices: int64 [r], int64 [r], ascending."""
    edges = np.cumsum(counts, dtype=np.int64)
    stop = edges[1::2]
    start = edges[0::2][: len(stop)]
    kept = stop > start
    return (start, stop) if kept.all() else (start[kept], stop[kept])


def paint_labels(masks: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Paint masks (runs) in order, later over earlier: uint16 [H, W], 0 = no mask, k = the k-th mask (1-based).

    Raises:
        SamdiffError: more than 65535 masks.
    """
    if len(masks) > MAX_MASKS:
        raise SamdiffError(f"masks: expected at most {MAX_MASKS} per image (labels are uint16), got {len(masks)}")
    flat = np.zeros(height * width, np.uint16)  # column-major, like the runs
    for label, counts in enumerate(masks, start=1):
        before, inside = int(counts[0]), counts[1 : len(counts) // 2 * 2]  # from the first run of ones to the last
        values = np.repeat(np.where(np.arange(len(inside)) % 2, 0, label).astype(np.uint16), inside)
        part = flat[before : before + len(values)]
        np.maximum(part, values, out=part)  # the later label is the larger one
    return cv2.transpose(flat.reshape(width, height)) if flat.size else flat.reshape(height, width)


def label_runs(labels: np.ndarray) -> list[np.ndarray]:
    """Runs of each label of a map, uint32 [R] each, in ascending order of the labels; 0 is no mask.

    Args:
        labels: unsigned integers [H, W].
    """
    flat = cv2.transpose(np.ascontiguousarray(labels)).ravel()  # column-major, like the runs
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start, stop = np.append(0, edges), np.append(edges, flat.size)
    value = flat[start] if flat.size else flat[:0]
    order = np.argsort(value, kind="stable")
    order = order[value[order] > 0]
    groups = np.split(order, np.flatnonzero(np.diff(value[order])) + 1) if order.size else []
    masks = []
    for group in groups:
        edge = np.stack([start[group], stop[group]], axis=1).ravel()
        edge = edge[:-1] if edge[-1] == flat.size else edge
        masks.append(np.diff(np.concatenate([[0], edge, [flat.size]])).astype(np.uint32))
    return masks


def to_coco(counts: np.ndarray, height: int, width: int) -> CocoMask:
    """Runs as a COCO dict with the compressed string."""
    return {"size": [height, width], "counts": to_string(counts)}


def _size_of(mask: CocoMask) -> tuple[int, int]:
    if "size" not in mask or "counts" not in mask:
        raise SamdiffError(f"mask: expected a COCO RLE with the keys size and counts, got {sorted(map(str, mask))}")
    size = mask["size"]
    if not isinstance(size, Sequence | np.ndarray) or len(size) != 2:
        raise SamdiffError(f"mask: size: expected [H, W], got {size!r}")
    if not all(isinstance(side, int | np.integer) and side >= 0 for side in size):
        raise SamdiffError(f"mask: size: expected [H, W], got {list(size)}")
    return int(size[0]), int(size[1])


def _as_integers(values: object) -> np.ndarray:
    try:
        counts = np.asarray(values)
    except ValueError as error:  # lists of different lengths, for example polygons
        raise SamdiffError(f"mask: counts: expected integers [R] ({error})") from error
    if counts.ndim != 1 or (counts.dtype.kind not in "iu" and counts.size):
        raise SamdiffError(f"mask: counts: expected integers [R], got {counts.dtype} of shape {list(counts.shape)}")
    return counts


def _check_runs(counts: np.ndarray, height: int, width: int) -> None:
    if counts.size and int(counts.min()) < 0:
        raise SamdiffError(f"mask: counts: expected lengths >= 0, got {counts.min()}")
    longest = int(counts.max()) if counts.size else 0
    total = int(counts.sum(dtype=np.int64)) if longest <= height * width else longest
    if total != height * width or height * width >= 1 << 32:
        raise SamdiffError(
            f"mask: runs cover {total} pixels, expected {height * width} ({height} x {width}, at most 2^32 - 1); "
            "the mask is damaged or belongs to another image"
        )
