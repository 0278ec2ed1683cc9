"""PSNR and SSIM by the protocols of published tables. Pure numpy.

Y is BT.601 luma, 16 … 235, not rounded; borders of `scale` pixels are cropped; SSIM uses the 11 x 11 Gaussian window (sigma 1.5) of Wang et
al. 2004 without padding (as MATLAB and BasicSR). A grey image ([H, W], such as Set14's `bridge`) is evaluated on its grey values, one that is
stored as RGB with equal bands (Set14's `man`) on Y. This reproduces the published averages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

SSIM_SIDE = 11
"""Minimum side for SSIM, in pixels: its window."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image: np.ndarray) -> np.ndarray:
    """float64 [H, W]: Y (16 … 235, not rounded) of uint8 RGB [H, W, 3]; a grey image [H, W] gives its grey values."""
    if image.ndim == 2:
        return image.astype(np.float64)
    return image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def psnr(a: np.ndarray, b: np.ndarray, crop_border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB of two images of one shape, range 0 … 255; infinite if they are equal, NaN if nothing is left after cropping."""
    if a.shape != b.shape:
        raise ValueError(f"expected images of one shape, got {a.shape} and {b.shape}")
    difference = _cropped(a, crop_border).astype(np.float64) - _cropped(b, crop_border)
    if not difference.size:
        return float("nan")
    mse = float((difference**2).mean())
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse)


def ssim(a: np.ndarray, b: np.ndarray, crop_border: int = 0) -> float:
    """Structural similarity of two planes [H, W], range 0 … 255; NaN if a side has fewer than 11 pixels after cropping."""
    x, y = _cropped(a, crop_border).astype(np.float64), _cropped(b, crop_border).astype(np.float64)
    if min(x.shape) < SSIM_SIDE:
        return float("nan")
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y, cov = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2, _blur(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2)
    return float((top / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))).mean())


def psnr_y(a: np.ndarray, b: np.ndarray, crop_border: int) -> float:
    """PSNR on Y of two uint8 images [H, W, 3], or on the grey values of two [H, W]."""
    return psnr(luma(a), luma(b), crop_border)


def ssim_y(a: np.ndarray, b: np.ndarray, crop_border: int) -> float:
    """SSIM on Y of two uint8 images, likewise."""
    return ssim(luma(a), luma(b), crop_border)


def mean_of_defined(values: Sequence[float]) -> float:
    """The mean of all values but NaN (images that are too small); NaN if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _cropped(image: np.ndarray, crop_border: int) -> np.ndarray:
    height, width = (max(side - crop_border, crop_border) for side in image.shape[:2])
    return image[crop_border:height, crop_border:width]


def _blur(plane: np.ndarray) -> np.ndarray:
    """Gaussian 11 x 11, sigma 1.5; only where the window is inside the plane."""
    return cv2.GaussianBlur(plane, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)[5:-5, 5:-5]
