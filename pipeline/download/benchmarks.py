"""Benchmarks by name: the folder of a downloaded one, unpacked where necessary."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConfigError, printable
from ...runtime import user_path
from .datasets import FOLDER, DataSet, extract, load_registry


def find_benchmark(given: Path, folder: Path | None = None, registry: dict[str, DataSet] | None = None) -> Path:
    """The folder of a benchmark, from a path or the name of a downloaded one, such as `set5`.

    Args:
        given: value of `--benchmark`. A path that exists takes precedence over a name; an unknown name is returned as it is.
        folder: folder of the downloads; None: `SAMDIFF_DOWNLOADS`, else data/downloads.
        registry: None: samdiff's own, with the entries of the file `SAMDIFF_REGISTRY`.

    Raises:
        ConfigError: the benchmark of this name has not been downloaded.
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
    folder = user_path(os.environ.get("SAMDIFF_DOWNLOADS") or FOLDER) if folder is None else folder
    if (unpacked := _folder_named(known.name, folder)) is not None:
        return unpacked
    if known.file and (folder / known.file).is_file():
        unpack(known, folder)
        return folder / known.name
    raise ConfigError(f"--benchmark {printable(name)}: not in {folder} yet; fetch it: samdiff download {printable(known.name)}")


def unpack(entry: DataSet, folder: Path) -> int:
    """Unpack a downloaded benchmark to the folder `folder / entry.name`; returns the number of images.

    Raises:
        DownloadError: see `datasets.extract`.
        ImageError: the archive is damaged.
    """
    return extract(folder / entry.file, folder / entry.name, entry.images)


def _folder_named(name: str, folder: Path) -> Path | None:
    """The subfolder of this name in any case, such as `Set5`; None: there is none."""
    if (folder / name).is_dir():
        return folder / name
    try:
        return next(
            (entry for entry in sorted(folder.iterdir()) if entry.name.lower() == name.lower() and entry.is_dir()), None
        )
    except OSError:
        return None
