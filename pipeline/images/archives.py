"""Zip and tar archives of strangers: what is in them, and the bytes of one member. Nothing is ever unpacked to a disk.

Python's modules trust an archive's numbers. Here each is held against a bound first: headers, sizes, positions, the number of members.
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
from itertools import pairwise
from typing import IO, Any, cast

from ...errors import ImageError, printable
from ..storage.regular import open_regular

CHUNK = 1 << 20
MAX_MEMBERS = 2_000_000
"""Of one archive; ImageNet has 1.3 million files."""
_MAX_HEADER = 1 << 20  # bytes of one tar header with its long names and attributes
_MAX_DIRECTORY = 256 * MAX_MEMBERS  # bytes of a zip's table of contents
_LONE = "no plain file in the archive (a link to nowhere, a device)"


@dataclass(frozen=True)
class Member:
    """One file in an archive."""

    name: str
    """Valid UTF-8 without drive, root, `..` and NUL."""
    size: int
    """Bytes, as the archive states them."""
    place: int
    """In a zip: its index. In a tar: where its bytes start in the uncompressed archive. -1: no file, but what is lost of a tar."""
    trouble: str = ""
    """Why it cannot be read, if that is known from the listing."""


def list_members(path: str, max_bytes: int) -> list[Member]:
    """The files in a zip or tar, in its order.

    Args:
        path: of the archive.
        max_bytes: most bytes that a compressed tar may unpack to; listing it means unpacking it.

    Raises:
        ImageError: it is no archive, or so damaged that nothing can be listed.
    """
    try:
        with open_regular(path) as file:
            head = _head(file)
            if head[:2] == b"PK":
                return _zip_members(Metered(file, _MAX_DIRECTORY))
            unpacked = _unpacked(file, head)
            metered = Metered(unpacked, _MAX_HEADER, sys.maxsize if unpacked is file else max_bytes)
            return list(_tar_members(metered, os.path.basename(path)))
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and tarfile raise whatever comes on damaged archives
        raise ImageError(f"cannot be opened as a zip or tar: {reason_of(error)}") from error


class ArchiveReader:
    """An open archive. Safe for threads."""

    def __init__(self, path: str) -> None:
        """
        Args:
            path: of the archive.

        Raises:
            Exception: of any kind, if it cannot be opened.
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
        """The bytes of a `Member`, at most 1 MiB at a time; exceptions of any kind where the archive is damaged."""
        if self._zip is not None:  # it has a lock of its own
            with self._zip.open(self._zip.infolist()[place]) as member:
                yield from iter(lambda: member.read(CHUNK), b"")
            return
        for start in range(0, size, CHUNK):
            with self._lock:
                self._tar.seek(place + start)
                part = self._tar.read(min(CHUNK, size - start))
            if len(part) < min(CHUNK, size - start):
                raise EOFError("the archive ends in the middle of it")
            yield part


def unpacked_in_order(path: str, places: Sequence[tuple[int, int]]) -> int:
    """Bytes that have to be unpacked to read members one after the other; 0 for archives in which one can jump.

    Args:
        path: of the archive.
        places: (place, size) of each member, in the order of reading. To go back means to begin anew.

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
        raise ImageError(f"a name in it is said to be UTF-8 and is not ({error.object[:60]!r}); pack it again") from error
    if len(infos) > MAX_MEMBERS:
        raise ImageError(_too_many())
    shared = _overlapping(infos)
    return [
        Member(_inside(info.filename), info.file_size, index, _zip_trouble(info, index in shared))
        for index, info in enumerate(infos)
        if not info.is_dir()
    ]


def _zip_trouble(info: zipfile.ZipInfo, shared: bool) -> str:
    if shared:
        return "shares its bytes with another file in the archive, as archives do that are made to be endless"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python unpacks others without a bound on memory
        return "compressed in the archive by another method than deflate; pack it again"
    return ""


def _overlapping(infos: Sequence[zipfile.ZipInfo]) -> set[int]:
    """Indices of members whose bytes reach into those of the next one; a local header has at least 30 bytes."""
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
                archive.members = []  # or all headers would stay in memory
                count += 1
                if count > MAX_MEMBERS:
                    raise ImageError(_too_many())
                if member.offset <= end or member.size < 0:  # a negative size leads back to where it was
                    raise tarfile.ReadError("a header with an impossible size")
                end = member.offset
                name = _inside(member.name)
                if member.isdir():
                    continue
                places[name] = _place_of(member, places)
                start, size = places[name]
                yield Member(name, max(size, 0), start, "" if size >= 0 else _LONE)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - as in list_members; here what comes before the damage is kept
        if not count:
            raise
        yield Member(f"{valid_utf8(archive_name)} (rest)", 0, -1, f"the archive is cut off or damaged: {reason_of(error)}")


def _place_of(member: tarfile.TarInfo, places: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """(start, size) of a file or of what a link in the archive means; size -1 for anything else."""
    if member.isreg() and not member.issparse():
        return member.offset_data, member.size
    if member.islnk() or member.issym():
        target = member.linkname if member.islnk() else os.path.join(os.path.dirname(member.name), member.linkname)
        return places.get(_inside(os.path.normpath(target)), (0, -1))
    return 0, -1


class Metered:
    """A file for `zipfile` and `tarfile`, which read as much at once, and go as far, as the archive tells them."""

    def __init__(self, file: IO[bytes], at_once: int, most: int = sys.maxsize) -> None:
        """
        Args:
            file: the archive's bytes; a tar's uncompressed.
            at_once: most bytes of one reading: headers and tables of contents.
            most: the last position to go to.
        """
        self._file, self._at_once, self._most = file, at_once, most

    def read(self, size: int = -1) -> bytes:
        """Bytes from here on; OSError for more than a header can have."""
        if size > self._at_once:
            raise OSError(errno.EFBIG, f"a header that claims {size} bytes")
        data = self._file.read(size if size >= 0 else self._at_once + 1)
        if len(data) > self._at_once:
            raise OSError(errno.EFBIG, f"a header of more than {self._at_once} bytes")
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a position; ImageError beyond the bound, before anything is unpacked."""
        if place > self._most:
            raise ImageError(
                f"unpacks to more than {self._most / 1e9:g} GB; raise --max-archive-gb if it is to be used, or unpack it"
            )
        return self._file.seek(place, whence)

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


def _head(file: IO[bytes]) -> bytes:
    """The first bytes, which tell the kind of archive."""
    head = file.read(6)
    file.seek(0)
    return head


def _unpacked(file: IO[bytes], head: bytes) -> Any:
    """The uncompressed bytes of a tar: `seek` and `read`."""
    import bz2
    import gzip
    import lzma

    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
    return next((opener(file, "rb") for magic, opener in openers.items() if head.startswith(magic)), file)


def valid_utf8(name: str) -> str:
    """A name as valid UTF-8 without NUL; bytes that are none appear as \\xNN."""
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates, which no file system gives
        raw = name.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _inside(name: str) -> str:
    """A member's name without drive, root and `..`."""
    parts = [part for part in valid_utf8(name.replace("\\", "/")).split("/") if part not in ("", ".", "..")]
    return "/".join(part for k, part in enumerate(parts) if k or not part.endswith(":"))


def _too_many() -> str:
    return f"holds more than {MAX_MEMBERS} files; split it, or give a folder"


def reason_of(error: BaseException) -> str:
    """An exception in a few words that are safe to print, without the path that the caller names anyway."""
    if isinstance(error, UnicodeDecodeError):
        return "a name in it is no valid text"
    if isinstance(error, struct.error | IndexError | KeyError):
        return f"damaged ({printable(error)})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return printable(text)[:300] or type(error).__name__
