"""Masks of the LR image, scaled to HR."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from ..degrade.recipes import degrade
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask


class Segmenter(Protocol):
    """A segmenter, as `MaskSource` in `prepare/run.py` describes it."""

    def describe(self) -> dict[str, object]:
        """JSON-able facts that decide the masks."""

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable | list[CocoMask]]:
        """Masks of uint8 [H, W, 3] images, in order."""


class MasksFromLR:
    """Masks of the bicubic LR image, scaled to HR: each LR pixel becomes s x s pixels.

    Args:
        masks: the segmenter.
        scale: s, HR pixels per LR pixel.
    """

    def __init__(self, masks: Segmenter, scale: int) -> None:
        self.masks, self.scale = masks, scale

    @property
    def engine(self) -> object:
        """The segmenter's mask engine; None if it has none."""
        return getattr(self.masks, "engine", None)

    @property
    def embeddings(self) -> object:
        """The segmenter's folder of kept embeddings; None if it has none."""
        return getattr(self.masks, "embeddings", None)

    def describe(self) -> dict[str, object]:
        """The facts of the segmenter, with `masks_from`."""
        return {**self.masks.describe(), "masks_from": "lr"}

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable]:
        """Masks of HR images uint8 [H, W, 3], H and W multiples of the scale, in the HR frame."""
        sizes: deque[tuple[int, int]] = deque()  # of the LR images that the segmenter has not returned yet

        def small() -> Iterator[np.ndarray]:
            for image in images:
                lr = degrade(image, "bicubic", self.scale)
                sizes.append(lr.shape[:2])
                yield lr

        for masks in self.masks.generate_batch(small()):
            yield MaskTable.of(masks, *sizes.popleft()).enlarged(self.scale)
