"""Where a store may be written: apart from its source, in no other store, over nothing that is not ours. Checked before any work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError
from ...runtime import user_path
from ..images.sources import Source
from ..shards.schema import FORMAT
from ..shards.writer import ROOT_KEY
from ..storage.foreign import refuse_foreign
from ..storage.local import KeyStore, LocalStore, Location, key_store_at
from .staging import Staging


def check_target(out: Location, *sources: Source | None, masks: Path | None = None) -> None:
    """What `prepare` can refuse before it has read anything: nothing is changed.

    Args:
        out: where the store is to go.
        sources: where images come from, as of `list_source`; None for one that is not given.
        masks: a folder of masks made elsewhere. All JSON files below it are hashed, so a store in it would change what it was made with.

    Raises:
        ConfigError: the target cannot have a staging folder beside it, lies in another store, or it and a source lie in each other.
        StoreError: the target or the staging place beside it is not ours.
    """
    place = key_store_at(out)
    if isinstance(place, LocalStore):
        staging = place.sibling(".staging")
        assert isinstance(staging, LocalStore)
        store = inside_a_store(place.root)
        if store is not None:
            raise ConfigError(f"{place}: lies inside the store {store}, where nothing else may lie; give another --out")
        for source in sources:
            for path in _paths(source):
                _check_apart(place.root, staging.root, path, "source")
        if masks is not None:
            _check_apart(place.root, staging.root, masks, "folder of --import-masks")
    else:
        _check_address(place)
    if not _is_finished(place):  # else it will only be compared
        work = Staging(place)
        work.check()
        refuse_foreign(place, work.written())


def _is_finished(place: KeyStore) -> bool:
    """Whether there is a root document; a pipe of that name is none, and would never end."""
    if isinstance(place, LocalStore):
        return (place.root / ROOT_KEY).is_file()
    return place.size(ROOT_KEY) is not None


def inside_a_store(path: Path) -> Path | None:
    """The finished store that a path lies in, if any; the path itself does not count, nor do Zarr groups of other programs."""
    return next((parent for parent in Path(os.path.realpath(path)).parents if _is_store(parent)), None)


def _is_store(folder: Path) -> bool:
    try:
        if not (folder / ROOT_KEY).is_file():
            return False
        document = json.loads((folder / ROOT_KEY).read_bytes())
        return bool(document["attributes"]["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not ours, or not readable
        return False


def _check_apart(out: Path, staging: Path, source: Path, what: str) -> None:
    real, other = Path(os.path.realpath(out)), Path(os.path.realpath(source))
    if real == other:
        problem = f"is the {what} itself"
    elif other.is_relative_to(real) or other.is_relative_to(os.path.realpath(staging)):
        problem = f"holds the {what} {source}"
    elif real.is_relative_to(other):
        problem = f"lies inside the {what} {source}"
    else:
        return
    raise ConfigError(f"{out}: the target {problem}; give an --out apart from it")


def _check_address(place: KeyStore) -> None:
    """A bucket alone has no place beside it for the staging."""
    scheme, mark, name = repr(place).partition("://")
    if mark and scheme != "memory" and not name.startswith("/") and "/" not in name.strip("/"):
        raise ConfigError(f"{place}: expected the address of a store, such as {place}/name.zarr, got a bucket alone")


def _paths(source: Source | None) -> Iterator[Path]:
    """The files and folders that a source names."""
    if source is None or source == "samples":
        return
    if isinstance(source, str | Path):
        yield user_path(source)
    else:
        for one in source:
            yield from _paths(one)
