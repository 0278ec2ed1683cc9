"""The staging folder of an unfinished store: the masks of each finished image, so that no image is segmented twice.

`NAME.zarr.staging` holds `settings.json` and one `images/KEY.npz` per finished image. KEY depends on the content of the source file
(`scan.SourceImage.key`), so the masks stay valid when files are renamed, added or removed. While the store is being written,
`writing.json` lists its keys; only these files are removed from an unfinished store. The lock is a file in the folder. For a URL it is in
the user's cache folder, so it excludes only runs on the same machine.
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
from typing import IO

import numpy as np

from ...errors import StoreError
from ...runtime import cache_dir
from ..shards.schema import Document
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
_REQUIRED = {"scale", "tile", "segmenter"}  # keys in the settings of every release


def _empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """The field of a dataclass with an array of zeros as its default."""
    return field(default_factory=lambda: np.zeros(shape, dtype))


@dataclass(frozen=True)
class ImageMasks:
    """The M masks of one image in painting order, with their structure codes. All coordinates are HR pixels.

    The arrays have the meaning and dtype of the store's `masks/…` arrays, see `shards.schema`.
    """

    height: int
    """Rows of the image, after the crop to a multiple of the scale."""
    width: int
    """Columns of the image, after the crop."""
    note: str = ""
    """Remarks of the decoder, such as a removed alpha channel; empty if there are none."""
    codes: np.ndarray = _empty((0, 2), "float32")
    """[M, 2]."""
    area: np.ndarray = _empty((0,), "int64")
    """[M], pixels."""
    box_hr: np.ndarray = _empty((0, 4), "int32")
    """[M, 4]."""
    predicted_iou: np.ndarray = _empty((0,), "float32")
    """[M]."""
    stability: np.ndarray = _empty((0,), "float32")
    """[M]."""
    point_hr: np.ndarray = _empty((0, 2), "float32")
    """[M, 2]."""
    crop_box_hr: np.ndarray = _empty((0, 4), "int32")
    """[M, 4]."""
    rle_offset: np.ndarray = _empty((1,), "uint64")
    """[M + 1]: mask m's runs are `rle[rle_offset[m] : rle_offset[m + 1]]`."""
    rle: np.ndarray = _empty((0,), "uint32")
    """[R]: the COCO runs of all masks."""

    @property
    def n_masks(self) -> int:
        """The number of masks, M."""
        return len(self.area)

    def runs(self) -> list[np.ndarray]:
        """COCO runs of each mask: M arrays, uint32 [runs of that mask]."""
        return np.split(self.rle, self.rle_offset[1:-1].astype(np.int64)) if self.n_masks else []


class Staging:
    """The staging folder (or URL prefix) of one store. `open` takes the lock; leaving the `with` block releases it."""

    def __init__(self, out: Location) -> None:
        self.out = key_store_at(out)
        self.place = self.out.sibling(".staging")
        self._lock: IO[str] | None = None

    def __repr__(self) -> str:
        return str(self.place)

    def settings(self) -> Document | None:
        """The settings of the unfinished store; None if there is none.

        Raises:
            StoreError: the file is damaged, or was not written by samdiff.
        """
        data = self.place.get(_SETTINGS)
        if data is None:
            return None
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self.place}/{_SETTINGS}: {error}; restore it from a copy, or give another --out; deleting {self.place} loses the masks in it"
            ) from error
        if not isinstance(document, dict) or not document.keys() >= _REQUIRED:
            raise StoreError(f"{self.place}/{_SETTINGS}: not written by samdiff prepare; move it away, or give another --out")
        return document

    def exists(self) -> bool:
        """Whether the folder has any file of ours, even only the lock."""
        return any(key == _LOCK or _is_ours(key) for key in self.place.list_keys())

    def check(self) -> None:
        """Raise a StoreError if the folder is a link, or has files that samdiff did not write."""
        if isinstance(self.place, LocalStore):
            refuse_links(self.place.root)
        if names := some(self._foreign()):
            raise StoreError(
                f"{self.place}: holds files that samdiff prepare did not write ({names}); move them away, or give another --out"
            )

    def open(self) -> Staging:
        """Take the lock and return `self`. Nothing else is written: see `begin`.

        Raises:
            BusyError: another `prepare` is running for this store.
            StoreError: the folder is not ours (`check`), or cannot be written.
        """
        self.check()
        self._lock = take_lock(self._lock_file(), self.out, "samdiff prepare")
        return self

    def begin(self, settings: Mapping[str, object]) -> None:
        """Start a store with these settings, or resume it.

        Raises:
            StoreError: the unfinished store has other settings.
        """
        before = self.settings()
        if before is not None and before != settings:
            raise StoreError(
                f"{self.out}: unfinished, with other settings ({'; '.join(differences(before, settings))}); "
                f"give the same settings to resume and keep its masks, or another --out; deleting {self.place} loses the masks made so far"
            )
        if isinstance(self.place, LocalStore):
            sweep_partial(self.place.root, ours=_is_ours)
        if before is None:
            self.place.set(_SETTINGS, canonical(settings))

    def written(self) -> frozenset[str]:
        """Keys at `out` that an interrupted write of ours may have left; no other key at `out` is ours.

        Raises:
            StoreError: the list of keys is damaged.
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
                f"{self.place}/{_WRITING}: damaged ({error}); delete this file, and {self.out} if it holds no files of yours"
            ) from error
        return frozenset(keys)

    def begin_writing(self, keys: Collection[str]) -> None:
        """Remove what an interrupted write left at `out`, then record which keys are about to be written.

        Raises:
            StoreError: `out` holds a finished store, or files that are not ours.
        """
        before = self.written()
        refuse_foreign(self.out, before)
        if self.out.size(ROOT_KEY) is not None:
            raise StoreError(f"{self.out}: another process finished a store there meanwhile; it is not changed")
        for key in [key for key in self.out.list_keys() if key in before or partial_of(key) in before]:
            self.out.delete(key)
        if isinstance(self.out, LocalStore):
            for folder in sorted({parent for key in before for parent in PurePosixPath(key).parents}, reverse=True):
                with suppress(OSError):  # not empty, or not there
                    (self.out.root / folder).rmdir()
        self.place.set(_WRITING, canonical(sorted(keys)))

    def close(self) -> None:
        """Release the lock and keep the masks. A folder without settings is removed."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        if self.place.size(_SETTINGS) is not None:
            lock.close()
            return
        drop_lock(lock, self._lock_file())
        if isinstance(self.place, LocalStore):
            with suppress(OSError):  # not empty: it has files that are not ours
                self.place.root.rmdir()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finished(self) -> set[str]:
        """Keys of all images whose masks are saved."""
        return {PurePosixPath(key).stem for key in self.place.list_keys() if _RECORD.fullmatch(key)}

    def load(self, key: str) -> ImageMasks | None:
        """The saved masks of a key; None if there are none, or the file is damaged, which is logged."""
        data = self.place.get(_path(key))
        if data is None:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                values = {f.name: arrays[f.name] for f in fields(ImageMasks)}
            height, width, note = (values.pop(name).item() for name in ("height", "width", "note"))
            return ImageMasks(height=int(height), width=int(width), note=str(note), **values)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s/%s: damaged (%s); the image is segmented again", self.place, _path(key), error)
            return None

    def save(self, key: str, masks: ImageMasks) -> int:
        """Save the masks of an image, atomically. Returns the size in bytes."""
        data = io.BytesIO()
        np.savez_compressed(data, **{f.name: getattr(masks, f.name) for f in fields(ImageMasks)})
        self.place.set(_path(key), data.getvalue())
        return data.tell()

    def discard(self, key: str) -> None:
        """Delete the masks of an image, so that it is segmented again."""
        self.place.delete(_path(key))

    def remove(self) -> None:
        """Delete the staging folder, after the commit or if no image can be used. Files that are not ours are kept, and logged."""
        assert self._lock is not None, "removing the folder needs the lock"
        foreign = some(self._foreign())
        started = self.settings() is not None
        ours = [key for key in self.place.list_keys() if started and (_is_ours(key) or _is_ours(partial_of(key) or ""))]
        # The settings are deleted last: without them, the other files are not recognized as ours.
        for key in sorted(ours, key=lambda key: (key == _SETTINGS, key)):
            self.place.delete(key)
        if isinstance(self.place, LocalStore):
            with suppress(OSError):  # not empty, or not there
                (self.place.root / _IMAGES).rmdir()
        self.close()
        if foreign:
            log.warning("%s: kept, because it holds files that samdiff did not write: %s", self.place, foreign)

    def _foreign(self) -> Iterator[str]:
        """Names of files that are not ours. If there are no settings of ours, only the lock is ours."""
        started = self.settings() is not None if self._is_plain(_SETTINGS) else False
        keys = {partial_of(key) or key for key in self.place.list_keys()} if started else set()
        own = {_WRITING, _path("none yet"), *filter(_is_ours, keys)} if started else set()
        return foreign_names(self.place, {_SETTINGS, _LOCK, *own})

    def _is_plain(self, key: str) -> bool:
        """Whether there is a regular file of that name; every object of a URL is one."""
        return not isinstance(self.place, LocalStore) or is_plain_file(self.place.root / key)

    def _lock_file(self) -> Path:
        """The lock's file: in the staging folder, or in the cache folder for a URL."""
        if isinstance(self.place, LocalStore):
            return self.place.root / _LOCK
        return cache_dir() / "locks" / hashlib.sha256(str(self.place).encode()).hexdigest()


def _is_ours(key: str) -> bool:
    """Whether a file of that name is ours, in a staging folder that has our settings."""
    return key in (_SETTINGS, _WRITING) or _RECORD.fullmatch(key) is not None


def _path(key: str) -> str:
    return f"{_IMAGES}/{key}.npz"


def differences(before: Mapping[str, object], now: Mapping[str, object], prefix: str = "") -> list[str]:
    """`scale: was 4, now 2` for each setting that differs; a nested setting is named like `segmenter.mode`."""
    lines: list[str] = []
    for key in sorted({*before, *now}):
        old, new, name = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new:
            lines.append(f"{name}: was {old!r}, now {new!r}")
    return lines
