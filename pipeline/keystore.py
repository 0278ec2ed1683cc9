"""Bytes under keys: the few operations that a store needs of the place where it lies, a local folder or a URL (`remote.py`).

Every write is one whole object (object stores have no rename, and two writers in one Zarr shard corrupt it silently: zarr-python
issue 3682); in a folder it is made visible by an atomic rename.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import StoreError

PARTIAL = ".partial"
"""How the names of files end that are being written."""
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

    def clear(self) -> None:
        """Remove every object, and the place itself where that means something."""

    def sibling(self, suffix: str) -> Place:
        """The place beside this one whose name is longer by `suffix`."""


Location = str | Path | Place
"""What a user may say for a store: a folder, a URL such as `s3://bucket/name.zarr`, or a place."""


def place_at(location: Location) -> Place:
    """The place that a location means.

    Raises:
        StoreError: a URL of a kind that cannot be used here.
    """
    if isinstance(location, str) and "://" in location:
        if location.startswith("file://"):
            return LocalFolder(location.removeprefix("file://"))
        from .remote import RemoteFolder

        return RemoteFolder(location)
    return LocalFolder(location) if isinstance(location, (str, Path)) else location


class LocalFolder:
    """Objects as files below one folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return str(self.root)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `Place`."""
        try:
            file = os.open(os.path.join(self.root, key), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:  # bare system calls: a tile is read in a third of the time that a buffered file takes
            os.lseek(file, start, os.SEEK_SET)
            return _read(file, os.fstat(file).st_size - start if length is None else length)
        finally:
            os.close(file)

    def size(self, key: str) -> int | None:
        """See `Place`."""
        try:
            return os.stat(self.root / key).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

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

    def clear(self) -> None:
        """See `Place`."""
        if self.root.exists():
            shutil.rmtree(self.root)

    def sibling(self, suffix: str) -> LocalFolder:
        """See `Place`."""
        return LocalFolder(self.root.with_name(self.root.name + suffix))


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


def sweep_partial(root: Path, below: bool = True) -> int:
    """Remove what killed writers left in `root`, and in its folders if `below`; returns how many files that were."""
    left = list(root.glob(f"{'**/' * below}.*{PARTIAL}"))
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)
