"""The tasks of a cluster's workers: load the segmenter once, then segment the images of a task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import ImageError, SamdiffError
from ...runtime import setup_process
from ..prepare.mask_stage import Read, local_masks
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


def make_image_masks(segmenter: Segmenter, items: Sequence[SourceImage], read: Read) -> list[ImageMasks | ImageError]:
    """The task of a worker: segment some images, which are decoded in threads and go through the encoder together.

    Returns:
        For each image its masks, or the reason why it cannot be used.
    """
    with _LOCK:
        masks = _LOADED.get(segmenter.key)
        if masks is None:
            masks = _LOADED[segmenter.key] = segmenter.load()
        results = {
            item.key: result for item, result in local_masks(masks, items, read)
        }  # in another order: unusable ones later
    return [results[item.key] for item in items]
