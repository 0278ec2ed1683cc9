"""Other places that masks come from: the LR image, or files made elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigError, SamdiffError
from .degrade import degrade
from .rle import counts_of, decode, encode, to_coco
from .unchanged import changed


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
    """Masks that segment-anything's `amg.py --convert-to-rle`, `samdiff masks --json` or SA-1B left as JSON, one file per picture.

    A picture `a/b.png` finds `a/b.json` or `b.json` in the folder. A file holds a list of records, or a dict with such a list as
    `masks` or `annotations`; a record needs `segmentation` (COCO RLE) and may have the other keys. Masks are painted in their order.

    Args:
        folder: where the files lie.
        scale: pictures are cut to a multiple of it, and so are the masks.

    Raises:
        ConfigError: the folder holds no JSON file.
    """

    def __init__(self, folder: Path, scale: int) -> None:
        self.folder, self.scale = folder, scale
        self._files = sorted(_json_files(folder))
        self._sha256: dict[Path, str] = {}  # filled once: what a run records is what it reads
        if not self._files:
            raise ConfigError(f"--import-masks {folder}: expected a folder with NAME.json for each picture, found none")
        self._next: deque[list[dict[str, Any]]] = deque()

    def describe(self) -> dict[str, Any]:
        """A digest of all files stands for the segmenter that is not known."""
        total = hashlib.sha256()
        for path, sha256 in self._hashes().items():
            total.update(f"{path.relative_to(self.folder).as_posix()}\0".encode())
            total.update(bytes.fromhex(sha256))
        return {"name": "imported", "masks_from": "files", "masks_sha256": total.hexdigest()}

    def _hashes(self) -> dict[Path, str]:
        """SHA-256 of each file, made once."""
        if not self._sha256:
            self._sha256 = {path: _sha256_of(path) for path in self._files}
        return self._sha256

    def expect(self, name: str, height: int, width: int) -> str | None:
        """Told before each image of `generate_batch`: why there are no masks for it, None if there are.

        Raises:
            ChangedError: its file is not the one that `describe` counted.
        """
        relative = PurePosixPath(name.replace("\\", "/"))
        places = [self.folder / relative.with_suffix(".json"), self.folder / f"{relative.stem}.json"]
        path = next((place for place in places if place in self._hashes()), None)
        if path is None:
            return f"no masks: expected {places[0].name} in the folder of --import-masks"
        try:
            data = path.read_bytes()
        except OSError as error:
            if self._hashes()[path] != _UNREADABLE:
                raise changed(str(path), error.strerror or str(error)) from error
            return f"its masks {path.relative_to(self.folder).as_posix()}: cannot be read ({error.strerror})"
        if hashlib.sha256(data).hexdigest() != self._hashes()[path]:
            raise changed(str(path), "its bytes are not those that were hashed at first")
        try:
            self._next.append([self._cut(record, height, width) for record in _records(data)])
        except SamdiffError as error:
            inside = path.relative_to(self.folder).as_posix()  # reasons are kept in the store: no path of this machine
            return f"its masks {inside}: {error}"
        return None

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """The records of each image, in order; `expect` was told each of them before."""
        for _ in images:
            yield self._next.popleft()

    def _cut(self, record: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        """A record of the picture as it was, cut to the picture as it is used."""
        coco = record["segmentation"]
        counts = counts_of(coco)
        _check_values(record)
        height_was, width_was = (int(side) for side in coco["size"])
        if (height_was, width_was) == (height, width):
            return dict(record)
        if not (height <= height_was < height + self.scale and width <= width_was < width + self.scale):
            raise SamdiffError(f"made for {width_was} x {height_was} pixels (W x H), the picture has {width} x {height}")
        mask = np.ascontiguousarray(decode(counts, height_was, width_was)[:height, :width])
        return {key: value for key, value in record.items() if key != "crop_box"} | {
            "segmentation": to_coco(encode(mask), height, width)
        }


def _check_values(record: Mapping[str, Any]) -> None:
    """The keys that a record may have hold numbers, as many as segment-anything writes, or nothing."""
    for key, count in (("predicted_iou", None), ("stability_score", None), ("crop_box", 4), ("point_coords", 2)):
        value = record.get(key)
        if value is None or (count and value == []):
            continue
        first = value[0] if key == "point_coords" and isinstance(value, list) else value
        numbers = first if isinstance(first, list) else [first]
        good = len(numbers) == (count or 1) and isinstance(first, list) == bool(count)
        if not good or not all(isinstance(number, int | float) for number in numbers):
            raise SamdiffError(f"{key}: expected {f'{count} numbers' if count else 'a number'}, got {value!r}")


_UNREADABLE = hashlib.sha256(b"unreadable").hexdigest()


def _sha256_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # its images get the reason
        return _UNREADABLE


def _json_files(folder: Path) -> Iterator[Path]:
    """`*.json` in a folder and below, in linked folders too, each of them once."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        yield from (path for path in (Path(here, name) for name in files) if path.suffix == ".json" and path.is_file())


def _records(data: bytes) -> list[dict[str, Any]]:
    """Records of a file's bytes, checked as far as their keys.

    Raises:
        SamdiffError: it is not such a file.
    """
    try:
        found = json.loads(data)
    except ValueError as error:
        raise SamdiffError(f"not readable as JSON ({error})") from error
    if isinstance(found, dict):
        found = found.get("masks", found.get("annotations"))
    if not isinstance(found, list) or not all(
        isinstance(item, dict) and isinstance(item.get("segmentation"), dict) for item in found
    ):
        raise SamdiffError("expected a list of records with `segmentation` as COCO RLE (amg.py --convert-to-rle)")
    return found
