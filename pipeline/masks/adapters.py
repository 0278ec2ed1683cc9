"""Masks of the LR image, scaled to HR."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..degrade.recipes import degrade
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask


class Segmenter(Protocol):
    """A segmenter, as `MaskSource` in `prepare/run.py` describes it."""

    def describe(self) -> dict[str, object]:
        """JSON-able facts that decide the masks."""

    def generate_batch(self, images: Iterable[Any]) -> Iterator[MaskTable | list[CocoMask]]:
        """Masks of uint8 [H, W, 3] images, or of the results of its `preprocess_ahead`, in order."""


@dataclass(frozen=True)
class PreprocessedLR:
    """An LR image as the segmenter inside takes it; see `MasksFromLR.preprocess_ahead`."""

    size: tuple[int, int]
    """H, W of the LR image."""
    image: object
    """uint8 [H, W, 3], or what the `preprocess_ahead` of the segmenter inside returned."""

    @property
    def nbytes(self) -> int:
        """Of the LR image and what was made of it."""
        more = getattr(self.image, "nbytes", 0)
        return 3 * self.size[0] * self.size[1] + (more if isinstance(more, int) else 0)


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

    def preprocess_ahead(self, image: np.ndarray) -> PreprocessedLR:
        """The LR image of an HR image uint8 [H, W, 3], preprocessed by the segmenter inside if it can; see `MaskGenerator`."""
        lr = degrade(image, "bicubic", self.scale)
        inner: Callable[[np.ndarray], object] | None = getattr(self.masks, "preprocess_ahead", None)
        return PreprocessedLR((lr.shape[0], lr.shape[1]), lr if inner is None else inner(lr))

    def generate_batch(self, images: Iterable[np.ndarray | PreprocessedLR]) -> Iterator[MaskTable]:
        """Masks of HR images uint8 [H, W, 3], H and W multiples of the scale, in the HR frame."""
        sizes: deque[tuple[int, int]] = deque()  # of the LR images that the segmenter has not returned yet

        def small() -> Iterator[object]:
            for image in images:
                lr = image if isinstance(image, PreprocessedLR) else self.preprocess_ahead(image)
                sizes.append(lr.size)
                yield lr.image

        for masks in self.masks.generate_batch(small()):
            yield MaskTable.of(masks, *sizes.popleft()).enlarged(self.scale)
