"""`samdiff verify`: every file of a store against its digest, then the contents against each other; all problems in one pass."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

from ...errors import StoreError, printable
from ...runtime import progress
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
from .schema import LONG_ROWS, MANIFEST_KEY, Document, tiles_per_shard
from .writer import ROOT_KEY, SPECS, as_written, chunk_key, digest

_PIECE = 2**24  # bytes of a file that are hashed at a time
_WHOLE = 2**28  # bytes of a damaged shard that is looked through for its lost tiles; ours have 20 MB or less


def verify_store(location: Location, deep: bool = False) -> list[str]:
    """Everything that is wrong with a store, one sentence each that names the file; empty if all is well.

    Found are: a flipped bit, a missing, truncated or foreign file, a folder or a FIFO in place of one, edited metadata, tables that
    contradict each other, labels that name no mask. The pass goes on after each problem as far as what is left allows.

    Args:
        location: a folder or a URL.
        deep: also recompute codes, areas, boxes and labels from every mask's runs.

    Raises:
        StoreError: there is no store at all.
    """
    place = key_store_at(location)
    keys = set(place.list_keys())
    if ROOT_KEY not in keys and f"{MANIFEST_KEY}/{ROOT_KEY}" not in keys:
        raise StoreError(nothing_there(place))
    attributes, problems = _root(place)
    manifest, found = _manifest(place, attributes, keys)
    problems += found
    problems += list(_files(place, manifest, keys))
    named = {problem.split(":")[0] for problem in problems}
    return problems + list(_contents(place, attributes, manifest, deep, named, len(keys)))


def _root(place: KeyStore) -> tuple[dict[str, Any], list[str]]:
    """The root's attributes, as far as they can be read, and what is wrong with them."""
    try:
        data = get_at_most(place, ROOT_KEY, ROOT_LIMIT)
        if data is None:
            return {}, [f"{ROOT_KEY}: missing; without it there is no store"]
        return read_root(place, data), []
    except StoreError as error:
        problem = [f"{ROOT_KEY}: {_short(place, ROOT_KEY, error)}"]
    try:
        attributes = parse_json(get_at_most(place, ROOT_KEY, ROOT_LIMIT) or b"").get("attributes")
        return (attributes if isinstance(attributes, dict) else {}), problem
    except ValueError:  # StoreError among them
        return {}, problem


def _manifest(place: KeyStore, attributes: Document, keys: set[str]) -> tuple[Facts, list[str]]:
    """The manifest of all files with that of its own files; empty, with the reason, if it cannot be trusted."""
    try:
        own = manifest_files(attributes["digests"]["record"])
    except (LookupError, TypeError, ValueError):
        own = {}  # the root is damaged, which is known already; the manifest's own checksums still hold
    problems = [problem for key, fact in own.items() if (problem := _file_problem(place, key, fact))]
    there = sorted(key for key in keys if key.startswith(f"{MANIFEST_KEY}/"))
    try:
        length = parse_json(_small(place, f"{MANIFEST_KEY}/{ROOT_KEY}"))["shape"][0]
        count = -(-length // LONG_ROWS)
        if type(length) is not int or not 0 <= count <= len(there):
            raise ValueError(f"{length!r:.40} bytes are not what its files hold")
        most, text = encoded_bound(LONG_ROWS), b""
        for index in range(count):
            chunk = get_at_most(place, chunk_key(MANIFEST_KEY, index, 1), most) or b""
            text += decode_chunk(chunk, SPECS["images/name"].little, (LONG_ROWS,)).tobytes()
        listed = parse_manifest(text[:length])
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        why = f"{MANIFEST_KEY}: cannot be read ({printable(error)}); foreign and missing files cannot be told"
        return {}, problems or [why]
    strange = [key for key in listed if key.partition("/c/")[0].removesuffix(f"/{ROOT_KEY}") not in _PATHS or ".." in key]
    if strange:
        return {}, [*problems, f"{MANIFEST_KEY}: names {strange[0]}, which no store has"]
    return {**listed, **{key: own.get(key, (-1, "")) for key in there if key in own or not own}}, problems


def _files(place: KeyStore, manifest: Facts, keys: set[str]) -> Iterator[str]:
    """Missing, foreign and damaged files."""
    if not manifest:
        return
    for key in sorted(keys - set(manifest) - {ROOT_KEY}):
        if is_system_file(key):  # such as .DS_Store, which prepare leaves alone, too
            continue
        yield f"{printable(key)}: foreign: the store did not write this file; remove it"
    for key, fact in progress(sorted(manifest.items()), desc="files", unit="file"):
        if not key.startswith(f"{MANIFEST_KEY}/") and (problem := _file_problem(place, key, fact)):
            yield problem


def _file_problem(place: KeyStore, key: str, fact: tuple[int, str]) -> str | None:
    """What is wrong with one file; it is read in pieces, and only if it has its recorded length."""
    expected, sha256 = fact
    try:
        size = place.size(key)
        if size is not None and key.endswith(ROOT_KEY) and digest(as_written(_small(place, key))) == sha256:
            return None  # other programs may add attributes
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
    """Which tiles a damaged shard has lost, as far as that can be told."""
    path, _, chunk = key.partition("/c/")
    if path not in SPECS or SPECS[path].rows != 1 or size > _WHOLE:
        return ""
    try:
        data = place.get(key) or b""
        shape = parse_json(_small(place, f"{path}/{ROOT_KEY}"))["shape"]
        slots = tiles_per_shard(parse_json(_small(place, f"tiles/hr/{ROOT_KEY}"))["shape"][1])
        first = int(chunk.split("/")[0]) * slots
        tiles, tile = min(slots, shape[0] - first), tuple(shape[1:])
        if math.prod(tile) > _WHOLE:
            return ""
        index = decode_index(data[-index_bytes(slots) :], slots, size)
    except DamageError:
        return "; its index is damaged, so all of its tiles are lost"
    except (ValueError, LookupError, TypeError, ZeroDivisionError, OverflowError):
        return ""
    lost = []
    for slot in range(tiles):
        try:
            start, length = chunk_span(index, slot)
            decode_chunk(data[start : start + length], SPECS[path].little, tile)
        except DamageError:
            lost.append(first + slot)
    return f"; tile {', '.join(map(str, lost[:5]))}{' and more' if len(lost) > 5 else ''} lost" if lost else ""


def _contents(place: KeyStore, attributes: Document, manifest: Facts, deep: bool, named: set[str], there: int) -> Iterator[str]:
    """What the contents say, with files left out that are known to be damaged; `there` is the number of files."""
    for group in dict.fromkeys(spec.group for spec in SPECS.values()):
        try:
            data = _small(place, f"{group}/{ROOT_KEY}")
        except StoreError:
            continue  # named as a file
        if data and f"{group}/{ROOT_KEY}" not in named and (problem := group_problem(group, as_written(data))):
            yield problem
    try:
        scale = attributes.get("scale")
        if type(scale) is not int or scale < 1:
            attributes = {**attributes, "scale": _scale_of(place)}
        store = Store(place, dict(attributes), manifest=dict(manifest))
        listed = {key: fact for key, fact in manifest.items() if not key.startswith(f"{MANIFEST_KEY}/")}
        if listed and (problem := manifest_problem(listed, store.sizes)):
            yield f"{MANIFEST_KEY}: {problem}"
        if expected_objects(store.sizes) > 2 * there:
            yield f"contents: not checked, because the metadata speak of {expected_objects(store.sizes)} files, {there} are there"
            return
    except (ValueError, LookupError, TypeError, ZeroDivisionError) as error:
        if not any(name.endswith(f"/{ROOT_KEY}") for name in named):
            yield printable(error)
        yield "contents: not checked, because the metadata above is damaged"
        return
    for problem in content_problems(store, whole=deep or not manifest, deep=deep):
        if problem.split(":")[0] not in named:
            yield problem


def _scale_of(place: KeyStore) -> int:
    hr, lr = (parse_json(_small(place, f"tiles/{name}/{ROOT_KEY}"))["shape"][1] for name in ("hr", "lr"))
    return int(hr // lr)


def _small(place: KeyStore, key: str) -> bytes:
    return get_at_most(place, key, DOCUMENT_LIMIT) or b""


def _short(place: KeyStore, key: str, error: StoreError) -> str:
    """An error about a file without the file's name, which the sentence begins with."""
    text = str(error)
    for start in (f"{place}/{key}: ", f"{place}: ", f"{key}: "):
        text = text.removeprefix(start)
    return printable(text)


_PATHS = {*SPECS, *(spec.group for spec in SPECS.values())}
