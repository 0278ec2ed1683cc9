"""Atomic writing of files: a partial file in the same folder, flushed to disk, then renamed; and removal of partial files of killed writers."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ...errors import StoreError

PARTIAL = ".partial"
"""Suffix of the names of files that are being written."""

_PARTIAL_NAME = re.compile(
    r"((?:.*/)?)\.([^/]+)\.[0-9a-f]{32}\.partial", re.DOTALL
)  # exactly the names that `write_atomic` makes

_LONGEST = 98  # bytes; `partial_name` adds 42, which makes 140, and encrypted home folders allow 143

_ADVICE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "make the disk writable",
}


def write_atomic(target: Path, value: bytes, replace: bool = True) -> None:
    """Write a file atomically: readers see the old content or the new one. A failed write leaves no partial file.

    Args:
        target: the file; its folder must exist.
        value: the content.
        replace: whether an existing file is replaced.

    Raises:
        FileExistsError: the target exists and `replace` is false; also if it appeared during the write.
        OSError: the file cannot be written.
    """
    partial = target.with_name(partial_name(target.name))
    try:
        with open(partial, "xb") as file:
            held = hold(file)  # until it is renamed, so that no other process takes it for a killed writer's file
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
            if held:
                _move(partial, target, replace)
        if not held:  # such as on Windows, where open files cannot be renamed
            _move(partial, target, replace)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_name(name: str) -> str:
    """A new, unique name for the partial file of a target."""
    return f".{partial_stem(name)}.{uuid.uuid4().hex}{PARTIAL}"


def partial_stem(name: str) -> str:
    """The part of `partial_name` that identifies the target: its name, or the SHA-256 of a name that is too long."""
    data = os.fsencode(name)
    return name if len(data) <= _LONGEST else hashlib.sha256(data).hexdigest()


def hold(file: IO[str] | IO[bytes] | int) -> bool | None:
    """Lock an open file (or file descriptor) until it is closed or the process ends.

    Returns:
        True: locked. False: another process has the lock. None: this system or disk has no locks.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _move(partial: Path, target: Path, replace: bool) -> None:
    """Rename a finished file. Without `replace`, an existing target is never lost, even if it appears at the last moment."""
    if replace:
        os.replace(partial, target)
        return
    if os.name == "nt":
        os.rename(partial, target)  # fails if the target exists
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError as error:  # no hard links on this disk: the check and the rename are two steps
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.replace(partial, target)
    else:
        os.unlink(partial)


def advice(error: OSError) -> str:
    """What the user can do about a failed write."""
    return _ADVICE.get(error.errno or 0, "check the disk")


def unwritable(target: Path, error: OSError) -> StoreError:
    """The StoreError for a failed write: what, why, and what to do."""
    return StoreError(
        f"{target}: cannot be written: {error.strerror or error}; {advice(error)} or give another --out. "
        "What was finished is kept: the same command resumes"
    )


def unreadable(path: Path, error: OSError) -> StoreError:
    """The StoreError for a folder or file that cannot be read."""
    return StoreError(f"{path}: cannot be read: {error.strerror or error}; check it, or give another one")


def partial_of(key: str) -> str | None:
    """The target's key of a partial file of `write_atomic`; None if the name is not one of a partial file."""
    match = _PARTIAL_NAME.fullmatch(key)
    return match[1] + match[2] if match else None


def sweep_partial(root: Path, below: bool = True, ours: Callable[[str], bool] | None = None) -> int:
    """Remove partial files that killed writers left. Links are neither followed nor removed.

    Args:
        root: the folder.
        below: also in its subfolders.
        ours: called with the target's key, relative to `root`; False keeps the partial file. None: all are removed.

    Returns:
        The number of removed files.
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
