"""Writing a file whole or not at all: beside its place, flushed to the disk, moved into place; and what killed writers left."""

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
"""How the names of files end that are being written."""


_PARTIAL_NAME = re.compile(
    r"((?:.*/)?)\.([^/]+)\.[0-9a-f]{32}\.partial", re.DOTALL
)  # what `write_atomic` makes, and nothing else


_LONGEST = 98  # bytes of a name to which `partial_name` adds 42: helpers have at most 140, and encrypted home folders take 143


_ADVICE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "make the disk writable",
}


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


def hold(file: IO[str] | IO[bytes] | int) -> bool | None:
    """Lock an open file (or its number) until it is closed or the process ends; False if another process has it, None where locks are not to be had."""
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
