"""Which HR pixels can be compared with what LR says of them, where some pixels have no data. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from .sensors import REACH, mtf_sigma

BICUBIC_MARGIN = 1.5
"""HR pixels beyond an LR pixel's own that bicubic reduction by s uses, in units of s; `kspace`, which uses all, is taken to reach as far."""


def margin_of(kind: str, scale: int, gains: Sequence[float] = ()) -> float:
    """HR pixels beyond an LR pixel's own that a degradation uses, in units of the scale.

    Args:
        kind: see `recipes.degrade`.
        scale: s.
        gains: of `mtf`.
    """
    return REACH * max(mtf_sigma(gain, scale) for gain in gains) / scale if kind == "mtf" else BICUBIC_MARGIN


def usable_pixels(valid: np.ndarray, scale: int, margin: float = BICUBIC_MARGIN) -> np.ndarray:
    """HR pixels that have data, and whose LR pixel is made of pixels with data only.

    Args:
        valid: bool [H, W]; H and W multiples of the scale.
        scale: s.
        margin: see `BICUBIC_MARGIN`.

    Returns:
        bool [H, W].
    """
    reach = math.ceil(margin * scale)
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    eroded = cv2.erode(valid.astype(np.uint8), window, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    height, width = (side // scale for side in valid.shape)
    blocks = eroded.reshape(height, scale, width, scale).min(axis=(1, 3)) > 0
    return valid & blocks.repeat(scale, axis=0).repeat(scale, axis=1)
