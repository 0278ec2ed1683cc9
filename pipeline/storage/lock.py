"""A lock file: one process at a time in a folder.

The package `filelock`, which `cache.py` uses in samdiff's own folder, is not safe in a user's folder: it accepts any file of that name as its
lock (older releases also empty it), does not report which process has the lock, and does not notice if the file or its folder is removed
between opening and locking.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

from ...errors import BusyError, StoreError, printable
from .atomic import unwritable

log = logging.getLogger(__name__)

_OURS = re.compile(r"(process \d+ on [^\n]*)?")  # the content of a lock file of ours
_LONGEST = 4096  # bytes; a longer file is not ours
_ATTEMPTS = 100  # another process may remove the file, or its folder, between our steps


def take_lock(path: Path, where: object, command: str) -> IO[str]:
    """Take an advisory lock. The system releases it when the file is closed or the process ends, even if it is killed: it cannot be stale.

    A file of that name that is not a lock of ours (a link, a device, other text) is never changed.

    Args:
        path: the lock file, made if missing. It holds the id of the process that locked it last. `drop_lock` removes it.
        where: what is locked, for messages.
        command: the command that takes this lock, for messages.

    Returns:
        The open file; keep it until the lock is to be released.

    Raises:
        BusyError: another process has the lock; the message names it.
        StoreError: the file cannot be written, or is not ours.
    """
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # the folder was removed meanwhile
            file = _opened(path)
            try:
                locked = _locked(file, where, command)
                if locked and not _is_at(file, path):  # its holder removed it between opening and locking
                    file.close()
                    continue
                _sign(file, path)
            except BaseException:
                file.close()
                raise
            return file
    raise StoreError(f"{path}: cannot be made, because another program keeps removing its folder; find and stop that program")


def drop_lock(file: IO[str], path: Path) -> None:
    """Remove a lock file and release the lock. A process that opened the file meanwhile notices this, and makes a new one."""
    if os.name == "nt":  # an open file cannot be removed there
        file.close()
        path.unlink(missing_ok=True)
        return
    if _is_at(file, path):
        path.unlink(missing_ok=True)
    file.close()


def _opened(path: Path) -> IO[str]:
    """Open or make the file. Links are not followed, and the content is not changed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise _foreign(path, "a link, a folder or a device")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "r+", encoding="utf-8", errors="replace", newline="")
    except FileNotFoundError:
        raise
    except FileExistsError as error:
        if os.path.lexists(path.parent) and not path.parent.is_dir():
            raise unwritable(path, error) from error
        raise FileNotFoundError(path) from error  # the folder was removed since
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        if os.fstat(file.fileno()).st_size > _LONGEST or not _OURS.fullmatch(file.read(_LONGEST)):
            raise _foreign(path, "a file with other content")
    except BaseException:
        file.close()
        raise
    return file


def _locked(file: IO[str], where: object, command: str) -> bool:
    """True: we have the lock. False: this system or disk has no locks, which is logged. BusyError: another process has it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        file.seek(0)
        holder = printable(file.read(_LONGEST)) or "unknown process"
        raise BusyError(
            f"{where}: another `{command}` is running there ({holder}); wait for it, or give another --out"
        ) from error
    except (ImportError, OSError) as error:
        log.warning("%s: file locks do not work here (%s); do not run two `%s` at once", where, error, command)
        return False


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the file at that path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _sign(file: IO[str], path: Path) -> None:
    """Write the process id and host name into the lock file."""
    try:
        os.ftruncate(file.fileno(), 0)
        text = printable(f"process {os.getpid()} on {platform.node()}")
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.write(file.fileno(), text.encode())  # unbuffered: after a failed write, closing would try to write the buffer again
    except OSError as error:
        raise unwritable(path, error) from error


def _foreign(path: Path, got: str) -> StoreError:
    return StoreError(f"{path}: expected a lock file of samdiff or nothing, got {got}; move it away, or give another --out")
