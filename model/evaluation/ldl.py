"""LDL's local discriminative artifact map (Liang, Zeng, Zhang 2022, arXiv 2203.09195, section 3.2). Pure numpy.

SAM-DiffSR reports an "artifact" metric without a definition; this is a different one.
"""

from __future__ import annotations

import cv2
import numpy as np

_WINDOW = 7
LDL_SIDE = _WINDOW // 2 + 1
"""Minimum side in pixels: the window is mirrored at the borders."""


def artifact_map(sr: np.ndarray, hr: np.ndarray, stable: np.ndarray) -> np.ndarray:
    """Locate errors of high local variance in a result that a stable result does not have.

    With R = sum over the bands of |HR - result| (pixels in 0 … 1): var(R)^(1/5) times the variance of R in a 7 x 7 window (mirrored
    borders), 0 where the stable result is no better. LDL uses the same network with EMA weights as the stable result; here the
    caller gives one.

    Args:
        sr: uint8 [H, W] or [H, W, 3].
        hr: likewise.
        stable: likewise.

    Returns:
        float64 [H, W], >= 0.
    """
    residual, other = _residual(hr, sr), _residual(hr, stable)
    n = _WINDOW * _WINDOW
    mean, square = (
        cv2.blur(values, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT_101) for values in (residual, residual**2)
    )
    local = np.maximum(square - mean**2, 0) * n / (n - 1)
    return np.where(residual < other, 0.0, residual.var(ddof=1) ** 0.2 * local)


def _residual(hr: np.ndarray, sr: np.ndarray) -> np.ndarray:
    difference = np.abs(hr.astype(np.float64) - sr) / 255
    return difference.sum(axis=2) if difference.ndim == 3 else difference
