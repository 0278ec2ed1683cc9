"""What the metadata of a store may say, checked before a byte of memory is taken for it. Pure.

Two laws bound everything: an array's document is byte for byte the one that the contract makes for the store's sizes, and the manifest
lists exactly the objects that those sizes need, none larger than it can be. So no number in a document can ask for more than is there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .codec import encoded_bound, index_bytes
from .schema import (
    ARRAYS,
    LONG_ROWS,
    MANIFEST_KEY,
    MAX_TILE,
    ArraySpec,
    Document,
    chunk_of,
    shape_of,
    shard_of,
    sizes_from,
    violations,
)
from .writer import ROOT_KEY, array_document, as_written, canonical, chunk_key, group_document, manifest_document

ROOT_LIMIT = 2**26
"""Bytes of the root document: it names the manifest's files, and each of those lists some 50,000 others."""
DOCUMENT_LIMIT = 2**16
"""Bytes of any other document."""
_DEPTH = 32  # ours have eight levels
_LINE = re.compile(r"([0-9a-f]{64})  ([0-9]{1,18})  ([!-~]+)")
_RECORD_RATIO = 16  # a line has 32 bytes of digest, which no compression makes smaller, and fewer than 160 besides

Facts = Mapping[str, tuple[int, str]]
"""key -> (bytes, SHA-256)."""


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8; ValueError for anything else: NaN, a key twice, nested too deep to read."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    layer: list[Any] = [value]
    for _ in range(_DEPTH):
        layer = [inner for outer in layer for inner in (outer.values() if isinstance(outer, dict) else outer)]
        layer = [inner for inner in layer if isinstance(inner, dict | list)]
    if layer:
        raise ValueError("nested too deep")
    return value


def sizes_of(data: Mapping[str, bytes], scale: int) -> tuple[dict[str, int], list[str]]:
    """The letters of a store and what is wrong with its arrays' documents.

    Args:
        data: path -> bytes of its `zarr.json`, for every array of the contract.
        scale: of the store.

    Returns:
        the letters' values (empty if the documents do not say); one sentence per fault, which starts with the document's key.
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
        problems = violations(documents, scale)
        for spec in ARRAYS:
            if not problems and as_written(data[spec.path]) != canonical(
                _with_level_of(documents[spec.path], array_document(spec, sizes))
            ):
                problems.append(f"{spec.path}/{ROOT_KEY}: differs from what format version 1 says of this array")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return {}, [f"array metadata without {error}"]
    return sizes, problems


def group_problem(path: str, data: bytes) -> str | None:
    """What is wrong with the document of `images`, `masks` or `tiles`."""
    return None if data == canonical(group_document({})) else f"{path}/{ROOT_KEY}: differs from a plain group's"


def manifest_files(own: object) -> dict[str, tuple[int, str]]:
    """The manifest's own files as the root names them; ValueError if they are not `record/zarr.json` and `record/c/0`, 1, 2, …"""
    if not isinstance(own, dict):
        raise ValueError("the root does not name the record's files")
    facts = {}
    for key, fact in own.items():
        size, sha256 = fact if isinstance(fact, list) and len(fact) == 2 else (None, None)
        if type(size) is not int or not isinstance(sha256, str) or not 0 < size <= _most_of_record(key):
            raise ValueError(f"the root names a file of the record with {fact!r:.80}")
        facts[key] = (size, sha256)
    wanted = [f"{MANIFEST_KEY}/{ROOT_KEY}", *(chunk_key(MANIFEST_KEY, index, 1) for index in range(len(facts) - 1))]
    if set(facts) != set(wanted):
        raise ValueError("the root names other files than the record's")
    return {key: facts[key] for key in wanted}


def manifest_length(data: bytes, own: Facts) -> int:
    """Bytes of the manifest's text, as its document says; ValueError if its files cannot hold that much."""
    document = parse_json(data)
    shape = document.get("shape")
    length = shape[0] if isinstance(shape, list) and len(shape) == 1 else None
    if type(length) is not int or length < 0 or data != canonical(manifest_document(length)):
        raise ValueError("the record's metadata differ from what format version 1 says")
    chunks = len(own) - 1
    if -(-length // LONG_ROWS) != chunks or length > _RECORD_RATIO * sum(size for size, _ in own.values()):
        raise ValueError(f"the record is said to have {length} bytes, which its {chunks} files cannot hold")
    return length


def parse_manifest(text: bytes) -> dict[str, tuple[int, str]]:
    """key -> (bytes, SHA-256) of the manifest's lines, `SHA256  BYTES  KEY`; ValueError for any other line, and for a key twice."""
    lines = text.decode("ascii").split("\n")
    if lines.pop():
        raise ValueError("the record's last line is cut off")
    facts = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"a line of the record is none: {line!r:.80}")
        facts[match[3]] = (int(match[2]), match[1])
    if len(facts) != len(lines):
        raise ValueError("the record names a file twice")
    return facts


def expected_objects(sizes: Mapping[str, int]) -> int:
    """Files of a store of these sizes without the root and the manifest."""
    groups = len({spec.group for spec in ARRAYS})
    return groups + len(ARRAYS) + sum(_count(spec, sizes) for spec in ARRAYS)


def manifest_problem(manifest: Facts, sizes: Mapping[str, int]) -> str | None:
    """Whether the manifest lists exactly the objects of a store of these sizes, each of a possible size."""
    if (count := expected_objects(sizes)) != len(manifest):
        return f"the arrays need {count} files, the record lists {len(manifest)}"
    for key, most in largest(sizes):
        if key not in manifest:
            return f"{key}: missing in the record"
        if not 0 < manifest[key][0] <= most:
            return f"{key}: recorded with {manifest[key][0]} bytes, at most {most} are possible"
    return None


def largest(sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """(key, most bytes) of every object of a store of these sizes, without the root and the manifest."""
    for group in dict.fromkeys(spec.group for spec in ARRAYS):
        yield f"{group}/{ROOT_KEY}", DOCUMENT_LIMIT
    for spec in ARRAYS:
        yield f"{spec.path}/{ROOT_KEY}", DOCUMENT_LIMIT
        most, rest = _most(spec, sizes), "/0" * (len(spec.shape) - 1)
        for index in range(_count(spec, sizes)):
            yield f"{spec.path}/c/{index}{rest}", most


def _count(spec: ArraySpec, sizes: Mapping[str, int]) -> int:
    shape = shape_of(spec, sizes)
    return -(-shape[0] // (shard_of(spec, shape, sizes["T"]) or chunk_of(spec, shape))[0])


def _most(spec: ArraySpec, sizes: Mapping[str, int]) -> int:
    """Most bytes of one chunk's or shard's file."""
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
        return f"tiles: expected a side of {scale} to {MAX_TILE} HR pixels, a multiple of the scale {scale}, got {tile}"
    return None


def _with_level_of(found: Document, document: Document) -> Document:
    """The contract's document with the zstd level of another: readers need not know it, so stores may differ there."""
    inner, ours = found["codecs"], document["codecs"]
    if ours[0]["name"] == "sharding_indexed":
        inner, ours = inner[0]["configuration"]["codecs"], ours[0]["configuration"]["codecs"]
    level = inner[1]["configuration"]["level"]
    if type(level) is int and -7 <= level <= 22:
        ours[1]["configuration"]["level"] = level
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key comes twice")
    return value


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
