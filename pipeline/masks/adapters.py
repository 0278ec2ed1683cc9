"""Other sources of masks: the LR image, or JSON files of other programs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import ChangedError, SamdiffError, printable
from ..degrade.recipes import degrade
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask, counts_of, decode, encode
from .mask_files import MaskFiles, checked_record

_LONGEST_REASON = 400  # characters


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


class ImportedMasks:
    """Masks in JSON files of segment-anything's `amg.py --convert-to-rle`, `samdiff masks --records` or SA-1B, one file per image.

    The file of an image `a/b.png` is `a/b.json` or `b.json` in the folder. It has a list of records, or a dict with such a list as
    `masks` or `annotations`; a record needs `segmentation` (COCO RLE), its other keys are optional. Later masks cover earlier ones.

    Args:
        folder: of the JSON files.
        scale: images and masks are cropped to a multiple of it.

    Raises:
        ConfigError: the folder has no JSON files.
    """

    def __init__(self, folder: Path, scale: int) -> None:
        self.scale = scale
        self.folder = folder
        self._files = MaskFiles(folder)
        self._next: deque[MaskTable] = deque()

    def describe(self) -> dict[str, object]:
        """A digest of all files, in place of the unknown segmenter."""
        return {"name": "imported", "masks_from": "files", "masks_sha256": self._files.digest()}

    def expect(self, name: str, height: int, width: int) -> str | None:
        """Read the masks of an image, before it is passed to `generate_batch`; returns why there are none, None if there are.

        Raises:
            ChangedError: its file changed after `describe`.
        """
        inside, other = self._files.find(name)
        if inside is None:
            return f"no masks: expected {printable(other)} in the folder of --import-masks"
        try:
            cut = [self._cut(record, height, width) for record in self._files.records(inside)]
            self._next.append(
                MaskTable.of_runs([runs for runs, _ in cut], [more for _, more in cut], height=height, width=width)
            )
        except ChangedError:
            raise
        except SamdiffError as error:
            return _shortened(f"its masks {inside}: {error}")
        except Exception as error:  # noqa: BLE001 - an untrusted file can raise exceptions of any type; they become its reason
            return _shortened(f"its masks {inside}: {type(error).__name__}: {error}")
        return None

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable]:
        """The masks of each image, in order; `expect` must have been called for each."""
        for _ in images:
            yield self._next.popleft()

    def _cut(self, record: CocoMask, height: int, width: int) -> tuple[np.ndarray, dict[str, object]]:
        """Runs and the other values of a record, cropped from the original image to [height, width]."""
        coco = record["segmentation"]
        counts = counts_of(coco)
        height_was, width_was = (int(side) for side in coco["size"])
        kept = checked_record(record)
        if (height_was, width_was) == (height, width):
            return counts, kept
        if not (height <= height_was < height + self.scale and width <= width_was < width + self.scale):
            raise SamdiffError(f"made for {width_was} x {height_was} pixels (W x H), the image has {width} x {height}")
        mask = np.ascontiguousarray(decode(counts, height_was, width_was)[:height, :width])
        return encode(mask), {key: value for key, value in kept.items() if key != "crop_box"}


def _shortened(reason: str) -> str:
    """A reason for the store: printable, at most 400 characters."""
    shown = printable(reason)
    return shown if len(shown) <= _LONGEST_REASON else f"{shown[:_LONGEST_REASON]}…"
