"""Read a store: `open_store(path)` checks the root and the contract, then hands out tables, tiles and masks.

Reads are whole chunks with their checksums; a missing or damaged one is a `StoreError` that names the file, never zeros (Zarr's
own readers return the fill value for a missing chunk). Nothing here needs an event loop, so a `Store` works in forked workers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from .cache import CACHE_BYTES, CachedPlace, Patient
from .contract import ARRAYS, LONG_ROWS, RECORD_KEY, sizes_from, tiles_per_shard, violations
from .keystore import Location, Place, place_at
from .recent import Recent
from .root import nothing_there, parse_record, read_root
from .shardcodec import DamageError, chunk_span, decode_chunk, decode_index, index_bytes
from .shards import ROOT_KEY, chunk_key, digest

_KEEP = 96  # indices of shards (1 to 64 kB) and chunks of tables (under 1 MB) that a store keeps, whatever its size


def open_store(path: Location, cache: Path | None = None, cache_bytes: int = CACHE_BYTES) -> Store:
    """Open a committed store for reading.

    Args:
        path: what `samdiff prepare` wrote: the folder `NAME.zarr`, a URL such as `s3://bucket/NAME.zarr`, or a place.
        cache: folder for whole shards of a store that lies far away (see `cache.py`); None reads the place itself.
        cache_bytes: bound of that folder, over all the stores that use it.

    Raises:
        StoreError: nothing there, not a store, not finished, another format version, or metadata that breaks the contract.
    """
    place = place_at(path)
    data = (Patient(place) if cache else place).get(ROOT_KEY)
    if data is None:
        raise StoreError(nothing_there(place))
    attributes = read_root(place, data)
    return Store(CachedPlace(place, cache, digest(data)[:24], cache_bytes) if cache else place, attributes)


class Store:
    """One store, read-only: `len(store)` tiles of `tile` HR pixels at `scale`, from `n_images` images with `n_masks` masks."""

    def __init__(self, place: Place, attributes: dict[str, Any], record: dict[str, tuple[int, str]] | None = None) -> None:
        """`record` replaces the store's own, and its metadata is then not compared with it: for `verify` only."""
        self.place = place
        self.attrs = attributes
        self.scale: int = attributes["scale"]
        self._raw: dict[str, bytes] = {}
        self._documents = {spec.path: self._document(spec.path) for spec in ARRAYS}
        if record is None:
            self._check_documents()
        else:
            self.record = record
        try:
            problems = violations(self._documents, self.scale)
        except (KeyError, TypeError, IndexError) as error:
            problems = [f"array metadata without {error}"]
        if problems:
            raise StoreError(f"{place}: the store breaks its contract: {'; '.join(problems[:5])}; prepare it again")
        self.sizes = sizes_from(self._documents, self.scale)
        self.tile = self.sizes["T"]
        self._slots = tiles_per_shard(self.tile)
        self._recent = Recent(_KEEP)
        self._tables: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.sizes["N"]

    def __repr__(self) -> str:
        sizes = f"x{self.scale}, {len(self)} tiles of {self.tile} px, {self.n_images} images, {self.n_masks} masks"
        return f"Store({str(self.place)!r}, {sizes})"

    @property
    def n_images(self) -> int:
        """Images in the store's table, skipped ones included."""
        return self.sizes["I"]

    @property
    def n_masks(self) -> int:
        """Masks of all images."""
        return self.sizes["M"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sources and every setting that made the store."""
        return self.attrs["fingerprint"]

    def table(self, path: str) -> np.ndarray:
        """A whole table, e.g. `masks/codes`; kept after the first use, read-only. For tiles use `read_tiles`."""
        if path not in self._tables:
            rows = self._documents[path]["shape"][0]
            self._tables[path] = self._rows(path, 0, rows)
        return self._tables[path]

    def read_tiles(self, name: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Tiles of one array (`hr`, `lr` or `labels`) by row.

        Returns:
            [len(rows), …] in the array's dtype, in the order asked for.

        Raises:
            StoreError: a row is not in the store, or a shard is missing or damaged; the message names it.
        """
        out = np.empty((len(rows), *self.tile_like(name).shape), self.tile_like(name).dtype)
        for place, row in enumerate(rows):
            self.read_tile(name, int(row), out[place])
        return out

    def tile_like(self, name: str) -> np.ndarray:
        """An empty array of one tile's type and shape, to decode into."""
        document = self._documents[f"tiles/{name}"]
        return np.empty(document["shape"][1:], np.dtype(document["data_type"]).newbyteorder("<"))

    def read_tile(self, name: str, row: int, out: np.ndarray) -> np.ndarray:
        """One tile, decoded into `out` (see `tile_like`) and returned; errors as `read_tiles`. Threads may read at once."""
        if not 0 <= row < len(self):
            raise StoreError(f"{self.place}: tile {row} asked for, but the store has {len(self)}")
        key = chunk_key(f"tiles/{name}", row // self._slots, out.ndim + 1)
        try:
            try:
                return self._decoded(key, row % self._slots, out)
            except (DamageError, RuntimeError):
                if not (isinstance(self.place, CachedPlace) and self.place.forget(key)):
                    raise
                self._recent.pop(key)  # perhaps only the local copy is damaged: once more, from the store itself
                return self._decoded(key, row % self._slots, out)
        except (DamageError, RuntimeError) as error:
            raise self._damaged(key, error) from error

    def prefetch(self, rows: np.ndarray) -> None:
        """Fetch the shards that hold these tiles in the background, if the store lies far away and has a cache."""
        if isinstance(self.place, CachedPlace):
            shards = np.unique(rows // self._slots).tolist()
            self.place.prefetch(chunk_key(f"tiles/{n}", i, 3 + (n != "labels")) for i in shards for n in ("hr", "lr", "labels"))

    def _decoded(self, key: str, slot: int, out: np.ndarray) -> np.ndarray:
        start, length = chunk_span(self._index(key, self._slots), slot)
        return decode_chunk(self._get(key, start, length), out.dtype, out.shape, out)

    def rows(self, path: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of a table, by chunks of which a few are kept: nothing grows with the number of tiles."""
        document = self._documents[path]
        size = document["chunk_grid"]["configuration"]["chunk_shape"][0]
        out = np.empty((len(rows), *document["shape"][1:]), np.dtype(document["data_type"]).newbyteorder("<"))
        for index in np.unique(rows // size):
            mine = rows // size == index
            key = chunk_key(path, int(index), out.ndim)
            if (chunk := self._recent.get(key)) is None:
                chunk = self._recent[key] = self._chunk(path, document, size, int(index))
            out[mine] = chunk[rows[mine] % size]
        return out

    def names(self) -> list[str]:
        """Names of all images as the source listed them."""
        return [self._text("name", image) for image in range(self.n_images)]

    def note(self, image: int) -> str:
        """Why an image was skipped, or what decoding did to it; empty for most."""
        return self._text("note", image)

    def skipped(self) -> dict[str, str]:
        """name -> reason of every image that was not used."""
        return {self._text("name", int(i)): self.note(int(i)) for i in np.flatnonzero(self.table("images/status"))}

    def masks(self, image: int) -> list[np.ndarray]:
        """The image's overlapping masks as found, in painting order: COCO runs, uint32, column-major, HR frame."""
        first, count = int(self.table("images/first_mask")[image]), int(self.table("images/n_masks")[image])
        offsets = self.table("masks/rle_offset")[first : first + count + 1].astype(np.int64)
        if count == 0:
            return []
        runs = self._rows("masks/rle", int(offsets[0]), int(offsets[-1]))
        return np.split(runs, offsets[1:-1] - offsets[0])

    @cached_property
    def record(self) -> dict[str, tuple[int, str]]:
        """key -> (bytes, SHA-256) of every file of the store, as committed."""
        for key, (size, sha256) in self.attrs["digests"]["record"].items():
            data = self.place.get(key)
            if data is None or (len(data), digest(data)) != (size, sha256):
                raise StoreError(f"{self.place}/{key}: {'missing' if data is None else 'damaged'}; restore it or prepare again")
        document = self._document(RECORD_KEY)
        text = self._read_chunks(RECORD_KEY, document, 0, document["shape"][0]).tobytes().decode()
        return parse_record(text)

    def _text(self, column: str, image: int) -> str:
        offsets = self.table(f"images/{column}_offset")
        return self.table(f"images/{column}")[int(offsets[image]) : int(offsets[image + 1])].tobytes().decode()

    def _rows(self, path: str, start: int, stop: int) -> np.ndarray:
        return self._read_chunks(path, self._documents[path], start, stop)

    def _read_chunks(self, path: str, document: dict[str, Any], start: int, stop: int) -> np.ndarray:
        shape, dtype = tuple(document["shape"]), np.dtype(document["data_type"]).newbyteorder("<")
        if len(document["codecs"]) == 1:  # sharded
            return self.read_tiles(path.split("/")[1], range(start, stop))
        rows = LONG_ROWS if path == RECORD_KEY else document["chunk_grid"]["configuration"]["chunk_shape"][0]
        parts = [np.empty((0, *shape[1:]), dtype)]
        for index in range(start // rows, -(-stop // rows)):
            chunk = self._chunk(path, document, rows, index)
            parts.append(chunk[max(0, start - index * rows) : max(0, stop - index * rows)])
        joined = np.concatenate(parts)
        joined.flags.writeable = False
        return joined

    def _chunk(self, path: str, document: dict[str, Any], rows: int, index: int) -> np.ndarray:
        """A whole chunk of a table, as it is stored."""
        shape, dtype = document["shape"], np.dtype(document["data_type"]).newbyteorder("<")
        key = chunk_key(path, index, len(shape))
        try:
            return decode_chunk(self._get(key), dtype, (rows, *shape[1:]))
        except (DamageError, RuntimeError) as error:
            raise self._damaged(key, error) from error

    def _index(self, key: str, slots: int) -> np.ndarray:
        index = self._recent.get(key)
        if index is None:
            size = self.place.size(key)
            if size is None:
                raise DamageError("the file is missing")
            expected = self.record.get(key, (size, ""))[0]
            if size != expected:
                raise DamageError(f"the file has {size} bytes instead of {expected}")
            index = decode_index(self._get(key, size - index_bytes(slots), index_bytes(slots)), slots)
            self._recent[key] = index
        return index

    def _get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = self.place.get(key, start, length)
        if data is None:
            raise self._damaged(key, DamageError("the file is missing"))
        return data

    def _check_documents(self) -> None:
        """Metadata that keeps the contract may have been edited all the same."""
        for spec in ARRAYS:
            key, data = f"{spec.path}/{ROOT_KEY}", self._raw[spec.path]
            if self.record[key] != (len(data), digest(data)):
                raise self._damaged(key, DamageError("edited or damaged metadata"))

    def _document(self, path: str) -> dict[str, Any]:
        key = f"{path}/{ROOT_KEY}"
        self._raw[path] = data = self._get(key)
        try:
            return json.loads(data)
        except ValueError as error:
            if isinstance(error, StoreError):
                raise
            raise self._damaged(key, error) from error

    def _damaged(self, key: str, error: Exception) -> StoreError:
        return StoreError(f"{self.place}/{key}: {error}; restore this file from a copy, or prepare the store again")
