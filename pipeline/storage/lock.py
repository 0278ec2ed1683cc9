"""One process at a time in a folder.

The package `filelock` (see `cache.py`, whose folder is samdiff's own) is not enough here: it takes any file of that name for its lock, also one
that the user wrote, and older releases empty it; its error does not say which process has the lock; and it does not notice that
the file, or its folder, was removed between opening and locking.
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

_OURS = re.compile(r"(process \d+ on [^\n]*)?")  # what a lock file of ours holds
_LONGEST = 4096  # bytes; a longer file is none of ours
_ATTEMPTS = 100  # another process may remove the file, or its folder, between our steps


def take_lock(path: Path, where: object, command: str) -> IO[str]:
    """An advisory lock that the system gives back when the file is closed or the process ends, however it ends: it cannot become stale.

    A file of that name that is not a lock of ours (a link, a device, other text) is left as it is.

    Args:
        path: the lock's file, made if need be. It stays (or see `drop_lock`), and says which process had it last.
        where: what is locked, for messages.
        command: what another process at work there is running.

    Raises:
        BusyError: another process has the lock; the message names it.
        StoreError: the file cannot be written, or is not ours.
    """
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # its folder was removed just now
            file = _opened(path)
            try:
                locked = _locked(file, where, command)
                if locked and not _is_at(file, path):  # removed by its holder between our opening and our lock
                    file.close()
                    continue
                _sign(file, path)
            except BaseException:
                file.close()
                raise
            return file
    raise StoreError(f"{path}: cannot be made: its folder is removed again and again; see which program does it")


def drop_lock(file: IO[str], path: Path) -> None:
    """Remove a lock's file and give the lock back. Who waits for it notices that its file is gone, and makes a new one."""
    if os.name == "nt":  # an open file cannot be removed there
        file.close()
        path.unlink(missing_ok=True)
        return
    if _is_at(file, path):
        path.unlink(missing_ok=True)
    file.close()


def _opened(path: Path) -> IO[str]:
    """Open or make the file; links are never followed, and nothing is changed yet."""
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
        raise FileNotFoundError(path) from error  # the folder was there, and is removed now
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
    """True: the lock is ours. False: there are no locks on this system or this disk, which is reported."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        file.seek(0)
        holder = printable(file.read(_LONGEST)) or "it has not said which process it is"
        raise BusyError(
            f"{where}: another `{command}` is at work there ({holder}); wait for it, or give another --out"
        ) from error
    except (ImportError, OSError) as error:
        log.warning("there are no file locks here (%s): do not run two `%s` on %s at once", error, command, where)
        return False


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _sign(file: IO[str], path: Path) -> None:
    """Write down who has the lock."""
    try:
        os.ftruncate(file.fileno(), 0)
        text = printable(f"process {os.getpid()} on {platform.node()}")
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.write(file.fileno(), text.encode())  # not through the file's buffer, which closing would try to write again
    except OSError as error:
        raise unwritable(path, error) from error


def _foreign(path: Path, got: str) -> StoreError:
    return StoreError(f"{path}: expected a lock file of samdiff's or nothing, got {got}; move it away, or give another --out")
