"""MATLAB's bicubic `imresize`, bit for bit on uint8. Pure.

The algorithm is the documented one of MATLAB's Image Processing Toolbox: cubic kernel with a = -1/2 (Keys 1981), stretched by 1/scale
when shrinking (antialiasing), borders mirrored with the edge pixel repeated, one pass per dimension (the smaller scale first, rows
first if equal), and for uint8 a rounding to uint8 after each pass, halves up.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ..errors import SamdiffError

_BLOCK = 8  # output rows per matrix product: few, so that its band of weights holds few zeros
_STRIP = 8192  # values per row and product, so that its operands stay in the cache
_STEP = 2.0**-15  # what the weights must be multiples of for sums that are exact in float32
_HALF_STEP = _STEP / 2
_NEAR = 1e-9  # distance from a half within which the order of a float64 sum may decide the rounding


def imresize(image: np.ndarray, scale: float | None = None, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Resize like MATLAB's `imresize(image, scale)`, or to `size` like `imresize(image, [rows cols])`.

    Args:
        image: uint8 (0..255), float32 or float64, [H, W] or [H, W, C].
        scale: output / input along both axes, > 0; the output has ceil(scale H) rows.
        size: rows and columns of the output instead; the scales are then output / input per axis.

    Returns:
        The same dtype and number of dimensions. Floats are summed in float64, neither rounded nor clipped.

    Raises:
        SamdiffError: another dtype or shape, an empty image, or not exactly one of scale and size.
    """
    if image.ndim not in (2, 3) or image.size == 0 or image.dtype not in (np.uint8, np.float32, np.float64):
        raise SamdiffError(
            f"imresize: expected uint8, float32 or float64 [H, W] or [H, W, C], got {image.dtype} {list(image.shape)}"
        )
    scales, (rows, columns) = _scales_and_size(image.shape[:2], scale, size)
    down = resize_weights(image.shape[0], rows, scales[0])
    across = resize_weights(image.shape[1], columns, scales[1])
    work = image if image.dtype == np.uint8 else image.astype(np.float64)
    if scales[0] <= scales[1]:  # MATLAB sorts the dimensions by scale; equal scales keep their order
        out = _transposed(_resize_rows(_transposed(_resize_rows(work, *down)), *across))
    else:
        out = _resize_rows(_transposed(_resize_rows(_transposed(work), *across)), *down)
    return out.astype(image.dtype, copy=False)


def resize_weights(n_in: int, n_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Which input pixels make an output pixel, and how much of each, along one axis.

    Args:
        n_in: pixels of the input.
        n_out: pixels of the output.
        scale: output / input as the kernel sees it (need not equal n_out / n_in: MATLAB's is the scale that was asked for).

    Returns:
        indices int64 [n_out, P] in 0 .. n_in - 1 (mirrored at the borders, so one may occur twice) and weights float64
        [n_out, P]; each row sums to 1.
    """
    shrink = min(scale, 1.0)  # < 1: the kernel is stretched, which is the antialiasing
    width = 4.0 / shrink
    centre = np.arange(1, n_out + 1) / scale + 0.5 * (1 - 1 / scale)  # MATLAB's 1-based coordinates
    left = np.floor(centre - width / 2)
    indices = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = shrink * _cubic(shrink * (centre[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(n_in), np.arange(n_in)[::-1]])
    used = weights.any(axis=0)
    return mirrored[(indices[:, used].astype(np.int64) - 1) % (2 * n_in)], weights[:, used]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -1/2 (IEEE TASSP 29(6), 1981, equation 15)."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _resize_rows(image: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One pass along the first axis: [n_in, ...] -> [n_out, ...]; uint8 is rounded, float64 stays."""
    flat = image.reshape(len(image), -1)
    out = np.empty((len(indices), flat.shape[1]), image.dtype)
    exact = image.dtype == np.uint8 and _exact_in_float32(weights)
    dtype = np.float32 if exact else np.float64
    bands, lows, highs = _bands(indices, weights.astype(dtype))
    for x in range(0, flat.shape[1], _STRIP):
        for block, (band, low, high) in enumerate(zip(bands, lows, highs, strict=True)):
            rows = slice(block * _BLOCK, (block + 1) * _BLOCK)
            part = out[rows, x : x + _STRIP]
            source = flat[low:high, x : x + _STRIP]
            total = band[: len(part), : high - low] @ source.astype(dtype, copy=False)
            if exact:  # OpenCV rounds halves to even; half a step more, and halves go up
                cv2.add(total, _HALF_STEP, dst=part, dtype=cv2.CV_8U)
            elif image.dtype == np.uint8:
                _sum_in_order(total, source, indices[rows] - low, weights[rows])
                part[:] = np.clip(total + 0.5, 0, 255)  # the cast cuts off
            else:
                part[:] = total
    return out.reshape(len(indices), *image.shape[1:])


def _bands(indices: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """Weights as matrices: [n, _BLOCK, K] for every _BLOCK output rows, over the input rows low .. high - 1 of each."""
    starts = np.arange(0, len(indices), _BLOCK)
    low = np.minimum.reduceat(indices.min(axis=1), starts)
    high = np.maximum.reduceat(indices.max(axis=1), starts) + 1
    bands = np.zeros((len(starts), _BLOCK, int((high - low).max())), weights.dtype)
    row = np.arange(len(indices))[:, None]
    np.add.at(bands, (row // _BLOCK, row % _BLOCK, indices - low[row // _BLOCK]), weights)
    return bands, low.tolist(), high.tolist()


def _exact_in_float32(weights: np.ndarray) -> bool:
    """Whether sums of weights times uint8 come out exact in float32, whatever the order and with or without fused products.

    True if all weights are multiples of 2^-15 and sum |w| 255 2^15 < 2^24: then every product and every partial sum is an integer
    multiple of 2^-15 with at most 24 bits. It holds for the scales 2, 4, 8 and their inverses; halves are then true halves.
    """
    steps = weights / _STEP
    return bool((steps == np.rint(steps)).all() and np.abs(steps).sum(axis=1).max() * 255 < 2**24)


def _sum_in_order(total: np.ndarray, flat: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> None:
    """Sum again, tap after tap as MATLAB's loop does, where a BLAS's order could tip a half to the other side. In place."""
    row, column = np.nonzero(np.abs(total - np.floor(total) - 0.5) < _NEAR)
    again = np.zeros(len(row))
    for tap in range(indices.shape[1]):
        again += weights[row, tap] * flat[indices[row, tap], column]
    total[row, column] = again


def _transposed(image: np.ndarray) -> np.ndarray:
    """[H, W, ...] -> [W, H, ...], contiguous."""
    if image.ndim == 2 or image.shape[2] in (3, 4):
        return cv2.transpose(np.ascontiguousarray(image))
    return np.ascontiguousarray(image.swapaxes(0, 1))


def _scales_and_size(
    shape: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> tuple[tuple[float, float], tuple[int, int]]:
    if (scale is None) == (size is None):
        raise SamdiffError("imresize: give either a scale or a size")
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
