"""Benchmarks by name: the folder of one that was downloaded, or that lies where downloads go."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConfigError, printable
from ...runtime import user_path
from .datasets import FOLDER, DataSet, extract, load_registry


def find_benchmark(given: Path, folder: Path | None = None, registry: dict[str, DataSet] | None = None) -> Path:
    """The folder of a benchmark: the path that was given, or a name such as `set5` that was downloaded.

    Args:
        given: what stands behind `--benchmark`. A path that exists goes before a name.
        folder: where downloads lie; None: `SAMDIFF_DOWNLOADS`, else data/downloads.
        registry: None: samdiff's own, with that of `SAMDIFF_REGISTRY`.

    Raises:
        ConfigError: a known name that was not downloaded yet.
    """
    name = str(given)
    if given.exists() or len(given.parts) != 1:
        return given
    if registry is None:
        extra = os.environ.get("SAMDIFF_REGISTRY")
        registry = load_registry(Path(extra) if extra else None)
    known = next((entry for entry in registry.values() if entry.name.lower() == name.lower()), None)
    if known is None or not (known.benchmark or known.request):
        return given
    place = user_path(os.environ.get("SAMDIFF_DOWNLOADS") or FOLDER) if folder is None else folder
    if (found := _folder_named(known.name, place)) is not None:
        return found
    if known.file and (place / known.file).is_file():
        unpack(known, place)
        return place / known.name
    raise ConfigError(f"--benchmark {printable(name)}: not in {place} yet; fetch it: samdiff download {printable(known.name)}")


def unpack(entry: DataSet, folder: Path) -> int:
    """Unpack a downloaded benchmark to a folder of its name; returns the number of images.

    Raises:
        DownloadError: see `datasets.extract`.
        ImageError: the archive is damaged.
    """
    return extract(folder / entry.file, folder / entry.name, entry.images)


def _folder_named(name: str, place: Path) -> Path | None:
    """The folder of a name in any case, such as `Set5`."""
    if (place / name).is_dir():
        return place / name
    try:
        return next((entry for entry in sorted(place.iterdir()) if entry.name.lower() == name.lower() and entry.is_dir()), None)
    except OSError:
        return None
