"""Read a store: `open_store(path)` checks the root and the contract, then hands out tables, tiles and masks.

Reads are whole chunks with their checksums, of files that are those of the manifest (`files.py`); a missing or damaged one is a `StoreError`
that names the file, never zeros (Zarr's own readers return the fill value for a missing chunk). Offsets, counts, places, names and labels
are checked before they are used: the store may be a stranger's. Nothing here needs an event loop, so a `Store` works in forked workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from ...errors import SamdiffError, StoreError, printable
from ..encode.browse import html_table, index_in, spread
from ..encode.rle import counts_of
from ..storage.cache import CACHE_BYTES, CachingStore, RetryingStore
from ..storage.local import KeyStore, Location, get_at_most, key_store_at
from ..storage.lru import LRUCache
from .codec import chunk_span, decode_chunk, decode_index, encoded_bound, index_bytes
from .files import Files
from .metadata import ROOT_LIMIT, group_problem, manifest_files, manifest_problem, sizes_of
from .root import nothing_there, read_manifest, read_root
from .schema import ARRAYS, shape_of, tiles_per_shard
from .tables import IMAGE_TABLES, place_problems, table_problems, texts_of
from .writer import ROOT_KEY, SPECS, chunk_key, digest

_KEEP = 96  # indices of shards (1 to 64 kB) and chunks of tables (under 1 MB) that a store keeps, whatever its size
_KEEP_RUNS = 2  # chunks of `masks/rle` (16 MiB each) that it keeps
_GROUPS = (
    IMAGE_TABLES,
    ("images/name_offset", "images/name"),
    ("images/note_offset", "images/note"),
)  # read and checked together
_SHOWN = 4  # tiles in a notebook
_ASK = "the store contradicts itself: ask whoever made it, or prepare it again"


def open_store(path: Location, cache: Path | None = None, cache_bytes: int = CACHE_BYTES, check_shards: bool = True) -> Store:
    """Open a committed store for reading.

    Args:
        path: what `samdiff prepare` wrote: the folder `NAME.zarr`, a URL such as `s3://bucket/NAME.zarr`, or a place.
        cache: folder for whole shards of a store that lies far away (see `cache.py`); None reads the place itself.
        cache_bytes: bound of that folder, over all the stores that use it.
        check_shards: compare each shard with its recorded SHA-256 when a process first reads a tile of it, which reads the shard whole.
            Without, a tile is read alone (at a URL: one request for its bytes), and only its own checksum is checked.

    Raises:
        StoreError: nothing there, not a store, not finished, another format version, or metadata that breaks the contract or
            differs from what was committed.
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
    """One store, read-only: `len(store)` tiles of `tile` HR pixels at `scale`, from `n_images` images with `n_masks` masks.

    `store[i]` is one tile, `for tile in store` all of them in order; random crops for training come from `ShardDataset`.
    """

    def __init__(
        self,
        place: KeyStore,
        attributes: dict[str, Any],
        manifest: dict[str, tuple[int, str]] | None = None,
        check_shards: bool = True,
    ) -> None:
        """`record` replaces the store's own, and neither it nor the tables are then checked: for `verify` only."""
        self.place = place
        self.attrs = attributes
        self.scale: int = attributes["scale"]
        self._strict = manifest is None
        self.manifest = read_manifest(place, manifest_files(attributes["digests"]["record"])) if manifest is None else manifest
        self._files = Files(place, self.manifest, self._strict, check_shards)
        groups = dict.fromkeys(spec.group for spec in ARRAYS) if self._strict else {}
        paths = [*groups, *(spec.path for spec in ARRAYS)]
        data = dict(zip(paths, self._files.documents([f"{path}/{ROOT_KEY}" for path in paths]), strict=True))
        problems = [problem for path in groups if (problem := group_problem(path, data.pop(path)))]
        self.sizes, found = sizes_of(data, self.scale)
        problems += found
        if self._strict and not problems and (problem := manifest_problem(self.manifest, self.sizes)):
            problems.append(problem)
        if problems:
            raise StoreError(f"{place}: the store breaks its contract: {printable('; '.join(problems[:5]))}; prepare it again")
        self.tile = self.sizes["T"]
        self._slots = tiles_per_shard(self.tile)
        self._recent: LRUCache[np.ndarray] = LRUCache(_KEEP)
        self._runs: LRUCache[np.ndarray] = LRUCache(_KEEP_RUNS)
        self._tables: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.sizes["N"]

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        """One tile by row; -1 is the last.

        Returns:
            `hr` uint8 [T, T, 3], `lr` uint8 [t, t, 3], `labels` uint16 [T, T], `place` int32 [3]: image, y_hr, x_hr.

        Raises:
            PositionError: there is no such tile; an `IndexError`.
            IndexKindError: a slice, or no integer; a `TypeError`.
            StoreError: a shard is missing or damaged; the message names it.
        """
        row = [index_in(index, len(self), several='`read_tiles("hr", rows)`')]
        tiles = {name: self.read_tiles(name, row)[0] for name in ("hr", "lr", "labels")}
        return {**tiles, "place": self.rows("tiles/place", np.array(row))[0]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        sizes = f"x{self.scale}, {len(self)} tiles of {self.tile} px, {self.n_images} images, {self.n_masks} masks"
        return f"Store({str(self.place)!r}, {sizes})"

    def _repr_html_(self) -> str:
        """For notebooks: counts, sizes, and a few tiles beside their masks."""
        facts = {
            "place": str(self.place),
            "tiles": f"{len(self)} of {self.tile} x {self.tile} HR pixels, x{self.scale}",
            "images": f"{self.n_images}",
            "masks": f"{self.n_masks} by {self.attrs.get('segmenter', {}).get('name', '?')}",
            "size": f"{sum(size for size, _ in self.manifest.values()) / 1e6:.1f} MB in {len(self.manifest)} files",
        }
        try:
            facts["images"] += f", {len(self.skipped())} of them skipped"
            return html_table("Store", facts, {f"tile {row}": self[row] for row in spread(len(self), _SHOWN)})
        except StoreError as error:  # a notebook shows the object and what is wrong with it
            return html_table("Store", facts, {}, note=str(error))

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
        """A whole table, e.g. `masks/codes`; kept after the first use, read-only. For tiles use `read_tiles`.

        Raises:
            StoreError: a file of it is missing or damaged, or what it says cannot be.
        """
        if path not in self._tables:
            names = next((group for group in _GROUPS if path in group and self._strict), (path,))
            tables = {name: self._rows(name, 0, self._shape(name)[0]) for name in names}
            if self._strict:
                self._refuse(table_problems(path, tables, self.sizes))
            self._tables.update(tables)
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
        if name == "labels" and len(rows):
            self.check_labels(np.asarray(rows), out.reshape(len(rows), -1).max(axis=1))
        return out

    def tile_like(self, name: str) -> np.ndarray:
        """An empty array of one tile's type and shape, to decode into."""
        path = f"tiles/{name}"
        return np.empty(self._shape(path)[1:], SPECS[path].little)

    def read_tile(self, name: str, row: int, out: np.ndarray) -> np.ndarray:
        """One tile, decoded into `out` (see `tile_like`) and returned; errors as `read_tiles`. Threads may read at once."""
        if not 0 <= row < len(self):
            raise StoreError(f"{self.place}: tile {row} requested, but the store has {len(self)}")
        key = chunk_key(f"tiles/{name}", row // self._slots, out.ndim + 1)
        return self._files.naming(key, lambda: self._decoded(key, row % self._slots, out), lambda: self._recent.pop(key))

    def check_labels(self, rows: np.ndarray, largest: np.ndarray) -> None:
        """StoreError if the largest label of one of these tiles names no mask of its image; int [n] each. Not when opened to verify."""
        if not self._strict:
            return
        masks = self.table("images/n_masks")[self.rows("tiles/place", rows)[:, 0]]
        if (largest > masks).any():
            k = int(np.flatnonzero(largest > masks)[0])
            key = chunk_key("tiles/labels", int(rows[k]) // self._slots, 3)
            raise StoreError(
                f"{self.place}/{key}: tile {rows[k]} has label {largest[k]}, but its image has {masks[k]} masks; {_ASK}"
            )

    def prefetch(self, rows: np.ndarray) -> None:
        """Fetch the shards that hold these tiles in the background, if the store lies far away and has a cache."""
        if isinstance(self.place, CachingStore):
            shards = np.unique(rows // self._slots).tolist()
            self.place.prefetch(chunk_key(f"tiles/{n}", i, 3 + (n != "labels")) for i in shards for n in ("hr", "lr", "labels"))

    def rows(self, path: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of a table, by chunks of which a few are kept: nothing grows with the number of tiles."""
        size, shape = SPECS[path].rows, self._shape(path)
        out = np.empty((len(rows), *shape[1:]), SPECS[path].little)
        for index in np.unique(rows // size):
            mine = rows // size == index
            out[mine] = self._kept_chunk(self._recent, path, int(index))[rows[mine] % size]
        return out

    def names(self) -> list[str]:
        """Names of all images as the source listed them: not empty, each once, none leads out of a folder."""
        return list(self._names)

    def note(self, image: int) -> str:
        """Why an image was skipped, or what decoding did to it; empty for most."""
        offsets, text = self.table("images/note_offset"), self.table("images/note")
        return text[int(offsets[image]) : int(offsets[image + 1])].tobytes().decode()

    def skipped(self) -> dict[str, str]:
        """name -> reason of every image that was not used."""
        return {self._names[int(i)]: self.note(int(i)) for i in np.flatnonzero(self.table("images/status"))}

    def masks(self, image: int) -> list[np.ndarray]:
        """The image's overlapping masks as found, in painting order: COCO runs, uint32, column-major, HR frame.

        Raises:
            StoreError: a file is missing or damaged, or the runs of a mask do not cover the image.
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
                    f"{self.place}/masks/rle: {printable(self._names[image])}: mask {k + 1}: {error}; {_ASK}"
                ) from error
        return masks

    @cached_property
    def _names(self) -> list[str]:
        return texts_of(self.table("images/name_offset"), self.table("images/name"))

    def _refuse(self, problems: Iterator[str]) -> None:
        if (problem := next(problems, None)) is not None:
            raise StoreError(f"{self.place}/{printable(problem)}; {_ASK}")

    def _shape(self, path: str) -> tuple[int, ...]:
        return shape_of(SPECS[path], self.sizes)

    def _rows(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows of a table, or tiles."""
        spec, shape = SPECS[path], self._shape(path)
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
        key = chunk_key(path, index, len(SPECS[path].shape))
        chunk = kept.get(key)
        if chunk is None:
            chunk = kept[key] = self._chunk(path, index)
        return chunk

    def _chunk(self, path: str, index: int) -> np.ndarray:
        """A whole chunk of a table, as it is stored; places are checked, for they say whose codes a tile's labels mean."""
        spec, shape = SPECS[path], self._shape(path)
        whole = (spec.rows, *shape[1:])
        most = encoded_bound(math.prod(whole) * spec.little.itemsize)
        key = chunk_key(path, index, len(shape))
        chunk = self._files.whole(key, most, lambda data: decode_chunk(data, spec.little, whole))
        if path == "tiles/place" and self._strict:
            first, images = index * spec.rows, {name: self.table(name) for name in IMAGE_TABLES}
            self._refuse(place_problems(chunk[: len(self) - first], first, images, self.tile, self.scale))
        return chunk

    def _decoded(self, key: str, slot: int, out: np.ndarray) -> np.ndarray:
        index = self._recent.get(key)
        if index is None:
            size, tail = self._files.size(key), index_bytes(self._slots)
            index = decode_index(self._files.part(key, max(0, size - tail), tail), self._slots, size)
            self._recent[key] = index
        return decode_chunk(self._files.part(key, *chunk_span(index, slot)), out.dtype, out.shape, out)
