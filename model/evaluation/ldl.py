"""LDL's local discriminative artifact map (Liang, Zeng, Zhang 2022, arXiv 2203.09195, section 3.2). Pure numpy.

SAM-DiffSR reports an "artifact" figure without a definition; this is not that figure, it bears its own name.
"""

from __future__ import annotations

import cv2
import numpy as np

_WINDOW = 7
LDL_SIDE = _WINDOW // 2 + 1
"""Smallest side for the map, in pixels: the window is mirrored at the borders."""


def artifact_map(found: np.ndarray, hr: np.ndarray, stable: np.ndarray) -> np.ndarray:
    """Where a result has errors of high local variance that a stable result has not.

    With R = sum over the bands of |HR - result| (pixels in 0 … 1): var(R)^(1/5) times the variance of R in a 7 x 7 window (mirrored
    borders), 0 where the stable result is no better. LDL's stable result is the same network with averaged weights; here it is
    whatever the caller gives.

    Args:
        found: uint8 [H, W] or [H, W, 3].
        hr: likewise.
        stable: likewise.

    Returns:
        float64 [H, W], >= 0.
    """
    residual, other = _residual(hr, found), _residual(hr, stable)
    n = _WINDOW * _WINDOW
    mean, square = (
        cv2.blur(values, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT_101) for values in (residual, residual**2)
    )
    local = np.maximum(square - mean**2, 0) * n / (n - 1)
    return np.where(residual < other, 0.0, residual.var(ddof=1) ** 0.2 * local)


def _residual(hr: np.ndarray, found: np.ndarray) -> np.ndarray:
    difference = np.abs(hr.astype(np.float64) - found) / 255
    return difference.sum(axis=2) if difference.ndim == 3 else difference
