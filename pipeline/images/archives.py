"""Untrusted zip and tar archives: what they contain, and the bytes of one member. Nothing is unpacked to a disk.

Python's modules trust the numbers in an archive. Here each is checked against a bound first: headers, sizes, positions, member count.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import pairwise
from typing import IO, cast

from ...errors import ImageError, printable
from ..storage.regular import open_regular

CHUNK = 1 << 20
MAX_MEMBERS = 2_000_000
"""Bound on the files in one archive; ImageNet has 1.3 million."""
_MAX_HEADER = 1 << 20  # bytes of one tar header with its long names and attributes
_MAX_DIRECTORY = 256 * MAX_MEMBERS  # bytes of a zip's table of contents
_NOT_REGULAR = "not a regular file in the archive (a dangling link or a device)"


@dataclass(frozen=True)
class Member:
    """One file in an archive."""

    name: str
    """Valid UTF-8 without drive, root, `..` and NUL."""
    size: int
    """Bytes, as recorded in the archive."""
    place: int
    """In a zip: its index. In a tar: the offset of its bytes in the uncompressed archive. -1: no file, but the damaged rest of a tar."""
    problem: str = ""
    """Why it cannot be read, as far as the listing shows; empty: no problem is known."""


def list_members(path: str, max_bytes: int) -> list[Member]:
    """The files in a zip or tar archive, in its order.

    Args:
        path: of the archive.
        max_bytes: bound on the unpacked size of a compressed tar, which has to be unpacked to be listed.

    Raises:
        ImageError: not a zip or tar archive, or too damaged to be listed.
    """
    try:
        with open_regular(path) as file:
            head = _head(file)
            if head.startswith(b"PK"):
                return _zip_members(Metered(file, _MAX_DIRECTORY))
            unpacked = _unpacked(file, head)
            metered = Metered(unpacked, _MAX_HEADER, sys.maxsize if unpacked is file else max_bytes)
            return list(_tar_members(metered, os.path.basename(path)))
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and tarfile raise exceptions of any type on damaged archives
        raise ImageError(f"cannot be opened as a zip or tar: {reason_of(error)}") from error


class ArchiveReader:
    """An open archive. Thread-safe."""

    def __init__(self, path: str) -> None:
        """
        Args:
            path: of the archive.

        Raises:
            Exception: of any type, if it cannot be opened.
        """
        self._lock = threading.Lock()
        self._file = open_regular(path)
        try:
            head = _head(self._file)
            self._zip = zipfile.ZipFile(cast(IO[bytes], Metered(self._file, _MAX_DIRECTORY))) if head[:2] == b"PK" else None
            self._tar = _unpacked(self._file, head)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def chunks(self, place: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a `Member`, at most 1 MiB at a time. A damaged archive raises exceptions of any type."""
        if self._zip is not None:  # zipfile has its own lock
            with self._zip.open(self._zip.infolist()[place]) as member:
                yield from iter(lambda: member.read(CHUNK), b"")
            return
        for start in range(0, size, CHUNK):
            with self._lock:
                self._tar.seek(place + start)
                part = self._tar.read(min(CHUNK, size - start))
            if len(part) < min(CHUNK, size - start):
                raise EOFError("the archive ends within this file")
            yield part


def unpacked_in_order(path: str, places: Sequence[tuple[int, int]]) -> int:
    """Bytes that have to be unpacked to read members in a given order; 0 for archives with random access.

    Args:
        path: of the archive.
        places: (place, size) of each member, in the order of reading. Seeking backwards unpacks from the start.

    Raises:
        OSError: it cannot be opened.
    """
    with open_regular(path) as file:
        head = _head(file)
        if head[:2] == b"PK" or _unpacked(file, head) is file:
            return 0
    total = at = 0
    for place, size in places:
        total += place + size - (at if place >= at else 0)
        at = place + size
    return total


def _zip_members(file: Metered) -> list[Member]:
    try:
        with zipfile.ZipFile(cast(IO[bytes], file)) as archive:
            infos = archive.infolist()
    except UnicodeDecodeError as error:
        raise ImageError(f"a file name in it is marked as UTF-8 but is not ({error.object[:60]!r}); pack it again") from error
    if len(infos) > MAX_MEMBERS:
        raise ImageError(_too_many())
    shared = _overlapping(infos)
    return [
        Member(_inside(info.filename), info.file_size, place=index, problem=_zip_problem(info, index in shared))
        for index, info in enumerate(infos)
        if not info.is_dir()
    ]


def _zip_problem(info: zipfile.ZipInfo, shared: bool) -> str:
    if shared:
        return "shares its bytes with another file in the archive, as in a zip bomb"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python unpacks others without a memory bound
        return "compressed by another method than deflate; pack it again"
    return ""


def _overlapping(infos: Sequence[zipfile.ZipInfo]) -> set[int]:
    """Indices of members whose bytes overlap those of the next one; a local header has at least 30 bytes."""
    order = sorted(range(len(infos)), key=lambda index: infos[index].header_offset)
    return {
        index
        for index, after in pairwise(order)
        if infos[index].header_offset + 30 + infos[index].compress_size > infos[after].header_offset
    }


def _tar_members(file: Metered, archive_name: str) -> Iterator[Member]:
    places: dict[str, tuple[int, int]] = {}
    count, end = 0, -1
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members = []  # tarfile would keep all headers in memory
                count += 1
                if count > MAX_MEMBERS:
                    raise ImageError(_too_many())
                if member.offset <= end or member.size < 0:  # a negative size would loop
                    raise tarfile.ReadError("a header with an impossible size")
                end = member.offset
                name = _inside(member.name)
                if member.isdir():
                    continue
                places[name] = _place_of(member, places)
                start, size = places[name]
                yield Member(name, max(size, 0), place=start, problem="" if size >= 0 else _NOT_REGULAR)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - as in list_members; the files before the damage are kept
        if not count:
            raise
        problem = f"the archive is truncated or damaged: {reason_of(error)}"
        yield Member(f"{valid_utf8(archive_name)} (rest)", 0, place=-1, problem=problem)


def _place_of(member: tarfile.TarInfo, places: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """(start, size) of a file, or of the file that a link in the archive points to; size -1 for anything else."""
    if member.isreg() and not member.issparse():
        return member.offset_data, member.size
    if member.islnk() or member.issym():
        target = member.linkname if member.islnk() else os.path.join(os.path.dirname(member.name), member.linkname)
        return places.get(_inside(os.path.normpath(target)), (0, -1))
    return 0, -1


class Metered:
    """A file for `zipfile` and `tarfile` with bounds on reads and positions, which these take from the archive unchecked."""

    def __init__(self, file: IO[bytes] | BufferedIOBase, at_once: int, most: int = sys.maxsize) -> None:
        """
        Args:
            file: the archive's bytes; a tar's uncompressed.
            at_once: bound on the bytes of one read: headers and tables of contents.
            most: last valid position.
        """
        self._file, self._at_once, self._most = file, at_once, most

    def read(self, size: int = -1) -> bytes:
        """Read from the current position; OSError for more bytes than a header can have."""
        if size > self._at_once:
            raise OSError(errno.EFBIG, f"a header of {size} bytes")
        data = self._file.read(size if size >= 0 else self._at_once + 1)
        if len(data) > self._at_once:
            raise OSError(errno.EFBIG, f"a header of more than {self._at_once} bytes")
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        """Move to a position; ImageError beyond the bound, before anything is unpacked."""
        if place > self._most:
            raise ImageError(f"unpacks to more than {self._most / 1e9:g} GB; raise --max-archive-gb to use it, or unpack it")
        return self._file.seek(place, whence)

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The current position, in bytes."""
        return self._file.tell()


def _head(file: IO[bytes]) -> bytes:
    """The first 6 bytes, which identify the type of archive."""
    head = file.read(6)
    file.seek(0)
    return head


def _unpacked(file: IO[bytes], head: bytes) -> IO[bytes] | BufferedIOBase:
    """The uncompressed bytes of a tar; `file` itself if it is not compressed."""
    import bz2
    import gzip
    import lzma

    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if head.startswith(b"\xfd7zXZ\x00") else file


def valid_utf8(name: str) -> str:
    """A name as valid UTF-8 without NUL; invalid bytes appear as \\xNN."""
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates, which do not come from a file system
        raw = name.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _inside(name: str) -> str:
    """The name of a member without drive, root and `..`."""
    parts = [part for part in valid_utf8(name.replace("\\", "/")).split("/") if part not in ("", ".", "..")]
    return "/".join(part for k, part in enumerate(parts) if k or not part.endswith(":"))


def _too_many() -> str:
    return f"holds more than {MAX_MEMBERS} files; split it, or give a folder"


def reason_of(error: BaseException) -> str:
    """An exception as short printable text, without the path, which the caller adds."""
    if isinstance(error, UnicodeDecodeError):
        return "a name in it is not valid text"
    if isinstance(error, struct.error | IndexError | KeyError):
        return f"damaged ({printable(error)})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return printable(text)[:300] or type(error).__name__
