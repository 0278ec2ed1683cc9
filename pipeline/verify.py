"""`samdiff verify`: every file of a store against its digest, then the contents against each other; all problems in one pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import StoreError
from ..runtime import progress
from .consistency import content_problems
from .contract import LONG_ROWS, RECORD_KEY, tiles_per_shard
from .foreign import is_system_file
from .keystore import Location, Place, place_at
from .root import nothing_there, parse_record, read_root
from .shardcodec import DamageError, chunk_span, decode_chunk, decode_index, index_bytes
from .shards import ROOT_KEY, SPECS, chunk_key, digest
from .store import Store

Record = Mapping[str, tuple[int, str]]


def verify_store(location: Location, deep: bool = False) -> list[str]:
    """Everything that is wrong with a store, one sentence each that names the file; empty if all is well.

    Found are: a flipped bit, a missing, truncated or foreign file, edited metadata, tables that contradict each other, labels that
    name no mask. The pass goes on after each problem as far as what is left allows.

    Args:
        location: a folder or a URL.
        deep: also recompute codes, areas, boxes and labels from every mask's runs.

    Raises:
        StoreError: there is no store at all.
    """
    place = place_at(location)
    keys = set(place.list_keys())
    if ROOT_KEY not in keys and f"{RECORD_KEY}/{ROOT_KEY}" not in keys:
        raise StoreError(nothing_there(place))
    attributes, problems = _root(place)
    record, found = _record(place, attributes, keys)
    problems += found
    problems += list(_files(place, record, keys))
    named = {problem.split(":")[0] for problem in problems}
    return problems + list(_contents(place, attributes, record, deep, named))


def _root(place: Place) -> tuple[dict[str, Any], list[str]]:
    """The root's attributes, as far as they can be read, and what is wrong with them."""
    data = place.get(ROOT_KEY)
    if data is None:
        return {}, [f"{ROOT_KEY}: missing; without it there is no store"]
    try:
        return read_root(place, data), []
    except StoreError as error:
        problem = [f"{ROOT_KEY}: {str(error).removeprefix(f'{place}: ').removeprefix(f'{ROOT_KEY}: ')}"]
    try:
        attributes = json.loads(data)["attributes"]
        return (attributes if isinstance(attributes, dict) else {}), problem
    except (ValueError, KeyError, TypeError):
        return {}, problem


def _record(place: Place, attributes: Mapping[str, Any], keys: set[str]) -> tuple[Record, list[str]]:
    """The record of all files with that of its own files; empty, with the reason, if it cannot be trusted."""
    try:
        own = {str(key): (int(size), str(sha256)) for key, (size, sha256) in attributes["digests"]["record"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        own = {}  # the root is damaged, which is known already; the record's own checksums still hold
    problems = [problem for key, fact in own.items() if (problem := _file_problem(place, key, fact))]
    record_keys = sorted(key for key in keys if key.startswith(f"{RECORD_KEY}/"))
    try:
        document = json.loads(place.get(f"{RECORD_KEY}/{ROOT_KEY}") or b"")
        length = int(document["shape"][0])
        chunks = [place.get(chunk_key(RECORD_KEY, k, 1)) or b"" for k in range(-(-length // LONG_ROWS))]
        text = b"".join(decode_chunk(chunk, SPECS["images/name"].little, (LONG_ROWS,)).tobytes() for chunk in chunks)[:length]
        return {
            **parse_record(text.decode()),
            **{key: own.get(key, (-1, "")) for key in record_keys if key in own or not own},
        }, problems
    except (DamageError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        return {}, problems or [f"{RECORD_KEY}: cannot be read ({error}); foreign and missing files cannot be told"]


def _files(place: Place, record: Record, keys: set[str]) -> Iterator[str]:
    """Missing, foreign and damaged files."""
    if not record:
        return
    for key in sorted(keys - set(record) - {ROOT_KEY}):
        if is_system_file(key):  # such as .DS_Store, which prepare leaves alone, too
            continue
        yield f"{key}: foreign: the store did not write this file; remove it"
    for key, fact in progress(sorted(record.items()), desc="files", unit="file"):
        if not key.startswith(f"{RECORD_KEY}/") and (problem := _file_problem(place, key, fact)):
            yield problem


def _file_problem(place: Place, key: str, fact: tuple[int, str]) -> str | None:
    size, sha256 = fact
    data = place.get(key)
    if data is None:
        return f"{key}: missing; restore it from a copy"
    if len(data) != size:
        return f"{key}: {'truncated' if len(data) < size else 'too long'}: {len(data)} bytes instead of {size}"
    if digest(data) == sha256:
        return None
    if key.endswith(ROOT_KEY):
        return f"{key}: edited or damaged metadata: its SHA-256 differs from the record's"
    return f"{key}: damaged: its SHA-256 differs from the record's{_damaged_tiles(place, key, data)}"


def _damaged_tiles(place: Place, key: str, data: bytes) -> str:
    """Which tiles a damaged shard has lost, as far as that can be told."""
    path, _, chunk = key.partition("/c/")
    if path not in SPECS or SPECS[path].rows != 1:
        return ""
    try:
        document = json.loads(place.get(f"{path}/{ROOT_KEY}") or b"")
        shape = tuple(document["shape"][1:])
        slots = tiles_per_shard(json.loads(place.get(f"tiles/hr/{ROOT_KEY}") or b"")["shape"][1])
        first = int(chunk.split("/")[0]) * slots
        index = decode_index(data[-index_bytes(slots) :], slots)
    except DamageError:
        return "; its index is damaged, so all of its tiles are lost"
    except (ValueError, KeyError, TypeError, IndexError):
        return ""
    lost = []
    for slot in range(min(slots, document["shape"][0] - first)):
        try:
            start, length = chunk_span(index, slot)
            decode_chunk(data[start : start + length], SPECS[path].little, shape)
        except (DamageError, RuntimeError):
            lost.append(first + slot)
    return f"; tile {', '.join(map(str, lost[:5]))}{' and more' if len(lost) > 5 else ''} lost" if lost else ""


def _contents(place: Place, attributes: Mapping[str, Any], record: Record, deep: bool, named: set[str]) -> Iterator[str]:
    """What the contents say, with files left out that are known to be damaged."""
    try:
        if not isinstance(attributes.get("scale"), int):
            attributes = {**attributes, "scale": _scale_of(place)}
        store = Store(place, dict(attributes), record=dict(record))
    except (StoreError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        if not any(name.endswith(f"/{ROOT_KEY}") for name in named):
            yield f"{error}"
        yield "contents: not checked, because the metadata above is damaged"
        return
    for problem in content_problems(store, whole=not record, deep=deep):
        if problem.split(":")[0] not in named:
            yield problem


def _scale_of(place: Place) -> int:
    hr, lr = (json.loads(place.get(f"tiles/{name}/{ROOT_KEY}") or b"")["shape"][1] for name in ("hr", "lr"))
    return int(hr // lr)
