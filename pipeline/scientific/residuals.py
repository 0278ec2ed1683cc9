"""How large the residuals to bicubic upsampling are in a store, from which training takes the factor that scales them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..degrade.imresize import imresize
from .sample_format import SampleFormat

TARGET = 0.16
"""RMS that residuals are scaled to: that of 8-bit RGB images times 2, SRDiff's factor."""
_PER_IMAGE = 2  # tiles of each image that are measured


class Residuals:
    """Sums squared residuals of a few tiles of each image, in units of the range as [-1, 1].

    Args:
        format: of the store; 8-bit RGB is not measured, so that format version 1 keeps its bytes.
        scale: HR pixels per LR pixel.
    """

    def __init__(self, format: SampleFormat, scale: int) -> None:
        self._format, self._scale = format, scale
        self._low, self._high = (np.array(ends, np.float64) for ends in zip(*format.stored_ranges, strict=True))
        self._sum, self._count = np.zeros(format.count), 0

    def add(self, tiles: Mapping[str, np.ndarray]) -> None:
        """Measure tiles of one image: `hr`, `lr`, and `valid` if there is one, as `cut_tiles` gives them."""
        if self._format.is_rgb8:
            return
        count = len(tiles["hr"])
        for row in np.unique(np.linspace(0, count - 1, min(count, _PER_IMAGE)).astype(int)):
            hr, lr = (self._unit(tiles[name][row]) for name in ("hr", "lr"))
            difference = hr - np.clip(imresize(lr, self._scale), -1, 1)
            valid = tiles["valid"][row] > 0 if "valid" in tiles else np.ones(hr.shape[:2], bool)
            self._sum += np.square(difference[valid]).sum(axis=0)
            self._count += int(valid.sum())

    def attributes(self) -> dict[str, object]:
        """The root's entry `measured`: RMS of each band, and the factor for all; none without valid pixels."""
        if not self._count:
            return {}
        rms = np.sqrt(self._sum / self._count)
        total = float(np.sqrt(np.square(rms).mean()))
        gain = min(64.0, max(0.5, float(f"{TARGET / max(total, 1e-6):.2g}")))
        return {"measured": {"residual_rms": [float(f"{value:.4g}") for value in rms], "residual_scale": gain}}

    def _unit(self, values: np.ndarray) -> np.ndarray:
        return np.clip((values.astype(np.float64) - self._low) / (self._high - self._low) * 2 - 1, -1, 1)


def residual_scale_in(attributes: Mapping[str, object]) -> float:
    """The measured factor in a store's root document; 2, SRDiff's, if it has none that is valid. It may be untrusted."""
    measured = attributes.get("measured")
    value = measured.get("residual_scale") if isinstance(measured, Mapping) else None
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0.01 <= value <= 1000
    return float(value) if good and isinstance(value, int | float) else 2.0
