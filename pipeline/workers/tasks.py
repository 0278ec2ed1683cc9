"""What a worker of a cluster is told to do: make one segmenter, and one image's record after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import ImageError, SamdiffError
from ...runtime import setup_process
from ..prepare.mask_stage import Read, local_masks
from ..prepare.run import UNCOMPARED, MaskSource
from ..prepare.scan import SourceImage
from ..prepare.staging import ImageMasks, differences
from ..shards.writer import canonical, digest
from ..storage.lru import LRUCache


@dataclass(frozen=True)
class Segmenter:
    """How a worker makes its segmenter, and what it must be. Small and picklable."""

    make: Callable[[], MaskSource]
    expected: Mapping[str, object]
    threads: int

    @property
    def key(self) -> str:
        """Equal for equal segmenters."""
        return f"{digest(canonical(self.expected))}-{self.threads}"

    def load(self) -> MaskSource:
        """
        Raises:
            SamdiffError: another one than expected.
        """
        setup_process(self.threads)
        masks = self.make()
        changed = differences(self.expected, comparable(masks.describe()))
        if changed:
            raise SamdiffError(f"a worker has another segmenter ({'; '.join(changed)}); install the same one everywhere")
        return masks


_LOADED: LRUCache[MaskSource] = LRUCache(2)
_LOCK = threading.Lock()
"""A worker's segmenters: loaded with their first image, used for one image at a time; two, for two runs on one cluster."""


def make_image_masks(segmenter: Segmenter, item: SourceImage, read: Read) -> ImageMasks | ImageError:
    """A task: the record of one image."""
    with _LOCK:
        masks = _LOADED.get(segmenter.key)
        if masks is None:
            masks = _LOADED[segmenter.key] = segmenter.load()
        ((_, result),) = local_masks(masks, [item], read)
        return result


def comparable(describe: Mapping[str, object]) -> dict[str, object]:
    """What must be equal on all workers: not versions, and of the weights their content alone."""
    facts = {key: value for key, value in describe.items() if key not in UNCOMPARED}
    weights = facts.get("weights")
    if isinstance(weights, Mapping):
        facts["weights"] = weights.get("sha256")
    return facts
