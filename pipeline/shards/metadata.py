"""Checks of a store's metadata, before memory is allocated for what it describes. Pure.

Two rules bound the memory: an array's document must be byte for byte the one that the schema gives for the store's sizes, and the manifest
must list exactly the objects of those sizes, none larger than possible. So a number in a document cannot describe more than exists.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import NoReturn

from .codec import encoded_bound, index_bytes
from .schema import (
    LONG_ROWS,
    MANIFEST_KEY,
    MAX_TILE,
    SPECS,
    Arrays,
    ArraySpec,
    Document,
    chunk_of,
    shape_of,
    shard_of,
)
from .writer import ROOT_KEY, array_document, as_written, canonical, chunk_key, group_document, manifest_document

ROOT_LIMIT = 2**26
"""Limit in bytes of the root document. It names the manifest's files, each of which lists about 50,000 files."""
DOCUMENT_LIMIT = 2**16
"""Limit in bytes of any other document."""
_DEPTH = 32  # limit of nested levels; ours have eight
_LINE = re.compile(r"([0-9a-f]{64})  ([0-9]{1,18})  ([!-~]+)")
_RECORD_RATIO = (
    16  # limit of the manifest's compression: of fewer than 192 bytes per line, 32 are a digest, which cannot be compressed
)

Facts = Mapping[str, tuple[int, str]]
"""key -> (bytes, SHA-256)."""


def parse_json(data: bytes) -> Document:
    """A JSON object in UTF-8. ValueError for anything else, for NaN or infinity, a duplicate key, and more than 32 nested levels."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    level: list[dict[str, object] | list[object]] = [value]
    for _ in range(_DEPTH):
        children = [child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)]
        level = [child for child in children if isinstance(child, dict | list)]
    if level:
        raise ValueError("nested too deep")
    return value


def sizes_of(data: Mapping[str, bytes], scale: int, arrays: Arrays = SPECS) -> tuple[dict[str, int], list[str]]:
    """The sizes of a store, and the problems of its arrays' documents.

    Args:
        data: path -> bytes of the `zarr.json`, for every array of the schema.
        scale: HR pixels per LR pixel of the store.
        arrays: of the store, from `schema.arrays_of`.

    Returns:
        The sizes (see `schema`), empty if they cannot be read; and one sentence per problem, which starts with the document's key.
    """
    documents, problems = {}, []
    for path, text in data.items():
        try:
            documents[path] = parse_json(text)
        except ValueError as error:
            problems.append(f"{path}/{ROOT_KEY}: {error}")
    if problems:
        return {}, problems
    try:
        sizes = sizes_from(documents, scale)
        if bad := _impossible(sizes, scale):
            return {}, [bad]
        problems = violations(documents, scale, arrays)
        for spec in arrays.values():
            if not problems and as_written(data[spec.path]) != canonical(
                _with_level_of(documents[spec.path], array_document(spec, sizes))
            ):
                problems.append(f"{spec.path}/{ROOT_KEY}: differs from this array's metadata in the format")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return {}, [f"array metadata are incomplete or malformed: {error}"]
    return sizes, problems


def sizes_from(metadata: Mapping[str, Document], scale: int) -> dict[str, int]:
    """The sizes of a store according to its arrays' metadata (path -> parsed zarr.json)."""
    first = {path: int(document["shape"][0]) for path, document in metadata.items()}
    tile = int(metadata["tiles/hr"]["shape"][1])
    return {
        "I": first["images/status"],
        "N": first["tiles/hr"],
        "M": first["masks/area"],
        "R": first["masks/rle"],
        "B": first["images/name"],
        "B2": first["images/note"],
        "T": tile,
        "t": tile // scale,
    }


def violations(metadata: Mapping[str, Document], scale: int, arrays: Arrays = SPECS) -> list[str]:
    """One sentence for each difference of array metadata (path -> parsed zarr.json) from the schema; empty if there is none."""
    missing = [path for path in arrays if path not in metadata]
    if missing:
        return [f"{path}: the array is missing" for path in missing]
    sizes = sizes_from(metadata, scale)
    return [problem for spec in arrays.values() for problem in _check_array(spec, metadata[spec.path], sizes)]


def _check_array(spec: ArraySpec, document: Document, sizes: Mapping[str, int]) -> list[str]:
    shape = shape_of(spec, sizes)
    shard = shard_of(spec, shape, sizes["T"])
    codecs = document["codecs"]
    inner = codecs[0]["configuration"]["codecs"] if codecs[0]["name"] == "sharding_indexed" else codecs
    actual = {
        "shape": tuple(document["shape"]),
        "data type": document["data_type"],
        "dimension names": tuple(document.get("dimension_names") or ()),
        "chunk or shard": tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
        "last codec": inner[-1]["name"],
    }
    expected = {
        "shape": shape,
        "data type": spec.dtype,
        "dimension names": spec.dims,
        "chunk or shard": shard or chunk_of(spec, shape),
        "last codec": "crc32c",
    }
    if shard:
        actual["inner chunk"] = tuple(codecs[0]["configuration"].get("chunk_shape", ()))
        expected["inner chunk"] = chunk_of(spec, shape)
    return [
        f"{spec.path}: {what}: expected {expected[what]}, got {actual[what]}"
        for what in expected
        if actual[what] != expected[what]
    ]


def group_problem(path: str, data: bytes) -> str | None:
    """The problem of the document of `images`, `masks` or `tiles`; None if it is valid."""
    return None if data == canonical(group_document({})) else f"{path}/{ROOT_KEY}: differs from a plain group's"


def manifest_files(own: object) -> Facts:
    """The manifest's own files (key -> bytes, SHA-256) as listed in the root; ValueError if they are not `record/zarr.json` and `record/c/0`, 1, 2, …"""
    if not isinstance(own, dict):
        raise ValueError("the root does not list the record's files")
    facts = {}
    for key, fact in own.items():
        size, sha256 = fact if isinstance(fact, list) and len(fact) == 2 else (None, None)
        if type(size) is not int or not isinstance(sha256, str) or not 0 < size <= _most_of_record(key):
            raise ValueError(f"the root lists a file of the record with an invalid size or SHA-256: {fact!r:.80}")
        facts[key] = (size, sha256)
    expected = [f"{MANIFEST_KEY}/{ROOT_KEY}", *(chunk_key(MANIFEST_KEY, index, 1) for index in range(len(facts) - 1))]
    if set(facts) != set(expected):
        raise ValueError("the root lists files that are not the record's")
    return {key: facts[key] for key in expected}


def manifest_length(data: bytes, own: Facts) -> int:
    """Size in bytes of the manifest's text, according to its document; ValueError if its files are too small for it."""
    document = parse_json(data)
    shape = document.get("shape")
    length = shape[0] if isinstance(shape, list) and len(shape) == 1 else None
    if type(length) is not int or length < 0 or data != canonical(manifest_document(length)):
        raise ValueError("the record's metadata differ from those of format version 1")
    chunks = len(own) - 1
    if -(-length // LONG_ROWS) != chunks or length > _RECORD_RATIO * sum(size for size, _ in own.values()):
        raise ValueError(f"the record's metadata give {length} bytes, too many for its files ({chunks})")
    return length


def parse_manifest(text: bytes) -> Facts:
    """key -> (bytes, SHA-256) of the manifest's lines, `SHA256  BYTES  KEY`; ValueError for an invalid line or a duplicate key."""
    lines = text.decode("ascii").split("\n")
    if lines.pop():
        raise ValueError("the record's last line is incomplete")
    facts = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"invalid line of the record: {line!r:.80}")
        facts[match[3]] = (int(match[2]), match[1])
    if len(facts) != len(lines):
        raise ValueError("the record lists a file twice")
    return facts


def expected_objects(sizes: Mapping[str, int], arrays: Arrays = SPECS) -> int:
    """The number of files of a store of these sizes, without the root and the manifest."""
    groups = len({spec.group for spec in arrays.values()})
    return groups + len(arrays) + sum(_count(spec, sizes) for spec in arrays.values())


def manifest_problem(manifest: Facts, sizes: Mapping[str, int], arrays: Arrays = SPECS) -> str | None:
    """The manifest must list exactly the objects of a store of these sizes, each of a possible size; None if it does."""
    if (count := expected_objects(sizes, arrays)) != len(manifest):
        return f"expected {count} files according to the arrays' metadata, the record lists {len(manifest)}"
    for key, most in largest(sizes, arrays):
        if key not in manifest:
            return f"{key}: not listed in the record"
        if not 0 < manifest[key][0] <= most:
            return f"{key}: expected 1 to {most} bytes, the record has {manifest[key][0]}"
    return None


def largest(sizes: Mapping[str, int], arrays: Arrays = SPECS) -> Iterator[tuple[str, int]]:
    """(key, largest possible size in bytes) of every object of a store of these sizes, without the root and the manifest."""
    for group in dict.fromkeys(spec.group for spec in arrays.values()):
        yield f"{group}/{ROOT_KEY}", DOCUMENT_LIMIT
    for spec in arrays.values():
        yield f"{spec.path}/{ROOT_KEY}", DOCUMENT_LIMIT
        most, rest = _most(spec, sizes), "/0" * (len(spec.shape) - 1)
        for index in range(_count(spec, sizes)):
            yield f"{spec.path}/c/{index}{rest}", most


def _count(spec: ArraySpec, sizes: Mapping[str, int]) -> int:
    shape = shape_of(spec, sizes)
    return -(-shape[0] // (shard_of(spec, shape, sizes["T"]) or chunk_of(spec, shape))[0])


def _most(spec: ArraySpec, sizes: Mapping[str, int]) -> int:
    """The largest possible size in bytes of a file of this array, a chunk or a shard."""
    shape = shape_of(spec, sizes)
    chunk, shard = chunk_of(spec, shape), shard_of(spec, shape, sizes["T"])
    one = encoded_bound(math.prod(chunk) * spec.little.itemsize)
    return one if shard is None else shard[0] * one + index_bytes(shard[0])


def _most_of_record(key: str) -> int:
    return DOCUMENT_LIMIT if key.endswith(ROOT_KEY) else encoded_bound(LONG_ROWS)


def _impossible(sizes: Mapping[str, int], scale: int) -> str | None:
    if not all(type(value) is int and value >= 0 for value in sizes.values()):
        return f"expected sizes >= 0, got {dict(sizes)}"
    tile = sizes["T"]
    if not 0 < tile <= MAX_TILE or scale < 1 or tile % scale:
        return f"tiles: expected a tile size of {scale} to {MAX_TILE} HR pixels, a multiple of the scale {scale}, got {tile}"
    return None


def _with_level_of(actual: Document, document: Document) -> Document:
    """The schema's document with the zstd level of the actual one: readers do not need the level, so it may differ."""
    inner, ours = actual["codecs"], document["codecs"]
    if ours[0]["name"] == "sharding_indexed":
        inner, ours = inner[0]["configuration"]["codecs"], ours[0]["configuration"]["codecs"]
    level = inner[1]["configuration"]["level"]
    if type(level) is int and -7 <= level <= 22:
        ours[1]["configuration"]["level"] = level
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
