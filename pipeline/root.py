"""The root document of a store, which is its commit: is it there, is it ours, is it whole; and the record that it names."""

from __future__ import annotations

import json
from typing import Any

from ..errors import StoreError
from .contract import FORMAT, FORMAT_VERSION
from .keystore import LocalFolder, Place
from .shards import ROOT_KEY, unseal


def read_root(place: Place, data: bytes) -> dict[str, Any]:
    """The root document's attributes, checked.

    Raises:
        StoreError: not a store of ours, another format version, edited or damaged.
    """
    try:
        document = json.loads(data)
        attributes = dict(document.get("attributes") or {})
    except (ValueError, AttributeError, TypeError) as error:
        raise StoreError(f"{place}: {ROOT_KEY} is not readable ({error}); the store is damaged, prepare it again") from error
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{place}: expected a samdiff store, got a Zarr group without its mark; make one with `samdiff prepare`"
        )
    if attributes.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{place}: expected format version {FORMAT_VERSION}, got {attributes.get('format_version')!r}; "
            "use the samdiff release that wrote it, or prepare it again"
        )
    try:
        return unseal(data)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place}: {ROOT_KEY}: {error}; restore the file or prepare the store again") from error


def nothing_there(place: Place) -> str:
    """Why there is no store to open, and what to do."""
    staging = place.sibling(".staging")
    if staging.get("settings.json") is not None:
        return (
            f"{place}: the store is not finished ({staging} lies beside it); the same `samdiff prepare` command goes on with it"
        )
    if isinstance(place, LocalFolder) and place.root.is_file():
        return f"{place}: expected a samdiff store, got a file"
    if next(place.list_keys(), None) is not None:
        return f"{place}: expected a samdiff store, got a folder without {ROOT_KEY}"
    return f"{place}: there is no such store; make one with `samdiff prepare SOURCE --out {place}`"


def parse_record(text: str) -> dict[str, tuple[int, str]]:
    """key -> (bytes, SHA-256) of the record's lines, `SHA256  BYTES  KEY`."""
    lines = (line.split("  ", 2) for line in text.splitlines())
    return {key: (int(size), sha256) for sha256, size, key in lines}
