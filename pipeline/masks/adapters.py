"""Other places that masks come from: the LR image, or files made elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import ChangedError, SamdiffError, printable
from ..degrade.recipes import degrade
from ..encode.rle import counts_of, decode, encode, to_coco
from .mask_files import MaskFiles, checked_record

_LONGEST_REASON = 400  # characters


class RecordSource(Protocol):
    """A segmenter, as `prepare.MaskSource` describes it."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that decide the masks."""

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """Masks of uint8 [H, W, 3] images, in order."""


class MasksFromLR:
    """Masks of the bicubic LR image, scaled to HR: each LR pixel becomes s x s pixels.

    Args:
        masks: the segmenter.
        scale: s, HR pixels per LR pixel.
    """

    def __init__(self, masks: RecordSource, scale: int) -> None:
        self.masks, self.scale = masks, scale

    def describe(self) -> dict[str, Any]:
        """As the segmenter's own, with `masks_from`."""
        return {**self.masks.describe(), "masks_from": "lr"}

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """Masks of HR images uint8 [H, W, 3], H and W multiples of the scale; records in the HR frame."""
        for records in self.masks.generate_batch(degrade(image, "bicubic", self.scale) for image in images):
            yield [enlarge(record, self.scale) for record in records]


def enlarge(record: Mapping[str, Any], scale: int) -> dict[str, Any]:
    """A record of an LR image in the HR frame: a pixel becomes scale x scale pixels; points stay at the same place."""
    height_lr, width_lr = record["segmentation"]["size"]
    mask = decode(counts_of(record["segmentation"]), height_lr, width_lr)
    large = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    x, y, w, h = record["bbox"]
    return {
        **record,
        "segmentation": to_coco(encode(large), *large.shape),
        "area": int(record["area"]) * scale**2,
        "bbox": [x * scale, y * scale, (w + 1) * scale - 1, (h + 1) * scale - 1],  # segment-anything's: last - first pixel
        "point_coords": [[value * scale for value in point] for point in record["point_coords"]],
        "crop_box": [value * scale for value in record["crop_box"]],
    }


class ImportedMasks:
    """Masks that segment-anything's `amg.py --convert-to-rle`, `samdiff masks --json` or SA-1B left as JSON, one file per image.

    An image `a/b.png` finds `a/b.json` or `b.json` in the folder. A file holds a list of records, or a dict with such a list as
    `masks` or `annotations`; a record needs `segmentation` (COCO RLE) and may have the other keys. Masks are painted in their order.

    Args:
        folder: where the files lie.
        scale: images are cut to a multiple of it, and so are the masks.

    Raises:
        ConfigError: the folder holds no JSON file.
    """

    def __init__(self, folder: Path, scale: int) -> None:
        self.scale = scale
        self.folder = folder
        self._files = MaskFiles(folder)
        self._next: deque[list[dict[str, Any]]] = deque()

    def describe(self) -> dict[str, Any]:
        """A digest of all files stands for the segmenter that is not known."""
        return {"name": "imported", "masks_from": "files", "masks_sha256": self._files.digest()}

    def expect(self, name: str, height: int, width: int) -> str | None:
        """Called before each image of `generate_batch`: why there are no masks for it, None if there are.

        Raises:
            ChangedError: its file changed after `describe`.
        """
        inside, other = self._files.find(name)
        if inside is None:
            return f"no masks: expected {printable(other)} in the folder of --import-masks"
        try:
            self._next.append([self._cut(record, height, width) for record in self._files.records(inside)])
        except ChangedError:
            raise
        except SamdiffError as error:
            return _shortened(f"its masks {inside}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a strange file raises is the fault of that file
            return _shortened(f"its masks {inside}: {type(error).__name__}: {error}")
        return None

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """The records of each image, in order; `expect` was called for each of them before."""
        for _ in images:
            yield self._next.popleft()

    def _cut(self, record: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        """A record of the image as it was, cut to the image as it is used."""
        coco = record["segmentation"]
        counts = counts_of(coco)
        height_was, width_was = (int(side) for side in coco["size"])
        kept = checked_record(record)
        if (height_was, width_was) == (height, width):
            return {**kept, "segmentation": to_coco(counts, height, width)}
        if not (height <= height_was < height + self.scale and width <= width_was < width + self.scale):
            raise SamdiffError(f"made for {width_was} x {height_was} pixels (W x H), the picture has {width} x {height}")
        mask = np.ascontiguousarray(decode(counts, height_was, width_was)[:height, :width])
        cut = {key: value for key, value in kept.items() if key != "crop_box"}
        return {**cut, "segmentation": to_coco(encode(mask), height, width)}


def _shortened(reason: str) -> str:
    """A reason as it is kept in the store: printable, and not as long as the values that a file may hold."""
    shown = printable(reason)
    return shown if len(shown) <= _LONGEST_REASON else f"{shown[:_LONGEST_REASON]}…"
