"""PSNR and SSIM by the protocols of published tables. Pure numpy.

Y is BT.601 luma, 16 … 235, not rounded; borders of `scale` pixels are cropped; SSIM uses the 11 x 11 Gaussian window (sigma 1.5) of Wang et
al. 2004 without padding (as MATLAB and BasicSR). A grey image ([H, W], such as Set14's `bridge`) is evaluated on its grey values, one that is
stored as RGB with equal bands (Set14's `man`) on Y. This reproduces the published averages.

Also within chosen pixels, such as those near the boundaries of masks. A label map gives each pixel the number of its mask, 0 where there is
none; the uncovered rest counts as one region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

SSIM_SIDE = 11
"""Minimum side for SSIM, in pixels: its window."""
BAND = 4
"""Pixels around a boundary."""
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


def edge_pixels(labels: np.ndarray) -> np.ndarray:
    """bool [H, W]: the pixels with another label than one of their four neighbours inside the map; labels are integers [H, W]."""
    edges = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def boundary_band(labels: np.ndarray, width: int = BAND) -> np.ndarray:
    """bool [H, W]: the pixels at most `width` rows and `width` columns away from an edge pixel (a square window of 2 width + 1).

    Args:
        labels: integers [H, W], of the whole image or of a crop of it. A boundary outside the crop is not seen.
        width: 0 or more, in pixels.
    """
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return cv2.dilate(edge_pixels(labels).astype(np.uint8), window, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def psnr_within(a: np.ndarray, b: np.ndarray, chosen: np.ndarray, *, crop_border: int) -> float:
    """PSNR on Y over some pixels, in dB; NaN if there are none, infinite if the images are equal there.

    Args:
        a: uint8 [H, W, 3], or [H, W] grey.
        b: likewise.
        chosen: bool [H, W].
        crop_border: pixels at each side of the image that are left out, usually the scale, as in `metrics.psnr_y`.
    """
    inner = np.zeros(chosen.shape, bool)
    height, width = (max(side - crop_border, crop_border) for side in chosen.shape)
    inner[crop_border:height, crop_border:width] = True
    squared = (luma(a) - luma(b))[chosen & inner] ** 2
    if not squared.size:
        return float("nan")
    mse = float(squared.mean())
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def mean_within(values: np.ndarray, chosen: np.ndarray) -> float:
    """The mean of a map [H, W] over the chosen pixels, bool [H, W]; NaN if there are none."""
    inside = values[chosen]
    return float(inside.mean(dtype=np.float64)) if inside.size else float("nan")


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
