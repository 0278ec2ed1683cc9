"""Bytes under keys: the few operations that a store needs of the place where it lies, a local folder or a URL (`remote.py`).

Every write is one whole object (object stores have no rename, and two writers in one Zarr shard corrupt it silently: zarr-python
issue 3682); in a folder it is made visible by an atomic rename.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import ConfigError, StoreError, printable
from ..runtime import user_path

PARTIAL = ".partial"
"""How the names of files end that are being written."""
_PARTIAL_NAME = re.compile(
    r"((?:.*/)?)\.([^/]+)\.[0-9a-f]{32}\.partial", re.DOTALL
)  # what `write_atomic` makes, and nothing else
_LOCAL = ("file://", "local://")
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # to open a FIFO must not wait for its writer
_LONGEST = 200  # bytes of a name that leave room for what `partial_name` adds; most disks take 255

_ADVICE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "make the disk writable",
}


class Place(Protocol):
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

    def sibling(self, suffix: str) -> Place:
        """The place beside this one whose name is longer by `suffix`."""


Location = str | Path | Place
"""What a user may say for a store: a folder, a URL such as `s3://bucket/name.zarr`, or a place."""


def place_at(location: Location) -> Place:
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
                return place_at(Path(location.removeprefix(scheme)))
        if not location.partition("://")[2].strip("/"):
            raise ConfigError(f"{printable(location)}: expected an address such as s3://bucket/name.zarr, got no name in it")
        from .remote import RemoteFolder

        return RemoteFolder(location)
    return LocalFolder(user_path(location))


class LocalFolder:
    """Objects as files below one folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return str(self.root)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `Place`; StoreError if it is no regular file (a folder, a FIFO, a device) or cannot be read."""
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
        """See `Place`; errors as `get`."""
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
        """See `Place`."""
        target = self.root / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, value)
        except OSError as error:
            raise unwritable(target, error) from error

    def list_keys(self) -> Iterator[str]:
        """See `Place`."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            for name in sorted(files):
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def delete(self, key: str) -> None:
        """See `Place`."""
        try:
            (self.root / key).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.root / key, error) from error

    def sibling(self, suffix: str) -> LocalFolder:
        """See `Place`. One folder has one sibling, by whatever link or `.` it was named."""
        root = self.root
        if root.name in ("", "..") or root.is_symlink():
            root = Path(os.path.realpath(root))
        if not root.name:
            raise ConfigError(f"{self.root}: expected a folder that can have another one beside it, got the root of a disk")
        return LocalFolder(root.with_name(root.name + suffix))


def get_at_most(place: Place, key: str, limit: int) -> bytes | None:
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


def write_atomic(target: Path, value: bytes, replace: bool = True) -> None:
    """Write a file beside its place, flush it to the disk, move it into place. A failed write leaves no partial file.

    Args:
        target: the file; its folder exists.
        value: its bytes.
        replace: whether a file that is there already is replaced.

    Raises:
        FileExistsError: something is there, and `replace` is false; also if it appeared while we were writing.
    """
    partial = target.with_name(partial_name(target.name))
    try:
        with open(partial, "xb") as file:
            held = hold(file)  # until it has its name, so that nobody takes it for a killed writer's
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
            if held:
                _move(partial, target, replace)
        if not held:  # such as on a system that moves no open files
            _move(partial, target, replace)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_name(name: str) -> str:
    """A name, not used before, of a file that is being written in a target's place."""
    return f".{partial_stem(name)}.{uuid.uuid4().hex}{PARTIAL}"


def partial_stem(name: str) -> str:
    """How a target is called inside `partial_name`: by its name, or by a digest of it where that would be too long for a disk."""
    data = os.fsencode(name)
    return name if len(data) <= _LONGEST else hashlib.sha256(data).hexdigest()


def hold(file: IO[Any]) -> bool | None:
    """Lock an open file until it is closed or the process ends; False if another process has it, None where locks are not to be had."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _move(partial: Path, target: Path, replace: bool) -> None:
    """Give a finished file its name. Without `replace`, nothing that has this name is lost, whenever it came."""
    if replace:
        os.replace(partial, target)
        return
    if os.name == "nt":
        os.rename(partial, target)  # refuses a name that is taken
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError as error:  # a disk without hard links: there, looking and moving are two steps
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.replace(partial, target)
    else:
        os.unlink(partial)


def advice(error: OSError) -> str:
    """What to do about a write that failed."""
    return _ADVICE.get(error.errno or 0, "see to it")


def unwritable(target: Path, error: OSError) -> StoreError:
    """The error for people of a write that failed: what, why, and what to do."""
    return StoreError(
        f"{target}: cannot be written: {error.strerror or error}; {advice(error)} or give another --out. "
        "What was finished is kept: the same command goes on from there"
    )


def unreadable(path: Path, error: OSError) -> StoreError:
    """The error for people of a folder or file that cannot be read."""
    return StoreError(f"{path}: cannot be read: {error.strerror or error}; check it, or give another one")


def partial_of(key: str) -> str | None:
    """The key that a partial file was to become, if its name is exactly one that `write_atomic` gives; else None."""
    found = _PARTIAL_NAME.fullmatch(key)
    return found[1] + found[2] if found else None


def sweep_partial(root: Path, below: bool = True, ours: Callable[[str], bool] | None = None) -> int:
    """Remove what killed writers of `write_atomic` left in `root`, and in its folders if `below`; returns how many files that were.

    Only plain files whose names `write_atomic` gives, in folders that are no links.

    Args:
        root: the folder.
        below: its folders, too.
        ours: told the key below `root` that the partial file was to become; False leaves it. None: all of them.
    """
    swept = 0
    for folder, folders, files in os.walk(root):
        if not below:
            folders.clear()
        for name in files:
            path = Path(folder, name)
            key = partial_of(path.relative_to(root).as_posix())
            if key is not None and (ours is None or ours(key)) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
                swept += 1
    return swept
