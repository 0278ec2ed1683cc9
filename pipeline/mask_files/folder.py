"""The files with masks in a folder, one per image: listed once, matched by the image's name, limited in size, compared with their digest."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ...errors import ConfigError, SamdiffError, printable
from ..images.archives import reason_of
from ..images.listing import walk
from ..images.unchanged import changed

_MOST_BYTES = 128 * 2**20  # of one file; JSON takes some ten times as much while it is parsed


class MaskFiles:
    """The files with a suffix in a folder and its subfolders.

    Args:
        folder: that is searched.
        suffix: `.json` or `.png`.

    Raises:
        ConfigError: a subfolder cannot be read.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix
        self._paths = {path.relative_to(folder).as_posix(): path for path in sorted(_files(folder, suffix))}
        self._composed = {composed(inside): inside for inside in self._paths}
        self._digests: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def entries(self) -> Sequence[str]:
        """All files, relative to the folder."""
        return list(self._paths)

    def digest(self) -> str:
        """SHA-256 of all names and contents, hexadecimal."""
        total = hashlib.sha256()
        for inside, path in self._paths.items():
            total.update(f"{inside}\0".encode("utf-8", "surrogateescape"))
            if inside not in self._digests:  # once: what a run records is what it reads
                self._digests[inside] = _digest(path)
            total.update(self._digests[inside])
        return total.hexdigest()

    def find(self, name: str) -> tuple[str | None, str]:
        """The file of an image, by its path or else by its stem, relative to the folder; None, and the name that was expected.

        Names are equal if their NFC forms are: macOS writes decomposed letters, other systems composed ones.
        """
        plain = PurePosixPath(name.replace("\\", "/"))
        if not plain.name:
            return None, f"{name}{self.suffix}"
        names = (plain.with_suffix(self.suffix).as_posix(), f"{plain.stem}{self.suffix}")
        same = [self._composed.get(composed(inside)) for inside in names]
        own = [inside if inside in self._paths else other for inside, other in zip(names, same, strict=True)]
        return next(filter(None, own), None), PurePosixPath(names[0]).name

    def content(self, inside: str) -> bytes:
        """The bytes of a file.

        Raises:
            SamdiffError: it cannot be read, or is too long.
            ChangedError: it is not the file that `digest` read.
        """
        path, before = self._paths[inside], self._digests.get(inside)
        try:
            data = _content(path)
        except OSError as error:
            if before not in (None, _unreadable(error)):
                raise changed(str(path), error.strerror or str(error)) from error
            raise SamdiffError(f"cannot be read ({error.strerror or error})") from error
        if before not in (None, hashlib.sha256(data).digest()):
            raise changed(str(path), "its bytes differ from those of the scan")
        return data

    def start(self, inside: str, length: int) -> bytes:
        """The first bytes of a file; none if it cannot be read."""
        try:
            with _open(self._paths[inside]) as file:
                return file.read(length)
        except (OSError, SamdiffError):  # `content` reports the reason
            return b""


def _content(path: Path) -> bytes:
    """The bytes of a regular file of limited length, read once and without blocking.

    Raises:
        SamdiffError: it is too long, or not a regular file.
    """
    with _open(path) as file:
        status = os.fstat(file.fileno())
        data = b"" if status.st_size > _MOST_BYTES else file.read(_MOST_BYTES + 1)
    if status.st_size > _MOST_BYTES or len(data) > _MOST_BYTES:
        raise SamdiffError(f"expected at most {_MOST_BYTES} bytes, got {max(status.st_size, len(data))}")
    return data


def _open(path: Path) -> BinaryIO:
    """Open a regular file without blocking. SamdiffError if it is not one."""
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise SamdiffError("expected a regular file")
    return file


def _digest(path: Path) -> bytes:
    """SHA-256 of the content; of the reason if the file is too long or cannot be read."""
    try:
        return hashlib.sha256(_content(path)).digest()
    except SamdiffError as error:
        return hashlib.sha256(f"refused: {error}".encode()).digest()
    except OSError as error:
        return _unreadable(error)


def _unreadable(error: OSError) -> bytes:
    return hashlib.sha256(f"unreadable: {error.strerror}".encode()).digest()


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), in which names are compared: macOS writes decomposed letters."""
    return unicodedata.normalize("NFC", name)


def _files(folder: Path, suffix: str) -> Iterator[Path]:
    """Files with a suffix in a folder and below, in linked folders too, each of them once.

    Raises:
        ConfigError: a folder cannot be read.
    """
    for entry in walk(folder):
        if entry.error is not None and not isinstance(entry.error, FileNotFoundError | NotADirectoryError):
            raise ConfigError(
                f"--import-masks {printable(entry.path)}: a folder that cannot be read ({reason_of(entry.error)}), so masks may be missing; "
                "make it readable, or move it away"
            )
        if not entry.is_folder and entry.path.suffix == suffix and entry.path.is_file():
            yield entry.path
