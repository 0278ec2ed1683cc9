"""One process at a time in a folder."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path
from typing import IO

from ..errors import BusyError
from .keystore import unwritable

log = logging.getLogger(__name__)


def take_lock(path: Path, where: object, command: str) -> IO[str]:
    """An advisory lock that the system gives back when the file is closed or the process ends, however it ends: it cannot become stale.

    Args:
        path: the lock's file, made if need be. It stays, and says which process had it last.
        where: what is locked, for messages.
        command: what another process at work there is running.

    Raises:
        BusyError: another process has the lock; the message names it.
        StoreError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read() or "it has not said which process it is"
        file.close()
        raise BusyError(
            f"{where}: another `{command}` is at work there ({holder}); wait for it, or give another --out"
        ) from error
    except (ImportError, OSError) as error:  # not on this system, or not on this disk
        log.warning("there are no file locks here (%s): do not run two `%s` on %s at once", error, command, where)
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    return file
