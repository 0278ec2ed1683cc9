"""Where pictures come from: a folder, one file, a zip or tar archive (read in place), or the `samples`.

Listing finds pictures by name and opens none; whatever is wrong with one shows when it is read. Reading gives bytes and never
extracts anything, so an archive's names cannot lead out of a folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import ImageError
from ..runtime import user_path
from .samples import sample_files

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif")
"""File names that count as pictures, in any case; what a file really is decides its content."""

Source = str | Path | Sequence[str | Path]
"""What `list_source` takes."""

_CHUNK = 1 << 20

_READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
)


@dataclass(frozen=True)
class Picture:
    """One picture of a source: its name and where its bytes are. Small and picklable."""

    name: str
    """As users see it, unique in the source: relative to the folder or inside the archive, with `/`; valid UTF-8, no `..`."""
    path: str
    """The file, or the archive that holds it."""
    size: int = 0
    """Bytes, as the folder or the archive states them."""
    member: int | None = None
    """In a zip: its index. In a tar: where its bytes start in the uncompressed archive. None: a file of its own."""
    trouble: str = ""
    """Why it cannot be read, if that is known from the listing."""


class Shelf(AbstractContextManager["Shelf"]):
    """Reads pictures' bytes and keeps archives open in between. Safe for threads."""

    def __init__(self) -> None:
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._archives: dict[str, Any] = {}

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, picture: Picture, limit: int) -> bytes:
        """All bytes of a picture.

        Args:
            picture: from `list_source`.
            limit: most bytes to read, so that a decompression bomb stops there.

        Raises:
            ImageError: it cannot be read, or is longer than `limit`.
        """
        parts, length = [], 0
        for part in self.chunks(picture):
            parts.append(part)
            length += len(part)
            if length > limit:
                raise ImageError(f"more than {limit >> 20} MiB in the file, too much for a picture; see --max-megapixels")
        return b"".join(parts)

    def chunks(self, picture: Picture) -> Iterator[bytes]:
        """The same bytes in pieces of at most 1 MiB, without a limit."""
        if picture.trouble:
            raise ImageError(picture.trouble)
        try:
            if picture.member is None:
                yield from _file_chunks(picture.path)
            else:
                yield from self._member_chunks(picture, picture.member)
        except _READ_ERRORS as error:
            raise ImageError(f"cannot be read: {_reason(error)}") from error

    def _member_chunks(self, picture: Picture, place: int) -> Iterator[bytes]:
        with self._lock:
            if picture.path not in self._archives:
                self._archives[picture.path] = self._stack.enter_context(_open_archive(picture.path))
            archive = self._archives[picture.path]
        if isinstance(archive, zipfile.ZipFile):  # it has a lock of its own
            with archive.open(archive.infolist()[place]) as member:
                yield from iter(lambda: member.read(_CHUNK), b"")
            return
        for start in range(0, picture.size, _CHUNK):
            with self._lock:
                archive.seek(place + start)
                part = archive.read(min(_CHUNK, picture.size - start))
            if len(part) < min(_CHUNK, picture.size - start):
                raise EOFError("the archive ends in the middle of it")
            yield part


def _file_chunks(path: str) -> Iterator[bytes]:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError("not a file: a folder or a device has this name")
    with open(path, "rb") as file:
        yield from iter(lambda: file.read(_CHUNK), b"")


def hash_pictures(pictures: Iterable[Picture]) -> Iterator[str]:
    """SHA-256 (hex) of each picture's bytes, in order; of its name and nothing else if it cannot be read."""
    with Shelf() as shelf:
        for picture in pictures:
            digest = hashlib.sha256()
            try:
                for part in shelf.chunks(picture):
                    digest.update(part)
            except ImageError:
                digest = hashlib.sha256(b"unreadable\0" + picture.name.encode())
            yield digest.hexdigest()


def list_source(source: Source) -> list[Picture]:
    """All pictures of a source, sorted by name (by code points, so everywhere the same).

    Args:
        source: a folder (searched with its subfolders), a picture, a zip or tar archive, the word `samples`, or several of these.

    Raises:
        ImageError: the source does not exist, is none of these, or holds no picture.
    """
    if not isinstance(source, str | Path):
        together = [picture for one in source for picture in list_source(one)]
        return _unique(sorted(together, key=lambda picture: picture.name))
    if source == "samples":
        return [Picture(path.name, str(path), path.stat().st_size) for path in sample_files()]
    path = user_path(source)
    if path.is_dir():
        found = list(_walk(path))
    elif not path.is_file():
        raise ImageError(
            f"{source}: no such file or folder; expected a folder, a picture, a zip, a tar, the word samples, or a data set that `samdiff download` lists"
        )
    elif path.suffix.lower() in SUFFIXES:
        found = [Picture(_printable(path.name), str(path), path.stat().st_size)]
    else:
        found = _archive_members(path)
    kept = [picture for picture in found if _is_wanted(picture.name) or picture.trouble]
    ignored = Counter(PurePosixPath(picture.name).suffix.lower() or "none" for picture in found) - Counter(
        PurePosixPath(picture.name).suffix.lower() or "none" for picture in kept
    )
    if not kept:
        others = f" (found: {', '.join(f'{n} {suffix}' for suffix, n in ignored.most_common(4))})" if ignored else ""
        raise ImageError(f"{source}: no pictures; looked for {', '.join(SUFFIXES)} in it and its subfolders{others}")
    if ignored:
        log.info("%s: ignored files that are no pictures by name: %s", source, dict(ignored))
    return _unique(sorted(kept, key=lambda picture: picture.name))


def _walk(root: Path) -> Iterator[Picture]:
    """Files below a folder, and folders and dangling links that are named like pictures. Links to folders are followed once."""
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        for name in [*files, *(folder for folder in folders if Path(folder).suffix.lower() in SUFFIXES)]:
            path = Path(here, name)
            try:
                size, trouble = path.stat().st_size, ""
            except OSError as error:
                trouble = f"cannot be read: {'a link to nowhere' if path.is_symlink() else _reason(error)}"
                size = 0
            yield Picture(
                _printable(path.relative_to(root).as_posix()), str(path), size, trouble=trouble if _is_wanted(name) else ""
            )


def _archive_members(path: Path) -> list[Picture]:
    with path.open("rb") as file:
        magic = file.read(4)
    try:
        if magic[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                members = enumerate(archive.infolist())
                return [Picture(_inside(m.filename), str(path), m.file_size, k) for k, m in members if not m.is_dir()]
        return list(_tar_members(path))
    except _READ_ERRORS as error:
        raise ImageError(
            f"{path}: expected a picture ({', '.join(SUFFIXES)}), a zip or a tar archive; cannot be opened as one: {_reason(error)}"
        ) from error


def _tar_members(path: Path) -> Iterator[Picture]:
    places: dict[str, tuple[int, int]] = {}
    with tarfile.open(path) as archive:
        try:
            for member in archive:
                name = _inside(member.name)
                target = member.linkname if member.islnk() else os.path.join(os.path.dirname(member.name), member.linkname)
                if member.isreg() and not member.issparse():
                    places[name] = (member.offset_data, member.size)
                elif member.islnk() or member.issym():
                    places[name] = places.get(_inside(os.path.normpath(target)), (0, -1))
                elif not member.isdir():
                    places[name] = (0, -1)
                if name in places:
                    start, size = places[name]
                    trouble = (
                        ""
                        if size >= 0 or not _is_wanted(name)
                        else "no plain file in the archive (a link to nowhere, a device)"
                    )
                    yield Picture(name, str(path), max(size, 0), start, trouble)
        except _READ_ERRORS as error:
            if not places:
                raise
            yield Picture(f"{path.name} (rest)", str(path), trouble=f"the archive is cut off or damaged: {_reason(error)}")


def _open_archive(path: str) -> Any:
    """A ZipFile, or the uncompressed bytes of a tar: `seek` and `read`."""
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic[:2] == b"PK":
        return zipfile.ZipFile(path)
    import bz2
    import gzip
    import lzma

    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
    opener = next((opener for head, opener in openers.items() if magic.startswith(head)), open)
    handle: IO[bytes] = opener(path, "rb")
    return handle


def _is_wanted(name: str) -> bool:
    """Named like a picture, and not hidden, not macOS' resource forks."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _printable(name: str) -> str:
    """A file name as valid UTF-8; bytes that are none appear as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _inside(name: str) -> str:
    """An archive member's name without drive, root and `..`."""
    parts = [part for part in _printable(name.replace("\\", "/")).split("/") if part not in ("", ".", "..")]
    return "/".join(part for k, part in enumerate(parts) if k or not part.endswith(":"))


def _unique(pictures: list[Picture]) -> list[Picture]:
    """Archives may hold a name twice: the second becomes `name (2)`."""
    seen: Counter[str] = Counter()
    out = []
    for picture in pictures:
        seen[picture.name] += 1
        n = seen[picture.name]
        out.append(replace(picture, name=f"{picture.name} ({n})") if n > 1 else picture)
    return out


def _reason(error: BaseException) -> str:
    """An exception in a few words, without the path that the caller names anyway."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
