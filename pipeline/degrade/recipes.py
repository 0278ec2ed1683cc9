"""LR from HR, by name. Pure."""

from __future__ import annotations

import numpy as np

from ...errors import ConfigError
from .blind import RECIPE, blind
from .imresize import imresize
from .kinds import KINDS


def degrade(hr: np.ndarray, kind: str, scale: int, *, seed: int = 0, content: str = "") -> np.ndarray:
    """Make the LR image of a whole HR image.

    Args:
        hr: uint8 [H, W, 3]; H and W multiples of the scale.
        kind: `bicubic`, MATLAB's antialiased `imresize`; `blind`, see `blind.py`.
        scale: s, HR pixels per LR pixel.
        seed: of `blind`: another seed, another random degradation.
        content: of `blind`: SHA-256 (hex) of the source file, so that each image has its own reproducible degradation.

    Returns:
        uint8 [H/s, W/s, 3].

    Raises:
        ConfigError: an unknown kind, or sides that are not multiples of the scale.
    """
    if hr.shape[0] % scale or hr.shape[1] % scale:
        raise ConfigError(
            f"degrade: expected sides that are multiples of {scale}, got {hr.shape[0]} x {hr.shape[1]}; crop first"
        )
    if kind == "bicubic":
        return imresize(hr, 1 / scale)
    if kind == "blind":
        return blind(hr, scale, np.random.Generator(np.random.Philox([seed, int(content or "0", 16)])))
    raise ConfigError(f"degradation: expected bicubic or blind, got {kind!r}")


def degradation_facts(kind: str, seed: int = 0) -> dict[str, object]:
    """All parameters of `degrade`, JSON-able: a store records them, and a resumed run compares them.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"degradation: expected one of {', '.join(KINDS)}, got {kind!r}")
    return {"kind": kind, "seed": seed, **RECIPE} if kind == "blind" else {"kind": kind}
