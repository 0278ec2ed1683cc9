"""LR from HR, by name. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ConfigError
from .blind import RECIPE, blind
from .imresize import imresize
from .kinds import KINDS, gains_of
from .sensors import kspace, mtf


def degrade(
    hr: np.ndarray,
    kind: str,
    scale: int,
    *,
    seed: int = 0,
    content: str = "",
    gains: Sequence[float] = (),
    offset: int = 0,
) -> np.ndarray:
    """Make the LR image of a whole HR image.

    Args:
        hr: uint8, uint16 or float32 [H, W, C], for `blind` uint8 [H, W, 3]; H and W multiples of the scale.
        kind: `bicubic`, MATLAB's antialiased `imresize`; `blind`, see `blind.py`; `mtf` and `kspace`, see `sensors.py`.
        scale: s, HR pixels per LR pixel.
        seed: of `blind`: another seed, another random degradation.
        content: of `blind`: SHA-256 (hex) of the source file, so that each image has its own reproducible degradation.
        gains: of `mtf`: one per band, or one for all.
        offset: of `kspace`: added to the file's values in `hr`.

    Returns:
        [H/s, W/s, C] of the same dtype.

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
    if kind == "mtf":
        return mtf(hr, scale, gains)
    if kind == "kspace":
        return kspace(hr, scale, offset=offset)
    raise ConfigError(f"degradation: expected bicubic, blind, mtf or kspace, got {kind!r}")


def degradation_facts(kind: str, seed: int = 0, gains: str = "") -> dict[str, object]:
    """All parameters of `degrade`, JSON-able: a store records them, and a resumed run compares them.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"degradation: expected one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "mtf":
        return {"kind": kind, "gains": list(gains_of(gains))}
    return {"kind": kind, "seed": seed, **RECIPE} if kind == "blind" else {"kind": kind}
