"""LR from HR, by name. Pure."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .resize import imresize

KINDS = ("bicubic",)
"""Degradations that `degrade` knows."""


def degrade(hr: np.ndarray, kind: str, scale: int) -> np.ndarray:
    """Make the LR image of a whole HR image.

    Args:
        hr: uint8 [H, W, 3]; H and W multiples of the scale.
        kind: `bicubic`, MATLAB's antialiased `imresize`.
        scale: s, HR pixels per LR pixel.

    Returns:
        uint8 [H/s, W/s, 3].

    Raises:
        ConfigError: an unknown kind, or sides that are no multiples of the scale.
    """
    if kind not in KINDS:
        raise ConfigError(f"degradation: expected one of {', '.join(KINDS)}, got {kind!r}")
    if hr.shape[0] % scale or hr.shape[1] % scale:
        raise ConfigError(
            f"degrade: expected sides that are multiples of {scale}, got {hr.shape[0]} x {hr.shape[1]}; crop first"
        )
    return imresize(hr, 1 / scale)
