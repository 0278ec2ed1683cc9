"""The size that masks must have for an image that was cropped to a multiple of the scale. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import SamdiffError
from ..encode.rle import decode, encode


@dataclass(frozen=True)
class ImageSize:
    """An image after the crop to a multiple of the scale, in HR pixels."""

    height: int
    """Rows after the crop."""
    width: int
    """Columns after the crop."""
    scale: int
    """s: fewer than this many rows and columns were cut off."""

    def check(self, height: int, width: int) -> None:
        """Raise a SamdiffError unless masks of [height, width] belong to the image, as it was before or after the crop."""
        if not (self.height <= height < self.height + self.scale and self.width <= width < self.width + self.scale):
            raise SamdiffError(f"made for {width} x {height} pixels (W x H), the image has {self.width} x {self.height}")

    def is_cropped(self, height: int, width: int) -> bool:
        """Whether masks of [height, width] lose rows or columns."""
        return (height, width) != (self.height, self.width)

    def crop(self, counts: np.ndarray, height: int, width: int) -> np.ndarray:
        """Runs of a mask of [height, width], uint32 [R], cropped like the image."""
        if not self.is_cropped(height, width):
            return counts
        return encode(np.ascontiguousarray(decode(counts, height, width)[: self.height, : self.width]))
