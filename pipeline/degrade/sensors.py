"""How instruments make low resolution: a sensor's blur by its modulation transfer, and an MR scanner's k-space. Pure.

Both keep LR pixel k at the centre of HR pixels s k … s k + s - 1, as the label maps' grid is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...errors import ConfigError
from .banded import mirror

REACH = 4.0  # standard deviations after which a Gaussian is cut off


def mtf_sigma(gain: float, scale: int) -> float:
    """Standard deviation in HR pixels of the Gaussian whose transfer at the LR Nyquist frequency, 1 / (2 s), is `gain`."""
    return scale * math.sqrt(-2 * math.log(gain)) / math.pi


def mtf(values: np.ndarray, scale: int, gains: Sequence[float]) -> np.ndarray:
    """Blur each band with the Gaussian of its gain, sampled at the centres of LR pixels.

    Args:
        values: uint8, uint16 or float32 [H, W, C]; H and W multiples of the scale.
        scale: s.
        gains: one per band, or one for all.

    Returns:
        [H/s, W/s, C] of the same dtype; integers are rounded once, halves up.

    Raises:
        ConfigError: another number of gains than bands.
    """
    count = values.shape[2]
    if len(gains) not in (1, count):
        raise ConfigError(f"mtf_gains: expected 1 or {count} numbers, one per band, got {len(gains)}")
    out = np.empty((values.shape[0] // scale, values.shape[1] // scale, count), np.float64)
    for band, gain in enumerate(gains if len(gains) == count else [*gains] * count):
        sigma = mtf_sigma(gain, scale)
        rows = _blurred(values[..., band].astype(np.float64), scale, sigma)
        out[..., band] = _blurred(np.ascontiguousarray(rows.T), scale, sigma).T
    return rounded(out, values.dtype)


def kspace(values: np.ndarray, scale: int, *, offset: int = 0) -> np.ndarray:
    """Keep the central 1/s of the centred Fourier transform along each axis; the magnitude of its inverse, times 1/s^2.

    Args:
        values: uint8, uint16 or float32 [H, W, C]; H and W multiples of the scale.
        scale: s.
        offset: added to the file's values in `values`; the transform is of the file's values.

    Returns:
        [H/s, W/s, C] of the same dtype.
    """
    spectrum = np.fft.fft2(values.astype(np.float64) - offset, axes=(0, 1))
    for axis in (0, 1):
        spectrum = _central(spectrum, scale, axis)
    return rounded(np.abs(np.fft.ifft2(spectrum, axes=(0, 1))) / scale**2 + offset, values.dtype)


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 -> a dtype; integers rounded, halves up, and clipped."""
    if dtype.kind == "f":
        return values.astype(dtype)
    return np.clip(np.floor(values + 0.5), 0, np.iinfo(dtype).max).astype(dtype)


def _central(spectrum: np.ndarray, scale: int, axis: int) -> np.ndarray:
    """The lowest 1/s of the frequencies along an axis, with the phase that puts LR pixels at the centres of their HR pixels."""
    length = spectrum.shape[axis]
    kept = np.fft.fftfreq(length // scale, 1 / (length // scale)).astype(int)
    phase = np.exp(1j * np.pi * kept * (scale - 1) / length)
    shape = [-1 if k == axis else 1 for k in range(spectrum.ndim)]
    return np.take(spectrum, kept % length, axis=axis) * phase.reshape(shape)


def _blurred(plane: np.ndarray, scale: int, sigma: float) -> np.ndarray:
    """[n, m] -> [n/s, m]: Gaussian sums along the first axis at the centres of LR pixels; borders mirrored, weights of sum 1."""
    centres = np.arange(len(plane) // scale) * scale + (scale - 1) / 2
    first = np.floor(centres - REACH * sigma).astype(np.int64)
    taps = first[:, None] + np.arange(math.ceil(2 * REACH * sigma) + 2)
    weights = np.exp(-0.5 * ((taps - centres[:, None]) / sigma) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    out = np.zeros((len(centres), plane.shape[1]))
    for tap in range(taps.shape[1]):
        out += weights[:, tap, None] * plane[mirror(taps[:, tap], len(plane))]
    return out
