"""Reading a store: `open_store(path)` checks the root and the schema and returns a `Store` with tables, tiles and masks.

Whole chunks are read, with their checksums, from files that are compared with the manifest (`files.py`). A missing or damaged file is a
`StoreError` that names it; other Zarr readers return the fill value for a missing chunk. Offsets, counts, positions, names and labels
are checked before use, because a store may be untrusted. There is no event loop, so a `Store` works in forked workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from ...errors import SamdiffError, StoreError, printable
from ..encode.browse import html_table, index_in, spread
from ..encode.rle import counts_of
from ..scientific.sample_format import SampleFormat, format_in
from ..scientific.view import viewed
from ..storage.cache import CACHE_BYTES, CachingStore, RetryingStore
from ..storage.local import KeyStore, Location, get_at_most, key_store_at
from ..storage.lru import LRUCache
from .codec import chunk_span, decode_chunk, decode_index, encoded_bound, index_bytes
from .files import Files
from .metadata import ROOT_LIMIT, Facts, group_problem, manifest_files, manifest_problem, sizes_of
from .root import nothing_there, read_manifest, read_root
from .schema import Document, arrays_of, shape_of, tiles_per_shard
from .tables import IMAGE_TABLES, place_problems, table_problems, texts_of
from .writer import ROOT_KEY, chunk_key, digest

_KEPT = 96  # shard indices (1 to 64 kB) and chunks of tables (under 1 MB) in memory
_KEPT_RUNS = 2  # chunks of `masks/rle` (16 MiB each) in memory
# tables that are read and checked together
_GROUPS = (IMAGE_TABLES, ("images/name_offset", "images/name"), ("images/note_offset", "images/note"))
_SHOWN = 4  # tiles in a notebook
_ADVICE = "the store is inconsistent: get another copy of it, or prepare it again"


def open_store(path: Location, cache: Path | None = None, cache_bytes: int = CACHE_BYTES, check_shards: bool = True) -> Store:
    """Open a committed store for reading.

    Args:
        path: the output of `samdiff prepare`: the folder `NAME.zarr`, a URL such as `s3://bucket/NAME.zarr`, or a `KeyStore`.
        cache: folder that keeps shards of a remote store (see `cache.py`); None: no cache.
        cache_bytes: limit of the size of that folder in bytes, for all stores that use it.
        check_shards: compare each shard with its recorded SHA-256 before a process first reads a tile of it; this reads the whole
            shard. If False, only the bytes of the tile are read (at a URL, with one request), and only its checksum is checked.

    Raises:
        StoreError: the store does not exist, is not a samdiff store, is not finished, has another format version, or its metadata
            are damaged or differ from the schema.
    """
    place = key_store_at(path)
    data = get_at_most(RetryingStore(place) if cache else place, ROOT_KEY, ROOT_LIMIT)
    if data is None:
        raise StoreError(nothing_there(place))
    attributes = read_root(place, data)
    if cache:
        place = CachingStore(place, cache, digest(data)[:24], limit=cache_bytes)
    return Store(place, attributes, check_shards=check_shards)


class Store:
    """A store, read-only: `len(store)` tiles of `tile` x `tile` HR pixels at `scale`, from `n_images` images with `n_masks` masks.

    `store[i]` is one tile; `for tile in store` gives all in order. `ShardDataset` makes random crops for training.
    """

    def __init__(self, place: KeyStore, attributes: Document, manifest: Facts | None = None, check_shards: bool = True) -> None:
        """Use `open_store`, which reads and checks the root document.

        Args:
            place: where the store is.
            attributes: the root document's attributes.
            manifest: replaces the store's own; then files and tables are not checked. Only for `verify`.
            check_shards: see `open_store`.
        """
        self.place = place
        self.attrs = attributes
        self.scale: int = attributes["scale"]
        self.samples: SampleFormat = format_in(attributes)
        self.arrays = arrays_of(self.samples)
        self.tile_names = ("hr", "lr", "labels", *(("valid",) if self.samples.masked else ()))
        self._strict = manifest is None
        self.manifest = read_manifest(place, manifest_files(attributes["digests"]["record"])) if manifest is None else manifest
        self._files = Files(place, self.manifest, strict=self._strict, check_shards=check_shards)
        groups = {spec.group: None for spec in self.arrays.values()} if self._strict else {}
        paths = [*groups, *self.arrays]
        data = dict(zip(paths, self._files.documents([f"{path}/{ROOT_KEY}" for path in paths]), strict=True))
        problems = [problem for path in groups if (problem := group_problem(path, data.pop(path)))]
        self.sizes, size_problems = sizes_of(data, self.scale, self.arrays)
        problems += size_problems
        if self._strict and not problems and (problem := manifest_problem(self.manifest, self.sizes, self.arrays)):
            problems.append(problem)
        if problems:
            raise StoreError(
                f"{place}: the store's metadata are not valid: {printable('; '.join(problems[:5]))}; prepare it again"
            )
        self.tile = self.sizes["T"]
        self._slots = tiles_per_shard(self.tile)
        self._recent: LRUCache[np.ndarray] = LRUCache(_KEPT)
        self._runs: LRUCache[np.ndarray] = LRUCache(_KEPT_RUNS)
        self._tables: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.sizes["N"]

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        """One tile by row; -1 is the last.

        Returns:
            `hr` [T, T, C], `lr` [t, t, C] (8-bit RGB: uint8, C = 3), `labels` uint16 [T, T], `place` int32 [3]: image, y_hr, x_hr, and
            `valid` uint8 [T, T] where the store has it.

        Raises:
            PositionError: there is no such tile; an `IndexError`.
            IndexKindError: the index is a slice or not an integer; a `TypeError`.
            StoreError: a file is missing or damaged; the message names it.
        """
        row = [index_in(index, len(self), several='`read_tiles("hr", rows)`')]
        tiles = {name: self.read_tiles(name, row)[0] for name in self.tile_names}
        return {**tiles, "place": self.rows("tiles/place", np.array(row))[0]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        sizes = f"x{self.scale}, {len(self)} tiles of {self.tile} px, {self.n_images} images, {self.n_masks} masks"
        return f"Store({str(self.place)!r}, {sizes})"

    def _repr_html_(self) -> str:
        """For notebooks: counts, sizes, and a few tiles with their masks."""
        facts = {
            "place": str(self.place),
            "tiles": f"{len(self)} of {self.tile} x {self.tile} HR pixels, x{self.scale}",
            "images": f"{self.n_images}",
            "masks": f"{self.n_masks} by {self.attrs.get('segmenter', {}).get('name', '?')}",
            "size": f"{sum(size for size, _ in self.manifest.values()) / 1e6:.1f} MB in {len(self.manifest)} files",
        }
        try:
            facts["images"] += f", {len(self.skipped())} of them skipped"
            tiles = {f"tile {row}": viewed(self[row], self.samples) for row in spread(len(self), _SHOWN)}
            return html_table("Store", facts, tiles)
        except StoreError as error:  # a notebook still shows the object, with the error
            return html_table("Store", facts, {}, note=str(error))

    @property
    def n_images(self) -> int:
        """The number of images, including skipped ones."""
        return self.sizes["I"]

    @property
    def n_masks(self) -> int:
        """The number of masks of all images."""
        return self.sizes["M"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the sources' hashes and of all settings."""
        return str(self.attrs["fingerprint"])

    def table(self, path: str) -> np.ndarray:
        """A whole array such as `masks/codes`, read-only; it is kept in memory. For tiles use `read_tiles`.

        Args:
            path: a path of `arrays`, which gives shape and dtype.

        Raises:
            StoreError: a file is missing or damaged, or the content is not valid.
        """
        if path not in self._tables:
            names = next((group for group in _GROUPS if path in group and self._strict), (path,))
            tables = {name: self._rows(name, 0, self._shape(name)[0]) for name in names}
            if self._strict:
                self._refuse(table_problems(path, tables, self.sizes))
            self._tables.update(tables)
        return self._tables[path]

    def read_tiles(self, name: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Tiles of one array of `tile_names` by row.

        Returns:
            [len(rows), …] in the order of `rows`: `hr` [n, T, T, C] and `lr` [n, t, t, C], uint16 `labels` [n, T, T], uint8 `valid` [n, T, T].

        Raises:
            StoreError: a row is not in the store, or a file is missing or damaged; the message names it.
        """
        out = np.empty((len(rows), *self.tile_like(name).shape), self.tile_like(name).dtype)
        for position, row in enumerate(rows):
            self.read_tile(name, int(row), out[position])
        if name == "labels" and len(rows):
            self.check_labels(np.asarray(rows), out.reshape(len(rows), -1).max(axis=1))
        return out

    def tile_like(self, name: str) -> np.ndarray:
        """An uninitialized array with the dtype and shape of one tile, to decode into."""
        path = f"tiles/{name}"
        return np.empty(self._shape(path)[1:], self.arrays[path].little)

    def read_tile(self, name: str, row: int, out: np.ndarray) -> np.ndarray:
        """Decode one tile into `out` (see `tile_like`), and return it. Labels are not checked. Errors as in `read_tiles`. Thread-safe."""
        if not 0 <= row < len(self):
            raise StoreError(f"{self.place}: tile {row} requested, but the store has {len(self)}")
        key = chunk_key(f"tiles/{name}", row // self._slots, out.ndim + 1)
        return self._files.naming(key, lambda: self._decoded(key, row % self._slots, out), lambda: self._recent.pop(key))

    def check_labels(self, rows: np.ndarray, largest: np.ndarray) -> None:
        """Raise a StoreError if a tile's largest label exceeds the number of its image's masks; int [n] each. Not if opened for `verify`."""
        if not self._strict:
            return
        masks = self.table("images/n_masks")[self.rows("tiles/place", rows)[:, 0]]
        if (largest > masks).any():
            k = int(np.flatnonzero(largest > masks)[0])
            key = chunk_key("tiles/labels", int(rows[k]) // self._slots, 3)
            raise StoreError(
                f"{self.place}/{key}: tile {rows[k]} has label {largest[k]}, but its image has {masks[k]} masks; {_ADVICE}"
            )

    def prefetch(self, rows: np.ndarray) -> None:
        """Download the shards of these tiles in the background, if the store has a cache folder; `rows` is int [n]."""
        if isinstance(self.place, CachingStore):
            shards = np.unique(rows // self._slots).tolist()
            ranks = {name: len(self.arrays[f"tiles/{name}"].shape) for name in self.tile_names}
            self.place.prefetch(chunk_key(f"tiles/{name}", i, rank) for i in shards for name, rank in ranks.items())

    def rows(self, path: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of a table; `rows` is int [n]. A few chunks are kept in memory, whatever the number of rows of the table."""
        size, shape = self.arrays[path].rows, self._shape(path)
        out = np.empty((len(rows), *shape[1:]), self.arrays[path].little)
        for index in np.unique(rows // size):
            in_chunk = rows // size == index
            out[in_chunk] = self._kept_chunk(self._recent, path, int(index))[rows[in_chunk] % size]
        return out

    def names(self) -> list[str]:
        """Names of all images, in the order of the source: not empty, unique, relative paths without `..`."""
        return list(self._names)

    def note(self, image: int) -> str:
        """Why an image was skipped, or the decoder's remarks about it; often empty."""
        offsets, text = self.table("images/note_offset"), self.table("images/note")
        return text[int(offsets[image]) : int(offsets[image + 1])].tobytes().decode()

    def skipped(self) -> dict[str, str]:
        """name -> reason for every skipped image."""
        return {self._names[int(i)]: self.note(int(i)) for i in np.flatnonzero(self.table("images/status"))}

    def masks(self, image: int) -> list[np.ndarray]:
        """The masks of one image in painting order, which may overlap: COCO runs, uint32, column-major, in HR pixels.

        Raises:
            StoreError: a file is missing or damaged, or the runs of a mask are not valid for the image's size.
        """
        first, count = int(self.table("images/first_mask")[image]), int(self.table("images/n_masks")[image])
        if count == 0:
            return []
        offsets = self.table("masks/rle_offset")[first : first + count + 1].astype(np.int64)
        masks = np.split(self._rows("masks/rle", int(offsets[0]), int(offsets[-1])), offsets[1:-1] - offsets[0])
        for k, runs in enumerate(masks if self._strict else ()):
            try:
                counts_of(runs, int(self.table("images/height")[image]), int(self.table("images/width")[image]))
            except SamdiffError as error:
                raise StoreError(
                    f"{self.place}/masks/rle: {printable(self._names[image])}: mask {k + 1}: {error}; {_ADVICE}"
                ) from error
        return masks

    @cached_property
    def _names(self) -> list[str]:
        return texts_of(self.table("images/name_offset"), self.table("images/name"))

    def _refuse(self, problems: Iterator[str]) -> None:
        if (problem := next(problems, None)) is not None:
            raise StoreError(f"{self.place}/{printable(problem)}; {_ADVICE}")

    def _shape(self, path: str) -> tuple[int, ...]:
        return shape_of(self.arrays[path], self.sizes)

    def _rows(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of any array, read-only for tables."""
        spec, shape = self.arrays[path], self._shape(path)
        if spec.rows == 1:
            return self.read_tiles(path.split("/")[1], range(start, stop))
        parts = [np.empty((0, *shape[1:]), spec.little)]
        for index in range(start // spec.rows, -(-stop // spec.rows)):
            chunk = self._kept_chunk(self._runs, path, index) if path == "masks/rle" else self._chunk(path, index)
            parts.append(chunk[max(0, start - index * spec.rows) : max(0, stop - index * spec.rows)])
        joined = np.concatenate(parts)
        joined.flags.writeable = False
        return joined

    def _kept_chunk(self, kept: LRUCache[np.ndarray], path: str, index: int) -> np.ndarray:
        key = chunk_key(path, index, len(self.arrays[path].shape))
        if (chunk := kept.get(key)) is None:
            chunk = kept[key] = self._chunk(path, index)
        return chunk

    def _chunk(self, path: str, index: int) -> np.ndarray:
        """A whole chunk of a table, with its padding. `tiles/place` is checked, because it decides which codes a tile's labels refer to."""
        spec, shape = self.arrays[path], self._shape(path)
        chunk_shape = (spec.rows, *shape[1:])
        limit = encoded_bound(math.prod(chunk_shape) * spec.little.itemsize)
        key = chunk_key(path, index, len(shape))
        chunk = self._files.whole(key, limit, lambda data: decode_chunk(data, spec.little, chunk_shape))
        if path == "tiles/place" and self._strict:
            first, images = index * spec.rows, {name: self.table(name) for name in IMAGE_TABLES}
            self._refuse(place_problems(chunk[: len(self) - first], first, images, tile=self.tile, scale=self.scale))
        return chunk

    def _decoded(self, key: str, slot: int, out: np.ndarray) -> np.ndarray:
        index = self._recent.get(key)
        if index is None:
            size, tail = self._files.size(key), index_bytes(self._slots)
            index = decode_index(self._files.part(key, max(0, size - tail), tail), self._slots, size)
            self._recent[key] = index
        return decode_chunk(self._files.part(key, *chunk_span(index, slot)), out.dtype, out.shape, out=out)
