"""Work in progress beside a store: one committed `ImageMasks` per finished image, so that no image is ever segmented twice.

`NAME.zarr.staging` holds `settings.json` (what they were made with) and `images/KEY.npz`, named by the content of the
source file (`scan.SourceImage.key`): they are found again when files are renamed, added or removed. While the store is being written,
`writing.json` lists its keys: these files, and no others, are ours to remove from an unfinished store. A folder also holds the lock; that
of a URL lies in the user's cache folder and so keeps apart the runs of one machine only.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from ...errors import StoreError
from ...runtime import cache_dir
from ..shards.writer import ROOT_KEY, canonical
from ..storage.atomic import partial_of, sweep_partial
from ..storage.foreign import foreign_names, is_plain_file, refuse_foreign, refuse_links, some
from ..storage.local import LocalStore, Location, key_store_at
from ..storage.lock import drop_lock, take_lock

log = logging.getLogger(__name__)

_SETTINGS = "settings.json"
_WRITING = "writing.json"
_LOCK = "lock"
_IMAGES = "images"
_RECORD = re.compile(_IMAGES + r"/[0-9a-f]{64}\.npz")
_STORE_KEY = re.compile(rf"{ROOT_KEY}|[a-z]+(/[a-z0-9_]+)?/({re.escape(ROOT_KEY)}|c(/[0-9]+)+)")
_OF_ALL = {"scale", "tile", "segmenter"}  # what the settings of every release hold


def _empty(shape: tuple[int, ...], dtype: str) -> Any:
    return field(default_factory=lambda: np.zeros(shape, dtype))


@dataclass(frozen=True)
class ImageMasks:
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
        self.out = key_store_at(out)
        self.place = self.out.sibling(".staging")
        self._lock: IO[str] | None = None

    def __repr__(self) -> str:
        return str(self.place)

    def settings(self) -> dict[str, Any] | None:
        """The settings that the records were made with; None if nothing was begun.

        Raises:
            StoreError: they are damaged, or another program's.
        """
        data = self.place.get(_SETTINGS)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self.place}/{_SETTINGS}: {error}; restore it from a copy, or give another --out; deleting {self.place} loses the masks in it"
            ) from error
        if not isinstance(found, dict) or not found.keys() >= _OF_ALL:
            raise StoreError(f"{self.place}/{_SETTINGS}: not written by samdiff prepare; move it away, or give another --out")
        return found

    def is_there(self) -> bool:
        """Whether anything of ours lies in the place, be it the lock alone."""
        return any(key == _LOCK or _is_ours(key) for key in self.place.list_keys())

    def check(self) -> None:
        """StoreError if the staging place is a link, or holds anything that is not a record of ours."""
        if isinstance(self.place, LocalStore):
            refuse_links(self.place.root)
        if there := some(self._foreign()):
            raise StoreError(
                f"{self.place}: holds what samdiff prepare did not write ({there}); move it away, or give another --out"
            )

    def open(self) -> Staging:
        """Take the lock. Nothing is begun yet: see `begin`.

        Raises:
            BusyError: another `prepare` is at work on this store.
            StoreError: the place is not ours (`check`), or cannot be written.
        """
        self.check()
        self._lock = take_lock(self._lock_file(), self.out, "samdiff prepare")
        return self

    def begin(self, settings: Mapping[str, object]) -> None:
        """Make or resume the records.

        Raises:
            StoreError: the records were made with other settings.
        """
        before = self.settings()
        if before is not None and before != settings:
            raise StoreError(
                f"{self.out}: begun with other settings ({'; '.join(differences(before, settings))}); "
                f"use the same ones to resume and keep its masks, or another --out; deleting {self.place} loses the masks made so far"
            )
        if isinstance(self.place, LocalStore):
            sweep_partial(self.place.root, ours=_is_ours)
        if before is None:
            self.place.set(_SETTINGS, canonical(settings))

    def written(self) -> frozenset[str]:
        """Keys of the store that an unfinished write of ours may have left at `out`: nothing else there is ours.

        Raises:
            StoreError: the list is damaged.
        """
        data = self.place.get(_WRITING)
        if data is None or self.settings() is None:
            return frozenset()
        try:
            keys = json.loads(data)
            if not isinstance(keys, list) or not all(isinstance(key, str) and _STORE_KEY.fullmatch(key) for key in keys):
                raise ValueError("expected a list of a store's keys")
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self.place}/{_WRITING}: damaged ({error}); delete this file, and {self.out} if you have nothing of yours in it"
            ) from error
        return frozenset(keys)

    def begin_writing(self, keys: Collection[str]) -> None:
        """Remove what an unfinished write left at `out`, and write down which keys are written from now on.

        Raises:
            StoreError: a finished store or something foreign lies there.
        """
        before = self.written()
        refuse_foreign(self.out, before)
        if self.out.size(ROOT_KEY) is not None:
            raise StoreError(f"{self.out}: another process finished a store there meanwhile; it is left as it is")
        for key in [key for key in self.out.list_keys() if key in before or partial_of(key) in before]:
            self.out.delete(key)
        if isinstance(self.out, LocalStore):
            for folder in sorted({parent for key in before for parent in PurePosixPath(key).parents}, reverse=True):
                with suppress(OSError):  # not empty, or not there
                    (self.out.root / folder).rmdir()
        self.place.set(_WRITING, canonical(sorted(keys)))

    def close(self) -> None:
        """Give the lock back; the records stay. If nothing was begun, nothing stays."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        if self.place.size(_SETTINGS) is not None:
            lock.close()
            return
        drop_lock(lock, self._lock_file())
        if isinstance(self.place, LocalStore):
            with suppress(OSError):  # not empty: what is in there is not ours
                self.place.root.rmdir()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finished(self) -> set[str]:
        """Keys of all images whose masks are committed."""
        names = (path.removeprefix("images/") for path in self.place.list_keys() if path.startswith("images/"))
        return {name.removesuffix(".npz") for name in names if name.endswith(".npz") and not name.startswith(".")}

    def load(self, key: str) -> ImageMasks | None:
        """The committed masks of a key, None if there is none (or it was damaged, which is logged)."""
        data = self.place.get(_path(key))
        if data is None:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return ImageMasks(**{f.name: _value(arrays[f.name]) for f in fields(ImageMasks)})
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s/%s: damaged (%s); this image has to be done again", self.place, _path(key), error)
            return None

    def save(self, key: str, masks: ImageMasks) -> None:
        """Commit the masks of an image: whole, or not at all."""
        data = io.BytesIO()
        np.savez_compressed(data, **{f.name: getattr(masks, f.name) for f in fields(ImageMasks)})
        self.place.set(_path(key), data.getvalue())

    def discard(self, key: str) -> None:
        """Forget the masks of an image, so that its image is done again."""
        self.place.delete(_path(key))

    def remove(self) -> None:
        """Delete the records: the store is committed, or nothing came of it. What is not ours stays, and is reported."""
        assert self._lock is not None, "only who has the lock may remove the records"
        left = some(self._foreign())
        begun = self.settings() is not None
        ours = [key for key in self.place.list_keys() if begun and (_is_ours(key) or _is_ours(partial_of(key) or ""))]
        for key in sorted(
            ours, key=lambda key: (key == _SETTINGS, key)
        ):  # the settings last: they say that the others are ours
            self.place.delete(key)
        if isinstance(self.place, LocalStore):
            with suppress(OSError):  # not empty, or not there
                (self.place.root / _IMAGES).rmdir()
        self.close()
        if left:
            log.warning("%s: left as it is, for it holds what samdiff did not write: %s", self.place, left)

    def _foreign(self) -> Iterator[str]:
        """What is not ours: without our settings everything but the lock."""
        begun = self.settings() is not None if self._is_plain(_SETTINGS) else False
        keys = {partial_of(key) or key for key in self.place.list_keys()} if begun else set()
        own = {_WRITING, _path("none yet"), *filter(_is_ours, keys)} if begun else set()
        return foreign_names(self.place, {_SETTINGS, _LOCK, *own})

    def _is_plain(self, key: str) -> bool:
        """Whether there is a plain file of that name (any object of a URL is one)."""
        return not isinstance(self.place, LocalStore) or is_plain_file(self.place.root / key)

    def _lock_file(self) -> Path:
        """Beside the records in a folder, in the cache folder for a URL."""
        if isinstance(self.place, LocalStore):
            return self.place.root / _LOCK
        return cache_dir() / "locks" / hashlib.sha256(str(self.place).encode()).hexdigest()


def _is_ours(key: str) -> bool:
    """Whether a file of that name in a staging place that holds our settings is ours."""
    return key in (_SETTINGS, _WRITING) or _RECORD.fullmatch(key) is not None


def _path(key: str) -> str:
    return f"{_IMAGES}/{key}.npz"


def differences(before: Mapping[str, object], now: Mapping[str, object], prefix: str = "") -> list[str]:
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
