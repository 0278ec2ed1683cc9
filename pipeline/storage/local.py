"""Bytes under keys: the few operations that a store needs of the place where it lies, a local folder or a URL (`remote.py`).

Every write is one whole object (object stores have no rename, and two writers in one Zarr shard corrupt it silently: zarr-python
issue 3682); in a folder it is made visible by an atomic rename.
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
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # to open a FIFO must not wait for its writer


class KeyStore(Protocol):
    """Where a store lies. Safe to pickle and to use from forked or spawned processes."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """The object's bytes, or `length` of them from `start`; None if there is no such object."""

    def size(self, key: str) -> int | None:
        """Bytes of the object, None if there is none."""

    def set(self, key: str, value: bytes) -> None:
        """Write the whole object: readers see the old one or the new one, never a part. StoreError if that fails."""

    def list_keys(self) -> Iterator[str]:
        """Every object's key, in sorted order."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if it is not there."""

    def sibling(self, suffix: str) -> KeyStore:
        """The place beside this one whose name is longer by `suffix`."""


Location = str | Path | KeyStore
"""What a user may say for a store: a folder, a URL such as `s3://bucket/name.zarr`, or a place."""


def key_store_at(location: Location) -> KeyStore:
    """The place that a location means; `~` at its start is the user's home folder.

    Raises:
        ConfigError: it is empty, or names the home folder of nobody, or is a URL without a name.
        StoreError: a URL of a kind that cannot be used here.
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
        """See `KeyStore`; StoreError if it is no regular file (a folder, a FIFO, a device) or cannot be read."""
        path = os.path.join(self.root, key)
        try:
            file = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # a socket cannot be opened at all
            raise _unreadable(path, error) from error
        try:  # bare system calls: a tile is read in a third of the time that a buffered file takes
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise _not_a_file(path, status.st_mode)
            os.lseek(file, start, os.SEEK_SET)
            left = max(0, status.st_size - start)  # never more than is there, whatever was asked for
            return _read(file, left if length is None else min(length, left))
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(file)

    def size(self, key: str) -> int | None:
        """See `KeyStore`; errors as `get`."""
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
        """See `KeyStore`. One folder has one sibling, by whatever link or `.` it was named."""
        root = self.root
        if root.name in ("", "..") or root.is_symlink():
            root = Path(os.path.realpath(root))
        if not root.name:
            raise ConfigError(f"{self.root}: expected a folder that can have another one beside it, got the root of a disk")
        return LocalStore(root.with_name(root.name + suffix))


def get_at_most(place: KeyStore, key: str, limit: int) -> bytes | None:
    """A whole object that has at most `limit` bytes; None if there is none. One request, and no more memory than that.

    Raises:
        StoreError: it is longer, no regular file, or cannot be read.
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
    """`length` bytes from an open file, fewer at its end. One call reads at most 2 GiB on Linux."""
    data = os.read(file, max(0, length))
    while len(data) < length:
        more = os.read(file, length - len(data))
        if not more:
            break
        data += more
    return data
