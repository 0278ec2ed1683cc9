"""The tasks of a cluster's workers: load the segmenter once, then segment the images of a task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import ImageError, SamdiffError
from ...runtime import setup_process
from ..prepare.mask_stage import Read, masks_of_ready, read_ahead_of
from ..prepare.run import MaskSource
from ..prepare.scan import SourceImage
from ..prepare.settings import comparable
from ..prepare.staging import ImageMasks, differences
from ..shards.writer import canonical, digest
from ..storage.lru import LRUCache


@dataclass(frozen=True)
class Segmenter:
    """A segmenter to be loaded on a worker. Small and picklable."""

    make: Callable[[], MaskSource]
    """Loads it."""
    expected: Mapping[str, object]
    """Its expected `comparable(describe())`."""
    threads: int
    """CPU threads that it computes with."""

    @property
    def key(self) -> str:
        """A text that is equal for equal segmenters."""
        return f"{digest(canonical(self.expected))}-{self.threads}"

    def load(self) -> MaskSource:
        """Load the segmenter in this process.

        Raises:
            SamdiffError: its description differs from the expected one.
        """
        setup_process(self.threads)
        masks = self.make()
        changed = differences(self.expected, comparable(masks.describe()))
        if changed:
            raise SamdiffError(
                f"a worker has a different segmenter ({'; '.join(changed)}); install the same one on all machines"
            )
        return masks


_LOADED: LRUCache[MaskSource] = LRUCache(2)
_LOCK = threading.Lock()
"""Held while a segmenter is loaded or used, which is for one task at a time. Up to two stay loaded, for two runs on one cluster."""


def _loaded(segmenter: Segmenter) -> MaskSource:
    """The segmenter, which this process loads once."""
    masks = _LOADED.get(segmenter.key)  # without the lock, which another task may hold for long
    if masks is not None:
        return masks
    with _LOCK:
        masks = _LOADED.get(segmenter.key)
        if masks is None:
            masks = _LOADED[segmenter.key] = segmenter.load()
        return masks


def make_image_masks(segmenter: Segmenter, items: Sequence[SourceImage], read: Read) -> list[ImageMasks | ImageError]:
    """The task of a worker: segment some images, which are read in threads and go through the encoder together.

    A second task in another thread of the worker reads its images while this one segments.

    Returns:
        For each image its masks, or the reason why it cannot be used.
    """
    masks = _loaded(segmenter)
    with read_ahead_of(masks, items, read) as images, _LOCK:
        setup_process(
            segmenter.threads
        )  # the first convolution of a thread has as many as OpenMP chooses, unless set in that thread
        results = {item.key: result for item, result in masks_of_ready(masks, images)}  # in another order: unusable ones later
    return [results[item.key] for item in items]
