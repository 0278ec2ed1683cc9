"""Samples of a model's format <-> what its networks see. The counterpart of `inference/pixel_format.py` for other samples than 8-bit RGB. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ImageError
from ...pipeline.images.given import layout_hint
from ...pipeline.scientific.sample_format import SampleFormat


@dataclass(frozen=True)
class SamplePixels:
    """The form of an image before its conversion to [-1, 1], for the conversion of its result."""

    samples: SampleFormat
    dtype: np.dtype
    """Of the image: the file's (int16 where samples are stored + 32768), or the stored one."""
    flat: bool
    """Whether it is [H, W], without an axis of bands."""

    def empty(self, height: int, width: int) -> np.ndarray:
        """An uninitialised array for the result, [H, W, C]."""
        return np.empty((height, width, self.samples.count), self.dtype)

    def restore(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [H, W, C] in [-1, 1] (clipped) -> values of the image's dtype; integers are rounded."""
        low, high = self._ends()
        values = (pixels.astype(np.float64).clip(-1, 1) + 1) / 2 * (high - low) + low
        return (values.round() if self.dtype.kind in "ui" else values).astype(self.dtype)

    def with_alpha(self, values: np.ndarray, scale: int) -> np.ndarray:
        """The result in the form of the image; it has no alpha band."""
        return values[..., 0] if self.flat else values

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the bands' ranges in values of the image's dtype."""
        ranges = self.samples.ranges if self.dtype == np.int16 else self.samples.stored_ranges
        low, high = np.array(ranges, np.float64).T
        return low, high


def split_samples(image: np.ndarray, samples: SampleFormat) -> tuple[np.ndarray, SamplePixels]:
    """(float32 [H, W, C] in [-1, 1], clipped to the range of each band; its form) of an image in the model's samples.

    Args:
        image: [H, W, C], or [H, W] for one band; of the stored dtype, or int16 where samples are stored with an offset.
        samples: of the model.

    Raises:
        ImageError: another dtype or number of bands, or an empty image.
    """
    layers = image[..., None] if image.ndim == 2 and samples.count == 1 else image
    types = (samples.dtype, "int16") if samples.offset else (samples.dtype,)
    if image.dtype.name not in types or layers.ndim != 3 or layers.shape[2] != samples.count or image.size == 0:
        raise ImageError(
            f"expected an image [H, W, {samples.count}] of {' or '.join(types)} with the bands {', '.join(samples.names)}, as the model was "
            f"trained on, got {image.dtype} {list(image.shape)}{layout_hint(image.shape)}"
        )
    form = SamplePixels(samples, image.dtype, flat=image.ndim == 2)
    low, high = form._ends()
    unit = (layers.astype(np.float64) - low) / (high - low) * 2 - 1
    return np.clip(unit, -1, 1).astype(np.float32), form


def outside_range(values: np.ndarray, samples: SampleFormat, valid: np.ndarray | None) -> float:
    """Share of the valid samples that lie outside the model's range, and are clipped to it.

    Args:
        values: stored samples [H, W, C].
        samples: of the model.
        valid: bool [H, W]; None: all.
    """
    low, high = np.array(samples.stored_ranges, np.float64).T
    outside = (values < low) | (values > high)
    chosen = outside if valid is None else outside[valid]
    return float(chosen.mean()) if chosen.size else 0.0
