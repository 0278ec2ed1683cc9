"""A folder with one label map (PNG) per image: 0 is no mask, every other value is one mask."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import SamdiffError
from ..encode.rle import MAX_MASKS, label_runs
from .folder import MaskFiles
from .records import Masks
from .sizes import ImageSize

_MODES = ("1", "L", "P", "I;16", "I;16B", "I")
"""Pillow's modes of images of one channel with integers; `I` is what older releases make of 16 bits."""


class LabelFolder(MaskFiles):
    """PNG files of one channel, grey of 8 or 16 bits or palette; masks are in ascending order of their values.

    Args:
        folder: that is searched.

    Raises:
        ConfigError: a subfolder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ".png")

    def masks(self, entry: str, name: str, size: ImageSize) -> Masks:
        """See `MaskReader`. Before the pixels are decoded, the size is compared with that of the image."""
        with Image.open(io.BytesIO(self.content(entry)), formats=["PNG"]) as image:
            if image.mode not in _MODES:
                raise SamdiffError(
                    f"expected a label map of one channel (grey of 8 or 16 bits, or palette), got mode {image.mode}"
                )
            size.check(image.height, image.width)
            labels = np.asarray(image)
        if labels.dtype not in (np.uint8, np.uint16):
            if labels.min(initial=0) < 0 or labels.max(initial=0) > MAX_MASKS:
                raise SamdiffError(f"expected labels from 0 to {MAX_MASKS}, got {labels.min()} to {labels.max()}")
            labels = labels.astype(np.uint16)
        labels = labels[: size.height, : size.width].astype(labels.dtype.newbyteorder("="))
        return [(runs, {}) for runs in label_runs(labels)]
