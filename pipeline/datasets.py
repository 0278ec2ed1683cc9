"""Data sets by name: what the registry says of them, and having their archives here, verified. Archives are read in place.

The registry is `registry.toml`; a file of the same form (tables `[data.NAME]`) adds to it or replaces entries.
"""

from __future__ import annotations

import difflib
import logging
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ImageError, printable
from ..runtime import progress
from .download import DownloadError, Patience, check_disk, fetch
from .sources import MAX_ARCHIVE_GB, Limits, Shelf, Source, list_source

log = logging.getLogger(__name__)

FOLDER = Path("data") / "downloads"
"""Where archives go, below the folder in which the command is typed."""


@dataclass(frozen=True)
class DataSet:
    """One archive of the registry, or (`sets`) several entries together."""

    name: str
    """What the user types."""
    about: str = ""
    """One line."""
    file: str = ""
    """The archive's name here."""
    urls: tuple[str, ...] = ()
    """Addresses of the same content."""
    bytes: int | None = None
    """Its length, if known."""
    sha256: str | None = None
    """Its hash, if known."""
    images: int | None = None
    """How many pictures it holds, if known."""
    licence: str = "not stated"
    """What its authors allow."""
    citation: str = ""
    """The publication."""
    sets: tuple[str, ...] = ()
    """Names of other entries, instead of a file."""

    def __post_init__(self) -> None:
        if bool(self.sets) == bool(self.file and self.urls):
            raise ConfigError(f"[data.{self.name}]: expected either file and urls, or sets")
        if self.file != Path(self.file).name:
            raise ConfigError(f"[data.{self.name}]: file: expected a name without folders, got {self.file!r}")


def load_registry(extra: Path | None = None) -> dict[str, DataSet]:
    """All data sets by name.

    Args:
        extra: a TOML file with more of them.

    Raises:
        ConfigError: the file cannot be read, or an entry has an unknown key or lacks what it needs.
    """
    tables = tomllib.loads(files(__package__).joinpath("registry.toml").read_text())["data"]
    if extra is not None:
        try:
            tables |= tomllib.loads(extra.read_text()).get("data", {})
        except (OSError, ValueError) as error:
            raise ConfigError(f"--registry {extra}: expected a TOML file with tables [data.NAME] ({error})") from error
    return {name: _data_set(name, table) for name, table in tables.items()}


def _data_set(name: str, table: Any) -> DataSet:
    if not isinstance(table, dict):
        raise ConfigError(f"[data.{name}]: expected a table, got {table!r}")
    kinds = {"bytes": int, "images": int, "urls": list, "sets": list}
    known = {f.name for f in fields(DataSet)} - {"name"}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"[data.{name}]: unknown key {key!r}{f', did you mean {near[0]!r}?' if near else ''}")
        if not isinstance(value, kinds.get(key, str)):
            raise ConfigError(f"[data.{name}]: {key}: expected {kinds.get(key, str).__name__}, got {value!r}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return DataSet(name, **values)


def archives_of(name: str, registry: dict[str, DataSet]) -> list[DataSet]:
    """The entry of a name, or those that it joins.

    Raises:
        ConfigError: there is no such name; the message lists those that there are.
    """
    if name not in registry:
        near = difflib.get_close_matches(name, registry, 1)
        raise ConfigError(
            f"{name}: no data set of this name{f', did you mean {near[0]}?' if near else ''} (known: {', '.join(sorted(registry))}; --registry adds more)"
        )
    entry = registry[name]
    if not entry.sets:
        return [entry]
    others = {key: value for key, value in registry.items() if key != name}  # so that no entry can join itself
    return [archive for part in entry.sets for archive in archives_of(part, others)]


def obtain(
    name: str,
    registry: dict[str, DataSet],
    folder: Path = FOLDER,
    *,
    mirrors: Sequence[str] = (),
    patience: Patience | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> list[Path]:
    """The archives of a data set, fetched if they are not here, each verified and its pictures counted.

    Args:
        name: in the registry.
        registry: from `load_registry`.
        folder: where archives lie and go; made if need be.
        mirrors: addresses of folders (`https://`, `file://`, or a path) that hold files of the same names; tried first.
        patience: how long to try.
        sleep: injectable clock.

    Raises:
        ConfigError: no such name.
        DownloadError: an archive could not be fetched, is not what it should be, or does not fit on the disk.
    """
    archives = archives_of(name, registry)
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, sum(_left(archive, folder) for archive in archives))
    paths = []
    for archive in archives:
        if not (folder / archive.file).exists():
            log.warning("fetching %s; licence: %s", archive.about or archive.name, archive.licence)
        urls = [*(_below(mirror, archive.file) for mirror in mirrors), *archive.urls]
        path = fetch(urls, folder / archive.file, sha256=archive.sha256, size=archive.bytes, patience=patience, sleep=sleep)
        _check_count(path, archive)
        paths.append(path)
    return paths


def _left(archive: DataSet, folder: Path) -> int:
    """Bytes that are still to come, as far as they are known."""
    if (folder / archive.file).exists():
        return 0
    part = folder / f"{archive.file}.part"
    return max(0, (archive.bytes or 0) - (part.stat().st_size if part.exists() else 0))


def _below(mirror: str, file: str) -> str:
    place = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
    return f"{place.rstrip('/')}/{file}"


def _check_count(path: Path, archive: DataSet) -> None:
    try:
        found = len(list_source(path, _limits_of(path)))
    except ImageError as error:
        raise DownloadError(f"{path} came whole but is no archive of pictures ({error}); delete it") from error
    if archive.images is not None and found != archive.images:
        raise DownloadError(f"{path}: expected {archive.images} pictures, found {found}; delete it and fetch it again")


def _limits_of(path: Path) -> Limits:
    """Far more than images unpack to, which hardly shrink in an archive; less than an archive that was made to be endless."""
    return Limits(max_archive_gb=max(MAX_ARCHIVE_GB, 50 * path.stat().st_size / 1e9))


def source_of(given: str, registry: dict[str, DataSet], folder: Path, mirrors: Sequence[str] = ()) -> Source:
    """What `list_source` takes, for what the user typed: the archives of a data set (fetched now), or the same words.

    A file or folder of that name in the current folder goes before a data set.
    """
    return obtain(given, registry, folder, mirrors=mirrors) if _is_data_set(given, registry) else given


def missing_archives(given: Sequence[str | None], registry: dict[str, DataSet], folder: Path) -> list[Path]:
    """Archives that `source_of` would have to fetch."""
    names = [name for name in given if name is not None and _is_data_set(name, registry)]
    wanted = [folder / archive.file for name in names for archive in archives_of(name, registry)]
    return [path for path in wanted if not path.exists()]


def _is_data_set(given: str, registry: dict[str, DataSet]) -> bool:
    return given in registry and not Path(given).exists()


def extract(archive: Path, folder: Path, images: int | None = None) -> int:
    """Unpack the pictures of a zip or tar; returns how many there are. Those that are there whole are left alone.

    Names are those of `list_source`, which never lead out of the folder; a picture appears under its name only when it is whole.

    Args:
        archive: a zip or tar.
        folder: where they go, made if need be.
        images: how many there must be.

    Raises:
        DownloadError: the disk is too small, another file has a picture's name, a link in the folder leads out of it, or the number is not `images`.
        ImageError: the archive is damaged.
    """
    pictures = list_source(archive, _limits_of(archive))
    folder.mkdir(parents=True, exist_ok=True)
    missing = [p for p in pictures if not (folder / p.name).is_file() or (folder / p.name).stat().st_size != p.size]
    taken = next((folder / picture.name for picture in missing if os.path.lexists(folder / picture.name)), None)
    if taken is not None:  # we give a file its name when it is whole, so this one is somebody else's
        raise DownloadError(
            f"{printable(taken)}: exists already and is not the archive's file; move it away, or unpack elsewhere"
        )
    check_disk(folder, sum(picture.size for picture in missing))
    root = folder.resolve()
    with Shelf() as shelf:
        for picture in progress(missing, desc=f"unpack {archive.name}", unit="file"):
            target = folder / picture.name
            if not target.resolve().is_relative_to(root):
                raise DownloadError(f"{target}: a link in {folder} leads out of it; delete the link, or unpack elsewhere")
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            with open(part, "wb") as file:
                for chunk in shelf.chunks(picture):
                    file.write(chunk)
            os.replace(part, target)
    found = len(list_source(folder))
    if images is not None and found != images:
        raise DownloadError(f"{folder}: expected {images} pictures, found {found}; empty the folder and unpack again")
    return found
