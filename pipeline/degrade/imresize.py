"""MATLAB's bicubic `imresize`, bit-exact on uint8 and uint16. Pure.

The algorithm is the documented one of MATLAB's Image Processing Toolbox: cubic kernel with a = -1/2 (Keys 1981), stretched by 1/scale
when shrinking (antialiasing), borders mirrored with the edge pixel repeated, one pass per dimension (the smaller scale first, rows
first if equal), and for uint8 and uint16 a rounding to that type after each pass, halves up.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from ...errors import SamdiffError
from .banded import banded_product, mirror

_STEP = 2.0**-15  # sums of uint8 times multiples of this are exact in float32
_PART = 1 << 21  # fewest values per thread; at most as many threads as OpenCV may use (`runtime.setup_process`)
_NEAR = 1e-9  # distance from a half within which the order of a float64 sum may decide the rounding


def imresize(image: np.ndarray, scale: float | None = None, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Resize like MATLAB's `imresize(image, scale)`, or to `size` like `imresize(image, [rows cols])`.

    Args:
        image: uint8, uint16, float32 or float64, [H, W] or [H, W, C].
        scale: output / input along both axes, > 0; the output has ceil(scale H) rows.
        size: rows and columns of the output instead; the scales are then output / input per axis.

    Returns:
        The same dtype and number of dimensions. Floats are summed in float64, neither rounded nor clipped.

    Raises:
        SamdiffError: another dtype or shape, an empty image, or not exactly one of scale and size.
    """
    if image.ndim not in (2, 3) or image.size == 0 or image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise SamdiffError(
            f"imresize: expected uint8, uint16, float32 or float64 [H, W] or [H, W, C], got {image.dtype} {list(image.shape)}"
        )
    scales, (rows, columns) = _scales_and_size(image.shape[:2], scale, size)
    work = image if image.dtype.kind == "u" else image.astype(np.float64)
    if scales[0] <= scales[1]:  # MATLAB sorts the dimensions by scale; equal scales keep their order
        out = _transposed(_resize_rows(_transposed(_resize_rows(work, rows, scales[0])), columns, scales[1]))
    else:
        out = _resize_rows(_transposed(_resize_rows(_transposed(work), columns, scales[1])), rows, scales[0])
    return out.astype(image.dtype, copy=False)


def resize_weights(n_in: int, n_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Input pixels of each output pixel and their weights, along one axis.

    Args:
        n_in: pixels of the input.
        n_out: pixels of the output.
        scale: output / input, which sets the kernel; may differ from n_out / n_in, as MATLAB uses the requested scale.

    Returns:
        indices int64 [n_out, P] in 0 .. n_in - 1 (mirrored at the borders, so one may occur twice) and weights float64
        [n_out, P]; each row sums to 1.
    """
    first, weights = _taps(n_out, scale)
    return mirror(first[:, None] + np.arange(weights.shape[1]), n_in), weights


def _taps(n_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """First input pixel of each output pixel, int64 [n_out], and the weights [n_out, P] from there on, ignoring borders."""
    shrink = min(scale, 1.0)  # < 1: the kernel is stretched, which is the antialiasing
    width = 4.0 / shrink
    centre = np.arange(1, n_out + 1) / scale + 0.5 * (1 - 1 / scale)  # MATLAB's coordinates: the first pixel is 1
    left = np.floor(centre - width / 2)
    # in MATLAB's order: position of the tap, then difference. (centre - left) - k rounds differently and can change a tie
    places = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = shrink * _cubic(shrink * (centre[:, None] - places))
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.flatnonzero(weights.any(axis=0))
    return left.astype(np.int64) + used[0] - 1, weights[:, used[0] : used[-1] + 1]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -1/2 (IEEE TASSP 29(6), 1981, equation 15)."""
    x = np.abs(x)
    x2, x3 = x * x, x * x * x
    near, far = 1.5 * x3 - 2.5 * x2 + 1, -0.5 * x3 + 2.5 * x2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _resize_rows(image: np.ndarray, n_out: int, scale: float) -> np.ndarray:
    """One pass along the first axis: [n_in, ...] -> [n_out, ...]; uint8 and uint16 are rounded, float64 stays."""
    flat = image.reshape(len(image), -1)
    out = np.empty((n_out, flat.shape[1]), image.dtype)
    taps = _taps(n_out, scale)
    parts = min(cv2.getNumThreads(), flat.size // _PART)
    if parts < 2:
        _fill(out, flat, *taps)
    else:  # columns are independent, so any number of threads gives the same bytes
        cuts = np.linspace(0, flat.shape[1], parts + 1).astype(int)
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(lambda a, b: _fill(out[:, a:b], flat[:, a:b], *taps), cuts[:-1], cuts[1:]))
    return out.reshape(n_out, *image.shape[1:])


def _fill(out: np.ndarray, values: np.ndarray, first: np.ndarray, weights: np.ndarray) -> None:
    """Weighted sums of the rows of `values` [n_in, m] into `out` [n_out, m], rounded for uint8 and uint16."""
    exact = values.dtype == np.uint8 and _exact_in_float32(weights)
    for rows, columns, sums in banded_product(values, first, weights.astype(np.float32) if exact else weights):
        part = out[rows, columns]
        if exact:  # OpenCV rounds halves to even; adding half a step rounds them up
            cv2.add(sums, np.array(_STEP / 2), dst=part, dtype=cv2.CV_8U)
        elif values.dtype.kind == "u":  # sums in float64: exactness in float32 rests on 8 bits
            _sum_in_order(sums, values[:, columns], first=first[rows], weights=weights[rows])
            part[:] = np.clip(sums + 0.5, 0, np.iinfo(values.dtype).max)  # the cast truncates
        else:
            part[:] = sums


def _exact_in_float32(weights: np.ndarray) -> bool:
    """Whether sums of weights times uint8 come out exact in float32, whatever the order and with or without fused products.

    True if all weights are multiples of 2^-15 and sum |w| 255 2^15 < 2^24: then every product and every partial sum is an integer
    multiple of 2^-15 with at most 24 bits. It holds for the scales 1/2, 1/4, 2, 4 and 8; halves are then true halves.
    """
    steps = weights / _STEP
    return bool((steps == np.rint(steps)).all() and np.abs(steps).sum(axis=1).max() * 255 < 2**24)


def _sum_in_order(sums: np.ndarray, values: np.ndarray, first: np.ndarray, weights: np.ndarray) -> None:
    """Repeat sums near a tie tap by tap, as a plain loop does, where the summation order of the BLAS could change the rounding. In place."""
    row, column = np.nonzero(np.abs(sums - np.floor(sums) - 0.5) < _NEAR)
    again = np.zeros(len(row))
    for tap in range(weights.shape[1]):
        again += weights[row, tap] * values[mirror(first[row] + tap, len(values)), column]
    sums[row, column] = again


def _transposed(image: np.ndarray) -> np.ndarray:
    """[H, W, ...] -> [W, H, ...], contiguous."""
    if image.ndim == 2 or image.shape[2] in (3, 4):
        return cv2.transpose(np.ascontiguousarray(image))
    return np.ascontiguousarray(image.swapaxes(0, 1))


def _scales_and_size(
    shape: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> tuple[tuple[float, float], tuple[int, int]]:
    if (scale is None) == (size is None):
        raise SamdiffError("imresize: expected either a scale or a size")
    if size is not None:
        rows, columns = size
        scales = (rows / shape[0], columns / shape[1])
    else:
        assert scale is not None
        if not (scale > 0 and math.isfinite(scale)):
            raise SamdiffError(f"imresize: expected a scale > 0, got {scale}")
        scales = (float(scale), float(scale))
        rows, columns = math.ceil(scale * shape[0]), math.ceil(scale * shape[1])
    if rows < 1 or columns < 1:
        raise SamdiffError(f"imresize: expected at least 1 x 1 pixels, got {rows} x {columns}")
    return scales, (rows, columns)
