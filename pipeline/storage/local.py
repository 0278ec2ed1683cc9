"""Key stores: bytes under keys, in a local folder (here) or at a URL (`remote.py`).

Every write is one whole object, because object stores have no rename, and two writers in one Zarr shard corrupt it silently (zarr-python
issue 3682). In a folder, a file appears by an atomic rename.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ...errors import ConfigError, StoreError, printable
from ...runtime import user_path
from .atomic import unwritable, write_atomic

_LOCAL = ("file://", "local://")
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not block


class KeyStore(Protocol):
    """The storage of a store. It can be pickled, and used in forked or spawned processes."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """The object's bytes, or at most `length` bytes from offset `start`; None if there is no such object."""

    def size(self, key: str) -> int | None:
        """The object's size in bytes; None if there is no such object."""

    def set(self, key: str, value: bytes) -> None:
        """Write a whole object atomically: readers see the old one or the new one. StoreError if that fails."""

    def list_keys(self) -> Iterator[str]:
        """The keys of all objects; a folder's are sorted per subfolder."""

    def delete(self, key: str) -> None:
        """Delete the object, if it exists."""

    def sibling(self, suffix: str) -> KeyStore:
        """The key store whose name is this one's name with `suffix` appended, in the same folder."""


Location = str | Path | KeyStore
"""How a store can be given: a folder, a URL such as `s3://bucket/name.zarr`, or a `KeyStore`."""


def key_store_at(location: Location) -> KeyStore:
    """The key store of a location; a leading `~` is the user's home folder.

    Raises:
        ConfigError: the location is empty, has a `~user` that does not exist, or is a URL without a name.
        StoreError: the URL's scheme is not supported.
    """
    if not isinstance(location, (str, Path)):
        return location
    if location == "":
        raise ConfigError("a store: expected a folder or a URL, got an empty name")
    if isinstance(location, str) and "://" in location:
        for scheme in _LOCAL:
            if location.startswith(scheme):
                return key_store_at(Path(location.removeprefix(scheme)))
        if not location.partition("://")[2].strip("/"):
            raise ConfigError(f"{printable(location)}: expected an address such as s3://bucket/name.zarr, got no name in it")
        from .remote import FsspecStore

        return FsspecStore(location)
    return LocalStore(user_path(location))


class LocalStore:
    """Objects as files below one folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return str(self.root)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `KeyStore`. StoreError if the path is not a regular file (such as a folder or a FIFO) or cannot be read."""
        path = os.path.join(self.root, key)
        try:
            file = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # a socket cannot be opened at all
            raise _unreadable(path, error) from error
        try:  # system calls take a third of the time of a buffered file for one tile
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise _not_a_file(path, status.st_mode)
            os.lseek(file, start, os.SEEK_SET)
            left = max(0, status.st_size - start)  # bounds the memory, whatever length is requested
            return _read(file, left if length is None else min(length, left))
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(file)

    def size(self, key: str) -> int | None:
        """See `KeyStore`; errors as in `get`."""
        path = os.path.join(self.root, key)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(path, status.st_mode)
        return status.st_size

    def set(self, key: str, value: bytes) -> None:
        """See `KeyStore`."""
        target = self.root / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, value)
        except OSError as error:
            raise unwritable(target, error) from error

    def list_keys(self) -> Iterator[str]:
        """See `KeyStore`."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            for name in sorted(files):
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def delete(self, key: str) -> None:
        """See `KeyStore`."""
        try:
            (self.root / key).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.root / key, error) from error

    def sibling(self, suffix: str) -> LocalStore:
        """See `KeyStore`. Links and `.` are resolved, so that a folder has the same sibling whatever its path."""
        root = self.root
        if root.name in ("", "..") or root.is_symlink():
            root = Path(os.path.realpath(root))
        if not root.name:
            raise ConfigError(f"{self.root}: expected a folder, got the root of a disk, which has no parent folder")
        return LocalStore(root.with_name(root.name + suffix))


def get_at_most(place: KeyStore, key: str, limit: int) -> bytes | None:
    """A whole object of at most `limit` bytes, in one request; None if there is no such object. The memory is bounded by `limit`.

    Raises:
        StoreError: the object is larger, is not a regular file, or cannot be read.
    """
    data = place.get(key, 0, limit + 1)
    if data is not None and len(data) > limit:
        raise StoreError(f"{place}/{key}: expected at most {limit} bytes, got more; restore this file from a copy")
    return data


def _unreadable(path: str, error: OSError) -> StoreError:
    return StoreError(f"{path}: cannot be read: {error.strerror or error}; check the disk and the file's permissions")


def _not_a_file(path: str, mode: int) -> StoreError:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return StoreError(
        f"{path}: expected a regular file, got {kinds.get(stat.S_IFMT(mode), 'a device')}; restore it from a copy"
    )


def _read(file: int, length: int) -> bytes:
    """`length` bytes from an open file, fewer at its end. `os.read` returns at most 2 GiB per call on Linux."""
    data = os.read(file, max(0, length))
    while len(data) < length:
        more = os.read(file, length - len(data))
        if not more:
            break
        data += more
    return data
