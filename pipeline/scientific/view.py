"""What the segmenter sees of samples: 8-bit RGB by percentiles of the valid pixels. Pure.

Percentiles, and not the extremes, because one hot pixel would make the rest black. The three bands of a colour view share one range, so that
colours keep their balance. A single band is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .sample_format import PERCENTILES, SampleFormat
from .samples import Native, Samples


def segmenter_view(samples: Samples, format: SampleFormat) -> np.ndarray:
    """uint8 [H, W, 3]: percentiles 2 to 98 of the valid pixels become 0 to 255; invalid pixels are 0.

    Bands that are red, green and blue share one range; three other bands have one each, because their units may differ.

    Args:
        samples: of an image.
        format: of the store; its `view` says which bands are seen.
    """
    if format.is_rgb8:
        return samples.values
    bands = samples.values[..., list(format.view)].astype(np.float32)
    seen = bands.reshape(-1, bands.shape[2]) if samples.valid is None else bands[samples.valid]
    joint = {format.names[index].lower() for index in format.view} == {"red", "green", "blue"}
    low, high = np.percentile(seen, PERCENTILES, axis=None if joint else 0)
    span = np.where(high > low, high - low, 1)
    levels = np.clip((bands - low) / span * 255 + 0.5, 0, 255).astype(np.uint8)
    if samples.valid is not None:
        levels[~samples.valid] = 0
    return levels if levels.shape[2] == 3 else np.repeat(levels, 3, axis=2)


def view_note(native: Native, format: SampleFormat) -> str:
    """What is seen of a file, as a note."""
    bands = ", ".join(format.names[index] for index in format.view)
    nodata = "" if format.nodata is None else f"; {format.nodata:g} means no data"
    return f"{native.kind}: percentiles {PERCENTILES[0]:g} to {PERCENTILES[1]:g} of band{'s' * (len(format.view) > 1)} {bands} are seen{nodata}"


def viewed(tile: Mapping[str, np.ndarray], format: SampleFormat) -> dict[str, np.ndarray]:
    """A tile or a sample with `range_view` of its `hr`, for notebooks."""
    return {**tile, "hr": range_view(tile["hr"], format)}


def range_view(values: np.ndarray, format: SampleFormat) -> np.ndarray:
    """uint8 [H, W, 3]: the view's bands, with the format's range as 0 to 255; the same for all images of a store, for comparisons.

    Args:
        values: stored samples [H, W, C].
        format: of the store.
    """
    if format.is_rgb8:
        return values
    ranges = np.array([format.stored_ranges[index] for index in format.view], np.float32)
    part = (values[..., list(format.view)].astype(np.float32) - ranges[:, 0]) / (ranges[:, 1] - ranges[:, 0])
    levels = np.clip(part * 255 + 0.5, 0, 255).astype(np.uint8)
    return levels if levels.shape[2] == 3 else np.repeat(levels, 3, axis=2)
