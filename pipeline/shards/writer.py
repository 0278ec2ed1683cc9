"""Writing a store: first the metadata, then the rows in order, then the commit.

`StoreWriter` writes each object once and records its size and SHA-256. `commit` writes the root document last; before that, readers do not
find a store. The target must be empty: `Staging.begin_writing` removes what a killed writer left. A finished store is never replaced.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import StoreError
from ..storage.foreign import foreign_names, some
from ..storage.local import KeyStore
from .codec import encode_chunk, encode_shard
from .schema import (
    BANDS_VERSION,
    FORMAT,
    FORMAT_VERSION,
    LONG_ROWS,
    MANIFEST_KEY,
    ZSTD_LEVEL,
    Arrays,
    ArraySpec,
    Document,
    chunk_of,
    shape_of,
    shard_of,
)
from .schema import SPECS as SPECS

ROOT_KEY = "zarr.json"
OWN_ATTRIBUTES = frozenset(
    [
        "format",
        "format_version",
        "scale",
        "tile",
        "stride",
        "degradation",
        "limits",
        "structure",
        "segmenter",
        "software",
        "uncompared",
        "fingerprint",
        "counts",
        "digests",
        "pixels",
        "sam_view",
        "crs",
        "measured",
    ]
)
"""Attributes of the root document that samdiff writes; other programs may add others."""
_CONSOLIDATED = "consolidated_metadata"  # a copy of the arrays' metadata that other programs add to a group's


def canonical(value: object) -> bytes:
    """A JSON value as UTF-8 with sorted keys and a fixed layout, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def array_document(spec: ArraySpec, sizes: Mapping[str, int]) -> Document:
    """The `zarr.json` of one array (Zarr v3 specification, array metadata)."""
    shape = shape_of(spec, sizes)
    shard = shard_of(spec, shape, sizes["T"])
    return _document(spec.dtype, shape=shape, chunk=chunk_of(spec, shape), shard=shard, dims=spec.dims, level=spec.level)


def _document(
    dtype: str,
    *,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    shard: tuple[int, ...] | None,
    dims: tuple[str, ...],
    level: int = ZSTD_LEVEL,
) -> Document:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    inner = [
        {"name": "bytes"} if np.dtype(dtype).itemsize == 1 else little,
        {"name": "zstd", "configuration": {"level": level, "checksum": False}},
        {"name": "crc32c"},  # detects a flipped bit, which would otherwise be a wrong pixel
    ]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunk),
            "codecs": inner,
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard or chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.startswith("float") else 0,
        "codecs": [sharding] if shard else inner,
        "attributes": {},
        "dimension_names": list(dims),
        "storage_transformers": [],
    }


def manifest_document(length: int) -> Document:
    """The `zarr.json` of the manifest, a text of `length` bytes that lists every file."""
    return _document("uint8", shape=(length,), chunk=(LONG_ROWS,), shard=None, dims=("byte",))


def group_document(attributes: Document) -> Document:
    """The `zarr.json` of a group. Groups below the root have no attributes."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def chunk_key(path: str, index: int, ndim: int) -> str:
    """The key of chunk (or shard) `index` along the first of `ndim` dimensions; the others have only one chunk."""
    return f"{path}/c/" + "/".join([str(index), *["0"] * (ndim - 1)])


def store_keys(sizes: Mapping[str, int], arrays: Arrays = SPECS) -> frozenset[str]:
    """All keys of a store of these sizes (see `schema`). The manifest may have fewer chunks than listed."""
    keys = {ROOT_KEY, f"{MANIFEST_KEY}/{ROOT_KEY}"}
    for spec in arrays.values():
        column = _Column(spec, sizes)
        keys |= {f"{spec.group}/{ROOT_KEY}", f"{spec.path}/{ROOT_KEY}"}
        keys |= {chunk_key(spec.path, index, len(column.shape)) for index in range(-(-column.shape[0] // column.rows))}
    longest = sum(len(key.encode()) + 64 + 20 + 5 for key in keys)  # per line: key, SHA-256, size, separators
    return frozenset(keys | {chunk_key(MANIFEST_KEY, index, 1) for index in range(-(-longest // LONG_ROWS))})


class _Column:
    """Collects rows of one array until they fill a chunk (or shard), which is one object."""

    def __init__(self, spec: ArraySpec, sizes: Mapping[str, int]) -> None:
        self.spec = spec
        self.shape = shape_of(spec, sizes)
        shard = shard_of(spec, self.shape, sizes["T"])
        self.sharded = shard is not None
        self.rows = (shard or chunk_of(spec, self.shape))[0]
        self.parts: list[np.ndarray] = []
        self.buffered = 0  # rows in `parts`
        self.done = 0  # objects returned by `take`

    def push(self, rows: np.ndarray) -> None:
        assert rows.shape[1:] == self.shape[1:], (self.spec.path, rows.shape, self.shape)
        self.parts.append(np.asarray(rows, self.spec.dtype))
        self.buffered += len(rows)

    def take(self, final: bool) -> list[tuple[str, bytes]]:
        """(key, bytes) of each object that is complete; with `final`, also of the last one."""
        if self.buffered < self.rows and not (final and self.buffered):
            return []
        joined = np.concatenate(self.parts)
        objects = []
        while len(joined) >= self.rows or (final and len(joined)):
            block, joined = joined[: self.rows], joined[self.rows :]
            objects.append((chunk_key(self.spec.path, self.done, len(self.shape)), self._encode(block)))
            self.done += 1
        self.parts, self.buffered = [joined.copy()], len(joined)
        return objects

    def _encode(self, block: np.ndarray) -> bytes:
        if self.sharded:
            return encode_shard([encode_chunk(row, self.spec.level) for row in block], self.rows)
        padded = np.zeros((self.rows, *block.shape[1:]), block.dtype)  # Zarr stores chunks at the border in full
        padded[: len(block)] = block
        return encode_chunk(padded, self.spec.level)


class StoreWriter:
    """Writes one store. Rows of each array must be appended in order."""

    def __init__(self, place: KeyStore, sizes: Mapping[str, int], arrays: Arrays = SPECS) -> None:
        """
        Args:
            place: where the store is written: missing, or an empty folder.
            sizes: I, N, M, R, B, B2, T and t, see `schema`.
            arrays: of the store, from `schema.arrays_of`.

        Raises:
            StoreError: the place is not empty (nothing is written), or cannot be written.
        """
        self.place, self.sizes = place, dict(sizes)
        self.written: dict[str, tuple[int, str]] = {}
        keys = store_keys(sizes, arrays)
        existing = some(itertools.chain(foreign_names(place, keys), (key for key in place.list_keys() if key in keys)))
        if existing:
            raise StoreError(f"{place}: expected nothing or an empty folder, got one that holds {existing}; give another one")
        for group in dict.fromkeys(spec.group for spec in arrays.values()):
            self._set(f"{group}/{ROOT_KEY}", canonical(group_document({})))
        for path, spec in arrays.items():
            self._set(f"{path}/{ROOT_KEY}", canonical(array_document(spec, sizes)))
        self._columns = {path: _Column(spec, sizes) for path, spec in arrays.items()}

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Append rows to arrays (path -> [n, …]). Full chunks and shards are written immediately, so memory is bounded."""
        for path, values in rows.items():
            column = self._columns[path]
            column.push(values)
            for key, data in column.take(final=False):
                self._set(key, data)

    def commit(self, attributes: Document) -> None:
        """Write the remaining rows, then the manifest, then the root document with `attributes` and the manifest's digests."""
        for column in self._columns.values():
            for key, data in column.take(final=True):
                self._set(key, data)
            expected = -(-column.shape[0] // column.rows)
            assert column.done == expected, f"{column.spec.path}: {column.done} objects written, {expected} expected"
        before = set(self.written)
        self._write_record()
        manifest = {key: list(self.written[key]) for key in sorted(set(self.written) - before)}
        if self.place.size(ROOT_KEY) is not None:  # by a writer that the lock does not exclude, such as one on another machine
            raise StoreError(f"{self.place}: another process finished a store there meanwhile; it is not changed")
        version = BANDS_VERSION if "pixels" in attributes else FORMAT_VERSION
        self.place.set(ROOT_KEY, sign_root({"format": FORMAT, "format_version": version, **attributes}, manifest))

    def _write_record(self) -> None:
        lines = [f"{sha256}  {size}  {key}\n" for key, (size, sha256) in sorted(self.written.items())]
        text = np.frombuffer("".join(lines).encode(), np.uint8)
        self._set(f"{MANIFEST_KEY}/{ROOT_KEY}", canonical(manifest_document(len(text))))
        for index, start in enumerate(range(0, len(text), LONG_ROWS)):
            padded = np.zeros(LONG_ROWS, np.uint8)
            padded[: len(text) - start] = text[start : start + LONG_ROWS]
            self._set(chunk_key(MANIFEST_KEY, index, 1), encode_chunk(padded, ZSTD_LEVEL))

    def _set(self, key: str, data: bytes) -> None:
        assert key not in self.written, f"{key} written twice"
        self.place.set(key, data)
        self.written[key] = (len(data), digest(data))


def sign_root(attributes: Document, manifest: Mapping[str, Sequence[object]]) -> bytes:
    """The root document: the attributes, the digests of the manifest's own files, and the digest of the document itself."""
    unsealed = group_document({**attributes, "digests": {"record": dict(manifest), "root": ""}})
    return canonical(group_document({**attributes, "digests": {"record": dict(manifest), "root": digest(canonical(unsealed))}}))


def unseal(data: bytes) -> Document:
    """The attributes of a root document of `sign_root`; ValueError if one of them was changed.

    Other programs may have formatted the document anew, added consolidated metadata, or added attributes. Added attributes are not covered by
    the digest, and are not returned.
    """
    document = json.loads(data.decode())
    attributes = document["attributes"]
    if {**document, "attributes": {}, _CONSOLIDATED: None} != {**group_document({}), _CONSOLIDATED: None}:
        raise ValueError("the root document was edited or damaged: it is not the metadata of a plain group")
    digests = attributes["digests"]
    for own in (attributes, {key: value for key, value in attributes.items() if key in OWN_ATTRIBUTES}):
        rest = {key: value for key, value in own.items() if key != "digests"}
        if json.loads(sign_root(rest, digests["record"]))["attributes"]["digests"] == digests:
            return own
    raise ValueError("the root document was edited or damaged: its own digest does not match")


def as_written(document: bytes) -> bytes:
    """The original bytes of an array's or group's document, if other programs only formatted it anew or added attributes."""
    try:
        value = json.loads(document.decode())
        if not isinstance(value, dict):
            return document
        return canonical({key: {} if key == "attributes" else item for key, item in value.items() if key != _CONSOLIDATED})
    except (ValueError, RecursionError):  # NaN, lone surrogates, nested too deep
        return document
