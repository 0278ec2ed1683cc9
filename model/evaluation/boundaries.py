"""Metrics near the boundaries of masks and inside regions. Pure numpy.

A label map gives each pixel the number of its mask, 0 where there is none; the uncovered rest counts as one region.
"""

from __future__ import annotations

import cv2
import numpy as np

from .metrics import luma

BAND = 4
"""Pixels around a boundary."""


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
