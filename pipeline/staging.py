"""Work in progress beside a store: one committed record per finished image, so that no image is ever segmented twice.

`NAME.zarr.staging` holds `settings.json` (what the records were made with) and `images/KEY.npz`, named by the content of the
source file (`scan.Found.key`): a record is found again when files are renamed, added or removed. A folder also holds the lock; that of a URL lies in the
user's cache folder and so keeps apart the runs of one machine only.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import StoreError
from ..runtime import cache_dir
from .keystore import LocalFolder, Location, Place, place_at, sweep_partial
from .lock import take_lock
from .shards import canonical

log = logging.getLogger(__name__)

_SETTINGS = "settings.json"


def _empty(shape: tuple[int, ...], dtype: str) -> Any:
    return field(default_factory=lambda: np.zeros(shape, dtype))


@dataclass(frozen=True)
class ImageRecord:
    """What the mask stage found in one image; M masks in painting order, HR frame."""

    height: int
    """Rows, after the crop to a multiple of the scale."""
    width: int
    """Columns, likewise."""
    note: str = ""
    """What decoding did to it."""
    codes: np.ndarray = _empty((0, 2), "float32")
    area: np.ndarray = _empty((0,), "int64")
    box_hr: np.ndarray = _empty((0, 4), "int32")
    predicted_iou: np.ndarray = _empty((0,), "float32")
    stability: np.ndarray = _empty((0,), "float32")
    point_hr: np.ndarray = _empty((0, 2), "float32")
    crop_box_hr: np.ndarray = _empty((0, 4), "int32")
    rle_offset: np.ndarray = _empty((1,), "uint64")
    """[M + 1]: where each mask's runs start in `rle`."""
    rle: np.ndarray = _empty((0,), "uint32")

    @property
    def n_masks(self) -> int:
        """M."""
        return len(self.area)

    def runs(self) -> list[np.ndarray]:
        """COCO runs of each mask, uint32."""
        return np.split(self.rle, self.rle_offset[1:-1].astype(np.int64)) if self.n_masks else []


class Staging:
    """The staging place of one store; opening it takes the lock, and leaving the `with` block gives it back."""

    def __init__(self, out: Location) -> None:
        self.out = place_at(out)
        self.place = self.out.sibling(".staging")
        self._lock: IO[str] | None = None

    def __repr__(self) -> str:
        return str(self.place)

    def settings(self) -> dict[str, Any] | None:
        """The settings that the records were made with; None if nothing was begun."""
        data = self.place.get(_SETTINGS)
        if data is None:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(f"{self.place}/{_SETTINGS}: {error}; delete {self.place} to begin again") from error

    def open(self, settings: Mapping[str, Any]) -> Staging:
        """Make or go on with the records.

        Raises:
            BusyError: another `prepare` is at work on this store.
            StoreError: the records were made with other settings.
        """
        self._lock = take_lock(_lock_file(self.place), self.out, "samdiff prepare")
        before = self.settings()
        if before is not None and before != settings:
            self.close()
            raise StoreError(
                f"{self.out}: begun with other settings ({'; '.join(differences(before, settings))}); "
                f"use the same ones to go on, another --out, or delete {self.place} to begin again"
            )
        if isinstance(self.place, LocalFolder):
            sweep_partial(self.place.root)
        if before is None:
            self.place.set(_SETTINGS, canonical(settings))
        return self

    def close(self) -> None:
        """Give the lock back; the records stay."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finished(self) -> set[str]:
        """Keys of all committed records."""
        names = (path.removeprefix("images/") for path in self.place.list_keys() if path.startswith("images/"))
        return {name.removesuffix(".npz") for name in names if name.endswith(".npz") and not name.startswith(".")}

    def load(self, key: str) -> ImageRecord | None:
        """The committed record of a key, None if there is none (or it was damaged, which is logged)."""
        data = self.place.get(_path(key))
        if data is None:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return ImageRecord(**{f.name: _value(arrays[f.name]) for f in fields(ImageRecord)})
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s/%s: damaged (%s); this image is done again", self.place, _path(key), error)
            return None

    def save(self, key: str, record: ImageRecord) -> None:
        """Commit a record: whole, or not at all."""
        data = io.BytesIO()
        np.savez_compressed(data, **{f.name: getattr(record, f.name) for f in fields(ImageRecord)})
        self.place.set(_path(key), data.getvalue())

    def discard(self, key: str) -> None:
        """Forget a record, so that its image is done again."""
        self.place.delete(_path(key))

    def remove(self) -> None:
        """Delete it all: the store is committed, or nothing came of it."""
        self.close()
        self.place.clear()


def _path(key: str) -> str:
    return f"images/{key}.npz"


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`scale: was 4, now 2` for each setting that differs, nested ones as `segmenter.mode`."""
    lines: list[str] = []
    for key in sorted({*before, *now}):
        old, new, name = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new:
            lines.append(f"{name}: was {old!r}, now {new!r}")
    return lines


def _value(array: np.ndarray) -> Any:
    return array if array.ndim else array.item()


def _lock_file(place: Place) -> Path:
    """Beside the records in a folder, in the cache folder for a URL."""
    if isinstance(place, LocalFolder):
        return place.root / "lock"
    return cache_dir() / "locks" / hashlib.sha256(str(place).encode()).hexdigest()
