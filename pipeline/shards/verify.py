"""`samdiff verify`: compares every file of a store with its digest, then the contents with each other. Reports all problems in one pass."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from ...errors import StoreError, printable
from ...runtime import progress
from ..scientific.sample_format import DTYPES
from ..storage.foreign import is_system_file
from ..storage.local import KeyStore, Location, get_at_most, key_store_at
from .codec import DamageError, chunk_span, decode_chunk, decode_index, encoded_bound, index_bytes
from .invariants import content_problems
from .metadata import (
    DOCUMENT_LIMIT,
    ROOT_LIMIT,
    Facts,
    expected_objects,
    group_problem,
    manifest_files,
    manifest_problem,
    parse_json,
    parse_manifest,
)
from .reader import Store
from .root import nothing_there, read_root
from .schema import LONG_ROWS, MANIFEST_KEY, PLACED, VALID, Document, tiles_per_shard
from .writer import ROOT_KEY, SPECS, as_written, chunk_key, digest

_PIECE = 2**24  # bytes of a file that are hashed at a time
_WHOLE = 2**28  # bytes; a larger damaged shard is not searched for the lost tiles. Ours have at most 20 MB


def verify_store(location: Location, deep: bool = False) -> list[str]:
    """All problems of a store, one sentence each that names the file; empty if there is none.

    It detects a flipped bit, a missing, truncated or foreign file, a folder or a FIFO in place of a file, edited metadata, tables that
    contradict each other, and labels without a mask. After a problem, it checks everything that can still be checked.

    Args:
        location: a folder or a URL.
        deep: also recompute codes, areas, boxes and labels from every mask's runs.

    Raises:
        StoreError: there is no store.
    """
    place = key_store_at(location)
    keys = set(place.list_keys())
    if ROOT_KEY not in keys and f"{MANIFEST_KEY}/{ROOT_KEY}" not in keys:
        raise StoreError(nothing_there(place))
    attributes, problems = _root(place)
    manifest, manifest_problems = _manifest(place, attributes, keys)
    problems += manifest_problems
    problems += list(_files(place, manifest, keys))
    reported = {problem.split(":")[0] for problem in problems}
    return problems + list(_contents(place, attributes, manifest, deep=deep, reported=reported, n_files=len(keys)))


def _root(place: KeyStore) -> tuple[Document, list[str]]:
    """The root's attributes, empty if they cannot be read, and the problems of the root."""
    try:
        data = get_at_most(place, ROOT_KEY, ROOT_LIMIT)
        if data is None:
            return {}, [f"{ROOT_KEY}: missing; the store is not finished, or the file was lost"]
        return read_root(place, data), []
    except StoreError as error:
        problem = [f"{ROOT_KEY}: {_short(place, ROOT_KEY, error)}"]
    try:
        attributes = parse_json(get_at_most(place, ROOT_KEY, ROOT_LIMIT) or b"").get("attributes")
        return (attributes if isinstance(attributes, dict) else {}), problem
    except ValueError:  # includes StoreError
        return {}, problem


def _manifest(place: KeyStore, attributes: Document, keys: set[str]) -> tuple[Facts, list[str]]:
    """The manifest including its own files, and its problems. It is empty if it cannot be used."""
    try:
        own = manifest_files(attributes["digests"]["record"])
    except (LookupError, TypeError, ValueError):
        own = {}  # the root is damaged, which is already reported; the manifest still has its own checksums
    problems = [problem for key, fact in own.items() if (problem := _file_problem(place, key, fact))]
    existing = sorted(key for key in keys if key.startswith(f"{MANIFEST_KEY}/"))
    try:
        length = parse_json(_small(place, f"{MANIFEST_KEY}/{ROOT_KEY}"))["shape"][0]
        count = -(-length // LONG_ROWS)
        if type(length) is not int or not 0 <= count <= len(existing):
            raise ValueError(f"its length {length!r:.40} does not fit the number of its files")
        limit, text = encoded_bound(LONG_ROWS), b""
        for index in range(count):
            chunk = get_at_most(place, chunk_key(MANIFEST_KEY, index, 1), limit) or b""
            text += decode_chunk(chunk, SPECS["images/name"].little, (LONG_ROWS,)).tobytes()
        listed = parse_manifest(text[:length])
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        problem = f"{MANIFEST_KEY}: cannot be read ({printable(error)}); foreign and missing files cannot be detected"
        return {}, problems or [problem]
    unknown = [key for key in listed if key.partition("/c/")[0].removesuffix(f"/{ROOT_KEY}") not in _PATHS or ".." in key]
    if unknown:
        return {}, [*problems, f"{MANIFEST_KEY}: lists {unknown[0]}, which is not a file of a store"]
    return {**listed, **{key: own.get(key, (-1, "")) for key in existing if key in own or not own}}, problems


def _files(place: KeyStore, manifest: Facts, keys: set[str]) -> Iterator[str]:
    """One problem per missing, foreign or damaged file."""
    if not manifest:
        return
    for key in sorted(keys - set(manifest) - {ROOT_KEY}):
        if is_system_file(key):  # such as .DS_Store
            continue
        yield f"{printable(key)}: foreign: the store did not write this file; remove it"
    for key, fact in progress(sorted(manifest.items()), desc="files", unit="file"):
        if not key.startswith(f"{MANIFEST_KEY}/") and (problem := _file_problem(place, key, fact)):
            yield problem


def _file_problem(place: KeyStore, key: str, fact: tuple[int, str]) -> str | None:
    """The problem of one file; None if it equals its entry in the manifest. It is read in pieces, and only if its size is right."""
    expected, sha256 = fact
    try:
        size = place.size(key)
        if size is not None and key.endswith(ROOT_KEY) and digest(as_written(_small(place, key))) == sha256:
            return None  # other programs may have added attributes
        if size is None:
            return f"{key}: missing; restore it from a copy"
        if size != expected:
            return f"{key}: {'truncated' if size < expected else 'too long'}: {size} bytes instead of {expected}"
        hashed = hashlib.sha256()
        for start in range(0, size, _PIECE):
            hashed.update(place.get(key, start, _PIECE) or b"")
    except StoreError as error:
        return f"{key}: {_short(place, key, error)}"
    if hashed.hexdigest() == sha256:
        return None
    if key.endswith(ROOT_KEY):
        return f"{key}: edited or damaged metadata: its SHA-256 differs from the record's"
    return f"{key}: damaged: its SHA-256 differs from the record's{_damaged_tiles(place, key, size)}"


def _damaged_tiles(place: KeyStore, key: str, size: int) -> str:
    """A phrase that names the tiles that a damaged shard has lost; empty if they cannot be determined."""
    path, _, chunk = key.partition("/c/")
    if path not in _TILES or size > _WHOLE:
        return ""
    try:
        data = place.get(key) or b""
        document = parse_json(_small(place, f"{path}/{ROOT_KEY}"))
        shape, dtype = document["shape"], np.dtype(_TYPES[document["data_type"]])
        slots = tiles_per_shard(parse_json(_small(place, f"tiles/hr/{ROOT_KEY}"))["shape"][1])
        first = int(chunk.split("/")[0]) * slots
        tiles, tile = min(slots, shape[0] - first), tuple(shape[1:])
        if math.prod(tile) > _WHOLE:
            return ""
        index = decode_index(data[-index_bytes(slots) :], slots, size=size)
    except DamageError:
        return "; its index is damaged, so all of its tiles are lost"
    except (ValueError, LookupError, TypeError, ZeroDivisionError, OverflowError):
        return ""
    lost = []
    for slot in range(tiles):
        try:
            start, length = chunk_span(index, slot)
            decode_chunk(data[start : start + length], dtype, tile)
        except DamageError:
            lost.append(first + slot)
    return f"; tile {', '.join(map(str, lost[:5]))}{' and more' if len(lost) > 5 else ''} lost" if lost else ""


def _contents(
    place: KeyStore, attributes: Document, manifest: Facts, *, deep: bool, reported: set[str], n_files: int
) -> Iterator[str]:
    """Contradictions between the contents.

    Args:
        place: the store.
        attributes: the root's attributes, maybe empty.
        manifest: from `_manifest`, maybe empty.
        deep: see `verify_store`.
        reported: keys of files with a reported problem; they get no second one.
        n_files: the number of files in `place`.
    """
    for group in dict.fromkeys(spec.group for spec in SPECS.values()):
        try:
            data = _small(place, f"{group}/{ROOT_KEY}")
        except StoreError:
            continue  # reported by `_files`
        if data and f"{group}/{ROOT_KEY}" not in reported and (problem := group_problem(group, as_written(data))):
            yield problem
    try:
        scale = attributes.get("scale")
        if type(scale) is not int or scale < 1:
            attributes = {**attributes, "scale": _scale_of(place)}
        store = Store(place, attributes, manifest=manifest)
        listed = {key: fact for key, fact in manifest.items() if not key.startswith(f"{MANIFEST_KEY}/")}
        if listed and (problem := manifest_problem(listed, store.sizes, store.arrays)):
            yield f"{MANIFEST_KEY}: {problem}"
        if (expected := expected_objects(store.sizes, store.arrays)) > 2 * n_files:
            yield f"contents: not checked, because {expected} files are expected by the metadata, but only {n_files} exist"
            return
    except (ValueError, LookupError, TypeError, ZeroDivisionError) as error:
        if not any(name.endswith(f"/{ROOT_KEY}") for name in reported):
            yield printable(error)
        yield "contents: not checked, because the metadata above is damaged"
        return
    for problem in content_problems(store, whole=deep or not manifest, deep=deep):
        if problem.split(":")[0] not in reported:
            yield problem


def _scale_of(place: KeyStore) -> int:
    hr, lr = (parse_json(_small(place, f"tiles/{name}/{ROOT_KEY}"))["shape"][1] for name in ("hr", "lr"))
    return int(hr // lr)


def _small(place: KeyStore, key: str) -> bytes:
    return get_at_most(place, key, DOCUMENT_LIMIT) or b""


def _short(place: KeyStore, key: str, error: StoreError) -> str:
    """An error's text without the name of the file, which the problem already starts with."""
    text = str(error)
    for start in (f"{place}/{key}: ", f"{place}: ", f"{key}: "):
        text = text.removeprefix(start)
    return printable(text)


_PATHS = {*SPECS, *(spec.group for spec in SPECS.values()), VALID.path, *(spec.path for spec in PLACED.values())}
_TILES = {VALID.path, *(path for path, spec in SPECS.items() if spec.rows == 1)}
_TYPES = {name: f"<{np.dtype(name).str[1:]}" for name in DTYPES}
