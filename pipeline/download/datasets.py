"""Data sets by name: their entries in the registry; downloads and verifies their archives, which are read in place.

The registry is `registry.toml`; a file of the same form (tables `[data.NAME]`) adds to it or replaces entries.
"""

from __future__ import annotations

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

from ...errors import ConfigError, ImageError, nearest, printable
from ...runtime import progress
from ..images.sources import MAX_ARCHIVE_GB, ImageFile, Limits, Source, SourceReader, list_source
from .fetch import DownloadError, RetryPolicy, check_disk, checked_sha256, fetch
from .recorded_hash import record_sha256, recorded_sha256

log = logging.getLogger(__name__)

_REGISTRY_BYTES = 1 << 24
_DEEPEST_SETS = 20  # bound on the nesting of sets

FOLDER = Path("data") / "downloads"
"""Default folder of the archives, relative to the working directory."""


@dataclass(frozen=True)
class DataSet:
    """One archive of the registry, or (`sets`) a group of entries."""

    name: str
    """Name on the command line."""
    about: str = ""
    """Description in one line."""
    file: str = ""
    """File name of the archive in the folder of downloads."""
    urls: tuple[str, ...] = ()
    """Addresses of the same content."""
    bytes: int | None = None
    """Length of the archive; None: unknown."""
    sha256: str | None = None
    """Hash of the archive, 64 hexadecimal digits; None: unknown."""
    images: int | None = None
    """Number of images in the archive; None: unknown."""
    licence: str = "not stated"
    """Terms of use."""
    citation: str = ""
    """The publication."""
    sets: tuple[str, ...] = ()
    """Names of other entries, instead of a file."""
    request: str = ""
    """Address at which the authors provide the data set on request, instead of a file."""
    benchmark: bool = False
    """Whether it is a benchmark, which is unpacked after the download, so that `--benchmark NAME` finds it."""

    def __post_init__(self) -> None:
        where = f"[data.{printable(self.name)}]"
        if sum(map(bool, (self.sets, self.file and self.urls, self.request))) != 1:
            raise ConfigError(f"{where}: expected either file and urls, or sets, or request")
        if self.file != Path(self.file).name or self.file in (".", "..") or not (self.file or "x").isprintable():
            raise ConfigError(f"{where}: file: expected a name without folders, got {self.file!r}")
        if self.file.endswith((".part", ".part.tag")):
            raise ConfigError(f"{where}: file: expected a name without .part, which marks partial files, got {self.file!r}")
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
        extra: a TOML file with further entries, which replace those of the same name.

    Raises:
        ConfigError: the file cannot be read, or an entry has an unknown key, an invalid value, or lacks a required key.
    """
    tables = tomllib.loads(files(__package__.rpartition(".")[0]).joinpath("registry.toml").read_text("utf-8"))["data"]
    if extra is not None:
        tables |= _tables(extra)
    return {name: _data_set(name, table) for name, table in tables.items()}


def _tables(extra: Path) -> dict[str, object]:
    """The tables [data.NAME] of a user's file."""
    expected = f"--registry {printable(extra)}: expected a TOML file with tables [data.NAME]"
    try:
        with open(os.open(extra, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            text = file.read(_REGISTRY_BYTES + 1) if regular else b""
        if not regular or len(text) > _REGISTRY_BYTES:
            raise ConfigError(f"{expected} as a regular file of at most {_REGISTRY_BYTES} bytes")
        tables = tomllib.loads(text.decode("utf-8-sig")).get("data", {})
    except ConfigError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{expected} ({printable(error)})") from error
    if not isinstance(tables, dict):
        raise ConfigError(f"{expected}, got data = {_shown(tables)}")
    return tables


def _data_set(name: str, table: object) -> DataSet:
    where = f"[data.{printable(name)}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, got {_shown(table)}")
    kinds = {"bytes": int, "images": int, "urls": list, "sets": list, "benchmark": bool}
    known = {f.name for f in fields(DataSet)} - {"name"}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, sorted(known))}")
        if not isinstance(value, kinds.get(key, str)) or isinstance(value, bool) != (kinds.get(key) is bool):
            raise ConfigError(f"{where}: {key}: expected {kinds.get(key, str).__name__}, got {_shown(value)}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{where}: {key}: expected a list of strings, got {_shown(value)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return DataSet(name, **values)


def _shown(value: object) -> str:
    """A value of a registry, cut after 80 characters."""
    text = repr(value)  # tomllib limits the nesting, so that repr does not raise RecursionError
    return text if len(text) <= 80 else f"{text[:80]}…"


def archives_of(name: str, registry: dict[str, DataSet]) -> list[DataSet]:
    """The entry of a name, or the entries of its group, each once.

    Raises:
        ConfigError: an unknown name (the message lists the known ones), or a group that contains itself.
    """
    archives: dict[str, DataSet] = {}
    done: set[str] = set()

    def collect(name: str, above: tuple[str, ...]) -> None:
        if name in above or len(above) > _DEEPEST_SETS:
            raise ConfigError(
                f"{printable(name)}: a group contains itself, or is nested more than {_DEEPEST_SETS} deep ({' > '.join(map(printable, above))})"
            )
        if name not in registry:
            raise ConfigError(
                f"{printable(name)}: no data set of this name{nearest(name, list(registry))} "
                f"(known: {', '.join(map(printable, sorted(registry)))}; --registry adds more)"
            )
        if name in done:  # each group is visited once, so that nested groups take linear time
            return
        entry = registry[name]
        if not entry.sets:
            archives[name] = entry
        for member in entry.sets:
            collect(member, (*above, name))
        done.add(name)

    collect(name, ())
    return list(archives.values())


def download_dataset(
    name: str,
    registry: dict[str, DataSet],
    folder: Path = FOLDER,
    *,
    mirrors: Sequence[str] = (),
    retry: RetryPolicy | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Path]:
    """The paths of a data set's archives, which are downloaded if absent; each is verified and its images are counted.

    Args:
        name: in the registry.
        registry: from `load_registry`.
        folder: of the archives; created if necessary.
        mirrors: folders (`https://`, `file://`, or a path) with files of the same names; tried first.
        retry: number of attempts and timeouts; None: the defaults.
        sleep: called with seconds between attempts; tests replace it.

    Raises:
        ConfigError: an unknown name, or an invalid mirror.
        DownloadError: an archive could not be downloaded, is not the expected one, or does not fit on the disk.
    """
    archives = archives_of(name, registry)
    for archive in archives:
        if archive.request:
            raise DownloadError(
                f"{printable(archive.name)}: its authors provide it on request only, see {archive.request}; "
                f"then unpack it to {folder / archive.name}, where --benchmark {printable(archive.name)} finds it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, sum(_left(archive, folder) for archive in archives))
    paths = []
    for archive in archives:
        if not (folder / archive.file).exists():
            log.warning("downloading %s; licence: %s", archive.about or archive.name, archive.licence)
        urls = [*(_below(mirror, archive.file) for mirror in mirrors), *archive.urls]
        sha256 = archive.sha256 or recorded_sha256(folder / archive.file)
        path = fetch(urls, folder / archive.file, sha256=sha256, size=archive.bytes, retry=retry, sleep=sleep)
        _check_count(path, archive)
        if sha256 is None:
            record_sha256(path)
        paths.append(path)
    return paths


def _left(archive: DataSet, folder: Path) -> int:
    """Bytes that are still to be downloaded; 0 where the length is unknown."""
    if (folder / archive.file).exists():
        return 0
    part = folder / f"{archive.file}.part"
    return max(0, (archive.bytes or 0) - (part.lstat().st_size if os.path.lexists(part) else 0))


def _below(mirror: str, file: str) -> str:
    """The address of a file in a mirror's folder."""
    try:
        place = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
    except (RuntimeError, ValueError, OSError) as error:  # an unknown ~user, a NUL, a loop of links
        raise ConfigError(f"--mirror: expected https://, file:// or a path, got {printable(mirror)!r} ({error})") from error
    return f"{place.rstrip('/')}/{urllib.parse.quote(file)}"


def _check_count(path: Path, archive: DataSet) -> None:
    try:
        count = len(list_source(path, _limits_of(path)))
    except ImageError as error:
        raise DownloadError(f"{path}: the download is complete but is no archive of images ({error}); delete it") from error
    if archive.images is not None and count != archive.images:
        raise DownloadError(f"{path}: expected {archive.images} images, got {count}; delete it and download it again")


def _limits_of(path: Path) -> Limits:
    """Archives of the registry may be large: only the ratio of unpacked to compressed bytes is limited."""
    return Limits(max_archive_gb=max(MAX_ARCHIVE_GB, 50 * path.stat().st_size / 1e9))


def source_of(given: str, registry: dict[str, DataSet], folder: Path, mirrors: Sequence[str] = ()) -> Source:
    """The input of `list_source` for a command line argument: the archives of a data set, downloaded if absent, or the argument itself.

    A file or folder of the same name in the working directory takes precedence over a data set.
    """
    return download_dataset(given, registry, folder, mirrors=mirrors) if _is_data_set(given, registry) else given


def missing_archives(given: Sequence[str | None], registry: dict[str, DataSet], folder: Path) -> list[Path]:
    """Paths of the archives that `source_of` would have to download."""
    names = [name for name in given if name is not None and _is_data_set(name, registry)]
    paths = [folder / archive.file for name in names for archive in archives_of(name, registry)]
    return [path for path in paths if not path.exists()]


def _is_data_set(given: str, registry: dict[str, DataSet]) -> bool:
    return given in registry and not Path(given).exists()


def extract(archive: Path, folder: Path, images: int | None = None) -> int:
    """Unpack the images of a zip or tar archive; returns their number. Complete files that exist already are kept.

    File names are those of `list_source`, which never lead out of the folder. An image gets its name only when it is complete.

    Args:
        archive: a zip or tar archive.
        folder: for the images; created if necessary.
        images: expected number of images; None: any.

    Raises:
        DownloadError: too little disk space, a link that leads out of the folder, or a number other than `images`.
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
                raise DownloadError(f"{part}: expected a partly unpacked file, got a link or a folder; move it away")
            part.unlink(missing_ok=True)  # left by an interrupted run
            with open(part, "xb") as file:
                for chunk in source_reader.chunks(image_file):
                    file.write(chunk)
            os.replace(part, target)
    count = len(list_source(folder))
    if images is not None and count != images:
        raise DownloadError(f"{folder}: expected {images} images, got {count}; empty the folder and unpack again")
    return count


def _check_place(target: Path, image_file: ImageFile, root: Path) -> None:
    """Write nothing outside the folder, and replace no file: ours have the full length, so one of another length is the user's."""
    if not target.resolve().is_relative_to(root):
        raise DownloadError(f"{target}: a link in {root} leads out of it; delete the link, or unpack elsewhere")
    if os.path.lexists(target) and not (target.is_file() and target.stat().st_size == image_file.size):
        raise DownloadError(
            f"{target}: exists and differs from the archive's file ({image_file.size} bytes); it is left unchanged: "
            "move it away, or unpack elsewhere"
        )
