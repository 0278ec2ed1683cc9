"""Where a store may be written: outside its source, outside other stores, and not over files of others. Checked before any work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import ConfigError
from ...runtime import user_path
from ..images.sources import Source
from ..shards.schema import FORMAT
from ..shards.writer import ROOT_KEY
from ..storage.foreign import refuse_foreign
from ..storage.local import KeyStore, LocalStore, Location, key_store_at
from .staging import Staging


def check_target(
    out: Location, *, sources: Iterable[Source | None], masks: Path | None = None, embeddings: Path | None = None
) -> None:
    """Check where a store is to be written, before anything is read. Nothing is changed.

    Args:
        out: the store.
        sources: the sources of HR and LR images, see `list_source`; None is skipped.
        masks: a folder of imported masks. All its JSON files are hashed, so a store inside it would change its own fingerprint.

        embeddings: the folder of `--keep-embeddings`.

    Raises:
        ConfigError: `out` is a bucket without a name (its staging folder would have no place), lies in another store, or one of `out`
            and a source lies in the other; the folder of embeddings lies in a store.
        StoreError: `out` or its staging folder holds files that are not ours.
    """
    place = key_store_at(out)
    if embeddings is not None and (store := inside_a_store(embeddings / "file")) is not None:
        raise ConfigError(f"--keep-embeddings {embeddings}: lies inside the store {store}; give a folder outside of it")
    if isinstance(place, LocalStore):
        staging = place.sibling(".staging")
        assert isinstance(staging, LocalStore)
        store = inside_a_store(place.root)
        if store is not None:
            raise ConfigError(f"{place}: lies inside the store {store}, where no other files are allowed; give another --out")
        for source in sources:
            for path in _paths(source):
                _check_apart(place.root, staging.root, path, what="source")
        if masks is not None:
            _check_apart(place.root, staging.root, masks, what="folder of --import-masks")
        if embeddings is not None:
            _check_apart(place.root, staging.root, embeddings, what="folder of --keep-embeddings")
    else:
        _check_address(place)
    if not _is_finished(place):  # a finished store is only compared
        work = Staging(place)
        work.check()
        refuse_foreign(place, work.written())


def _is_finished(place: KeyStore) -> bool:
    """Whether there is a root document. A pipe of that name does not count: reading it would block."""
    if isinstance(place, LocalStore):
        return (place.root / ROOT_KEY).is_file()
    return place.size(ROOT_KEY) is not None


def inside_a_store(path: Path) -> Path | None:
    """The finished samdiff store that contains a path, or None. The path itself is not tested."""
    return next((parent for parent in Path(os.path.realpath(path)).parents if _is_store(parent)), None)


def _is_store(folder: Path) -> bool:
    try:
        if not (folder / ROOT_KEY).is_file():
            return False
        document = json.loads((folder / ROOT_KEY).read_bytes())
        return bool(document["attributes"]["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # unreadable, or another program's
        return False


def _check_apart(out: Path, staging: Path, source: Path, *, what: str) -> None:
    real, other = Path(os.path.realpath(out)), Path(os.path.realpath(source))
    if real == other:
        problem = f"is the {what} itself"
    elif other.is_relative_to(real) or other.is_relative_to(os.path.realpath(staging)):
        problem = f"holds the {what} {source}"
    elif real.is_relative_to(other):
        problem = f"lies inside the {what} {source}"
    else:
        return
    raise ConfigError(f"{out}: the target {problem}; give an --out outside of it")


def _check_address(place: KeyStore) -> None:
    """ConfigError for the address of a bucket: the staging prefix would have to be outside of it."""
    scheme, mark, name = repr(place).partition("://")
    if mark and scheme != "memory" and not name.startswith("/") and "/" not in name.strip("/"):
        raise ConfigError(f"{place}: expected the address of a store, such as {place}/name.zarr, got only a bucket")


def _paths(source: Source | None) -> Iterator[Path]:
    """The files and folders of a source."""
    if source is None or source == "samples":
        return
    if isinstance(source, str | Path):
        yield user_path(source)
    else:
        for one in source:
            yield from _paths(one)
