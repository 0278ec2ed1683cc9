"""Data sets by name: what the registry says of them, and having their archives here, verified. Archives are read in place.

The registry is `registry.toml`; a file of the same form (tables `[data.NAME]`) adds to it or replaces entries.
"""

from __future__ import annotations

import difflib
import logging
import os
import stat
import time
import tomllib
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import ConfigError, ImageError, printable
from ...runtime import progress
from ..images.sources import MAX_ARCHIVE_GB, ImageFile, Limits, Source, SourceReader, list_source
from .fetch import DownloadError, RetryPolicy, check_disk, checked_sha256, fetch
from .recorded_hash import record_sha256, recorded_sha256

log = logging.getLogger(__name__)

_REGISTRY_BYTES = 1 << 24
_DEEPEST_SETS = 20  # sets of sets

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
    """How many images it holds, if known."""
    licence: str = "not stated"
    """What its authors allow."""
    citation: str = ""
    """The publication."""
    sets: tuple[str, ...] = ()
    """Names of other entries, instead of a file."""
    request: str = ""
    """Where its authors hand it out on request, instead of a file."""
    benchmark: bool = False
    """Whether it is a benchmark: unpacked when it is downloaded, so that `--benchmark NAME` finds it."""

    def __post_init__(self) -> None:
        where = f"[data.{printable(self.name)}]"
        if sum(map(bool, (self.sets, self.file and self.urls, self.request))) != 1:
            raise ConfigError(f"{where}: expected either file and urls, or sets, or request")
        if self.file != Path(self.file).name or self.file in (".", "..") or not (self.file or "x").isprintable():
            raise ConfigError(f"{where}: file: expected a name without folders, got {self.file!r}")
        if self.file.endswith((".part", ".part.tag")):
            raise ConfigError(f"{where}: file: .part is the end of unfinished downloads, got {self.file!r}")
        for key in ("bytes", "images"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 10**18:
                raise ConfigError(f"{where}: {key}: expected 0 to 10^18, got {value}")
        try:
            object.__setattr__(self, "sha256", checked_sha256(self.sha256))  # in lower case
        except DownloadError as error:
            raise ConfigError(f"{where}: {error}") from error


def load_registry(extra: Path | None = None) -> dict[str, DataSet]:
    """All data sets by name.

    Args:
        extra: a TOML file with more of them.

    Raises:
        ConfigError: the file cannot be read, or an entry has an unknown key or lacks what it needs.
    """
    tables = tomllib.loads(files(__package__.rpartition(".")[0]).joinpath("registry.toml").read_text("utf-8"))["data"]
    if extra is not None:
        tables |= _tables(extra)
    return {name: _data_set(name, table) for name, table in tables.items()}


def _tables(extra: Path) -> dict[str, Any]:
    """The tables [data.NAME] of a user's file."""
    wanted = f"--registry {printable(extra)}: expected a TOML file with tables [data.NAME]"
    try:
        with open(os.open(extra, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            text = file.read(_REGISTRY_BYTES + 1) if regular else b""
        if not regular or len(text) > _REGISTRY_BYTES:
            raise ConfigError(f"{wanted}, got no regular file of at most {_REGISTRY_BYTES} bytes")
        tables = tomllib.loads(text.decode("utf-8-sig")).get("data", {})
    except ConfigError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{wanted} ({printable(error)})") from error
    if not isinstance(tables, dict):
        raise ConfigError(f"{wanted}, got data = {_shown(tables)}")
    return tables


def _data_set(name: str, table: Any) -> DataSet:
    where = f"[data.{printable(name)}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, got {_shown(table)}")
    kinds = {"bytes": int, "images": int, "urls": list, "sets": list, "benchmark": bool}
    known = {f.name for f in fields(DataSet)} - {"name"}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"{where}: unknown key {key!r}{f', did you mean {near[0]!r}?' if near else ''}")
        if not isinstance(value, kinds.get(key, str)) or isinstance(value, bool) != (kinds.get(key) is bool):
            raise ConfigError(f"{where}: {key}: expected {kinds.get(key, str).__name__}, got {_shown(value)}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{where}: {key}: expected a list of strings, got {_shown(value)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return DataSet(name, **values)


def _shown(value: Any) -> str:
    """A value of a registry, short."""
    text = repr(value)  # tomllib itself refuses what is too deep for this
    return text if len(text) <= 80 else f"{text[:80]}…"


def archives_of(name: str, registry: dict[str, DataSet]) -> list[DataSet]:
    """The entry of a name, or those that it joins, each once.

    Raises:
        ConfigError: there is no such name (the message lists those that there are), or sets join themselves.
    """
    found: dict[str, DataSet] = {}
    _collect(name, registry, found, set(), ())
    return list(found.values())


def _collect(
    name: str, registry: dict[str, DataSet], found: dict[str, DataSet], done: set[str], above: tuple[str, ...]
) -> None:
    if name in above or len(above) > _DEEPEST_SETS:
        raise ConfigError(
            f"{printable(name)}: no data set of this name can be joined by itself, or below {_DEEPEST_SETS} others ({' > '.join(map(printable, above))})"
        )
    if name not in registry:
        near = difflib.get_close_matches(name, registry, 1)
        raise ConfigError(
            f"{printable(name)}: no data set of this name{f', did you mean {near[0]}?' if near else ''} "
            f"(known: {', '.join(map(printable, sorted(registry)))}; --registry adds more)"
        )
    if name in done:  # its archives are there already: sets of sets of sets stay short
        return
    entry = registry[name]
    if not entry.sets:
        found[name] = entry
    for part in entry.sets:
        _collect(part, registry, found, done, (*above, name))
    done.add(name)


def download_dataset(
    name: str,
    registry: dict[str, DataSet],
    folder: Path = FOLDER,
    *,
    mirrors: Sequence[str] = (),
    patience: RetryPolicy | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> list[Path]:
    """The archives of a data set, fetched if they are not here, each verified and its images counted.

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
    for archive in archives:
        if archive.request:
            raise DownloadError(
                f"{printable(archive.name)}: its authors hand it out on request only, see {archive.request}; "
                f"then unpack it to {folder / archive.name}, where --benchmark {printable(archive.name)} finds it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, sum(_left(archive, folder) for archive in archives))
    paths = []
    for archive in archives:
        if not (folder / archive.file).exists():
            log.warning("fetching %s; licence: %s", archive.about or archive.name, archive.licence)
        urls = [*(_below(mirror, archive.file) for mirror in mirrors), *archive.urls]
        sha256 = archive.sha256 or recorded_sha256(folder / archive.file)
        path = fetch(urls, folder / archive.file, sha256=sha256, size=archive.bytes, patience=patience, sleep=sleep)
        _check_count(path, archive)
        if sha256 is None:
            record_sha256(path)
        paths.append(path)
    return paths


def _left(archive: DataSet, folder: Path) -> int:
    """Bytes that are still to come, as far as they are known."""
    if (folder / archive.file).exists():
        return 0
    part = folder / f"{archive.file}.part"
    return max(0, (archive.bytes or 0) - (part.lstat().st_size if os.path.lexists(part) else 0))


def _below(mirror: str, file: str) -> str:
    try:
        place = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
    except (RuntimeError, ValueError, OSError) as error:  # ~nobody, a NUL, a circle of links
        raise ConfigError(f"--mirror: expected https://, file:// or a path, got {printable(mirror)!r} ({error})") from error
    return f"{place.rstrip('/')}/{urllib.parse.quote(file)}"


def _check_count(path: Path, archive: DataSet) -> None:
    try:
        found = len(list_source(path, _limits_of(path)))
    except ImageError as error:
        raise DownloadError(f"{path} came whole but is no archive of images ({error}); delete it") from error
    if archive.images is not None and found != archive.images:
        raise DownloadError(f"{path}: expected {archive.images} images, found {found}; delete it and fetch it again")


def _limits_of(path: Path) -> Limits:
    """Archives of a registry are as large as they are: only the ratio to the compressed bytes is bounded."""
    return Limits(max_archive_gb=max(MAX_ARCHIVE_GB, 50 * path.stat().st_size / 1e9))


def source_of(given: str, registry: dict[str, DataSet], folder: Path, mirrors: Sequence[str] = ()) -> Source:
    """What `list_source` takes, for what the user typed: the archives of a data set (fetched now), or the same words.

    A file or folder of that name in the current folder goes before a data set.
    """
    return download_dataset(given, registry, folder, mirrors=mirrors) if _is_data_set(given, registry) else given


def missing_archives(given: Sequence[str | None], registry: dict[str, DataSet], folder: Path) -> list[Path]:
    """Archives that `source_of` would have to fetch."""
    names = [name for name in given if name is not None and _is_data_set(name, registry)]
    wanted = [folder / archive.file for name in names for archive in archives_of(name, registry)]
    return [path for path in wanted if not path.exists()]


def _is_data_set(given: str, registry: dict[str, DataSet]) -> bool:
    return given in registry and not Path(given).exists()


def extract(archive: Path, folder: Path, images: int | None = None) -> int:
    """Unpack the images of a zip or tar; returns how many there are. Those that are there whole are left alone.

    Names are those of `list_source`, which never lead out of the folder; an image appears under its name only when it is whole.

    Args:
        archive: a zip or tar.
        folder: where they go, made if need be.
        images: how many there must be.

    Raises:
        DownloadError: the disk is too small, a link in the folder leads out of it, or the number is not `images`.
        ImageError: the archive is damaged.
    """
    image_files = list_source(archive, _limits_of(archive))
    folder.mkdir(parents=True, exist_ok=True)
    root = folder.resolve()
    for image_file in image_files:
        _check_place(folder / image_file.name, image_file, root)
    missing = [image_file for image_file in image_files if not (folder / image_file.name).exists()]
    check_disk(folder, sum(image_file.size for image_file in missing))
    with SourceReader() as source_reader:
        for image_file in progress(missing, desc=f"unpack {archive.name}", unit="file"):
            target = folder / image_file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _check_place(target, image_file, root)
            part = target.with_name(target.name + ".part")
            if os.path.lexists(part) and not stat.S_ISREG(part.lstat().st_mode):
                raise DownloadError(f"{part}: expected a file that was being unpacked, got a link or a folder; move it away")
            part.unlink(missing_ok=True)  # of a run that was killed
            with open(part, "xb") as file:
                for chunk in source_reader.chunks(image_file):
                    file.write(chunk)
            os.replace(part, target)
    found = len(list_source(folder))
    if images is not None and found != images:
        raise DownloadError(f"{folder}: expected {images} images, found {found}; empty the folder and unpack again")
    return found


def _check_place(target: Path, image_file: ImageFile, root: Path) -> None:
    """Nothing is written outside, and no file is replaced: what has a name was whole when it got it, so another length is not ours."""
    if not target.resolve().is_relative_to(root):
        raise DownloadError(f"{target}: a link in {root} leads out of it; delete the link, or unpack elsewhere")
    if os.path.lexists(target) and not (target.is_file() and target.stat().st_size == image_file.size):
        raise DownloadError(
            f"{target}: is there and is not the archive's ({image_file.size} bytes); it is left alone: move it away, or unpack elsewhere"
        )
