"""Products with a banded matrix (each output row is a sum of a few neighbouring input rows), limited by memory bandwidth. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Tuned on 2040 x 1356 x 1/4. The products stay below OpenBLAS's threshold for threads, which would be slower.
_BLOCK = 4  # output rows per dense product: few, so that it holds few zeros
_STACK = 64  # dense products per call
_STRIP = 512  # columns at a time, so that the operands stay in the cache


def mirror(indices: np.ndarray, n: int) -> np.ndarray:
    """Reflect indices into 0 .. n - 1, with the edge repeated: -1 -> 0, n -> n - 1; periodic in 2 n."""
    folded = indices % (2 * n)
    return np.minimum(folded, 2 * n - 1 - folded)


def banded_product(values: np.ndarray, first: np.ndarray, weights: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """`sum_p weights[i, p] values[mirror(first[i] + p)]` for all i, piece by piece.

    Args:
        values: [n_in, m], of any number type; converted to that of the weights.
        first: int64 [n_out], ascending; may lie outside 0 .. n_in - 1.
        weights: float32 or float64 [n_out, P].

    Yields:
        The rows and columns of a piece and its sums, which may be overwritten afterwards.
    """
    bands, low = _bands(first, weights)
    taps, m = bands.shape[2], values.shape[1]
    stacks = [slice(k, min(k + _STACK, len(low))) for k in range(0, len(low), _STACK)]
    heights = [int(low[stack][-1] - low[stack][0]) + taps for stack in stacks]
    source = np.empty((max(heights), min(_STRIP, m)), weights.dtype)
    sums = np.empty((_STACK, _BLOCK, min(_STRIP, m)), weights.dtype)
    windows = sliding_window_view(source, taps, axis=0).swapaxes(1, 2)  # [., taps, columns], a view
    for stack, height in zip(stacks, heights, strict=True):
        rows = slice(stack.start * _BLOCK, min(stack.stop * _BLOCK, len(first)))
        start = int(low[stack][0])
        chosen = _as_slice(low[stack] - start)
        for x in range(0, m, _STRIP):
            width = min(_STRIP, m - x)
            _copy_rows(values[:, x : x + width], start, source[:height, :width])
            out = sums[: stack.stop - stack.start, :, :width]
            np.matmul(bands[stack], windows[chosen][:, :, :width], out=out)
            yield rows, slice(x, x + width), out.reshape(-1, width)[: rows.stop - rows.start]


def _bands(first: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights as matrices [n, _BLOCK, K], and the input row [n] where the K rows of each begin."""
    row = np.arange(len(first))
    block, within = row // _BLOCK, row % _BLOCK
    low = first[::_BLOCK]
    offset = first - low[block]
    bands = np.zeros((len(low), _BLOCK, int(offset.max()) + weights.shape[1]), weights.dtype)
    bands[block[:, None], within[:, None], offset[:, None] + np.arange(weights.shape[1])] = weights
    return bands, low


def _copy_rows(values: np.ndarray, start: int, out: np.ndarray) -> None:
    """Rows start .. start + len(out) - 1 of values, mirrored at the borders, into `out`."""
    stop = start + len(out)
    if start >= 0 and stop <= len(values):
        np.copyto(out, values[start:stop])
    else:
        np.copyto(out, values[mirror(np.arange(start, stop), len(values))])


def _as_slice(starts: np.ndarray) -> slice | np.ndarray:
    """Evenly spaced indices as a slice, which makes a view; others as they are, which makes a copy."""
    step = int(starts[1] - starts[0]) if len(starts) > 1 else 1
    even = step > 0 and bool((np.diff(starts) == step).all())
    return slice(int(starts[0]), int(starts[-1]) + 1, step) if even else starts
