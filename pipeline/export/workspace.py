"""Hidden folders in which exports are made, beside their targets.

A workspace is `.samdiff-export-HASH` (HASH is of the target's name). It holds `lock`, which the process at work has locked, and `new`,
what is being made. Whatever ends a process (also `kill -9`), its workspace is swept by the next export into the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ...errors import BusyError, ConfigError, StoreError
from ..storage.atomic import advice, hold

log = logging.getLogger(__name__)

_PREFIX, _LOCK, NEW = ".samdiff-export-", "lock", "new"
_ATTEMPTS = 100  # another process may delete the workspace between two steps of ours
_TRIES, _PAUSE = 3, 0.1  # a sweep of another export holds a workspace's lock for a moment


@contextlib.contextmanager
def open_workspace(path: Path, target: Path, command: str, parent: Path) -> Iterator[Path]:
    """The locked, empty workspace of a target; deleted at the end.

    Args:
        path: the target's absolute path.
        target: the same as the user wrote it, for messages.
        command: what makes it, likewise.
        parent: the folder of the workspace, made if need be.

    Raises:
        BusyError: another process has it.
        ConfigError: something else has its name.
        StoreError: an `OSError` of what is written, inside the block too.
    """
    workspace = parent / f"{_PREFIX}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    held: int | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        held = _hold_patiently(workspace, target, command)
        _sweep(parent, workspace)
        yield workspace
        made = []
    except OSError as error:
        if not _is_ours(error, workspace, path):
            raise  # of another file, such as one of the store
        raise _unwritable(target, error) from error
    finally:
        if held is not None:
            _remove(workspace, held)
        for folder in made:  # of our making, and nothing came of it
            with contextlib.suppress(OSError):
                folder.rmdir()


def _hold_patiently(workspace: Path, target: Path, command: str) -> int:
    for left in reversed(range(_TRIES)):
        try:
            return _hold(workspace)
        except BlockingIOError as error:
            if not left:
                raise BusyError(f"{target}: another `{command}` is writing it; wait for it, or give another target") from error
            time.sleep(_PAUSE)
    raise AssertionError


def _hold(workspace: Path) -> int:
    """A workspace's lock file, open and locked; what a process that is gone left in the workspace is deleted.

    Raises:
        BlockingIOError: another process has the lock.
    """
    for attempt in range(_ATTEMPTS):
        if os.path.lexists(workspace) and not is_workspace(workspace):
            raise ConfigError(f"{workspace}: is in the way and holds what is not ours; move it, or give another target")
        try:
            workspace.mkdir(exist_ok=True)
            file = os.open(workspace / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except (FileNotFoundError, FileExistsError):  # `mkdir` says the latter if the folder goes while it looks
            if not workspace.parent.is_dir() or attempt == _ATTEMPTS - 1:  # or a place that takes no folders, such as /proc
                raise
            continue  # another process ended and deleted the workspace between two steps of ours
        except OSError:
            with contextlib.suppress(OSError):
                workspace.rmdir()
            raise
        try:
            _lock(file)
            if _is_same(file, workspace / _LOCK):
                _delete(workspace / NEW)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # likewise
    raise BlockingIOError(f"{workspace}: deleted again and again")


def _lock(file: int) -> None:
    """Nothing is written into the file: that would fail on a full disk (`lock.take_lock` does, for locks that stay)."""
    if hold(file) is False:
        raise BlockingIOError("another process has the lock")


def _locks_work(workspace: Path) -> bool:
    """Whether a second one would notice that we have this workspace."""
    file = os.open(workspace / _LOCK, os.O_RDWR)
    try:
        _lock(file)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def is_workspace(path: Path) -> bool:
    """A real folder of our name with nothing in it but what is ours."""
    if not re.fullmatch(re.escape(_PREFIX) + "[0-9a-f]{16}", path.name) or path.is_symlink() or not path.is_dir():
        return False
    return {entry.name for entry in path.iterdir()} <= {_LOCK, NEW}


def _sweep(parent: Path, mine: Path) -> None:
    """Delete the workspaces of killed exports to other targets in this folder."""
    others = [left for left in parent.glob(f"{_PREFIX}*") if left != mine and is_workspace(left)]
    if not _locks_work(mine):
        more = f"; {', '.join(left.name for left in others)} may be left by a killed one, delete it then" if others else ""
        log.warning("there are no file locks in %s: do not run two exports to one target at once%s", parent, more)
        return
    for left in others:
        with contextlib.suppress(OSError):  # at work, or another user's
            _remove(left, _hold(left))


def _remove(workspace: Path, held: int) -> None:
    """Delete a workspace that we have locked, then give the lock back."""
    with contextlib.suppress(OSError):
        _delete(workspace / NEW)
        (workspace / _LOCK).unlink(missing_ok=True)
        workspace.rmdir()  # refused if another process has come in between: it is its own now
    os.close(held)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_ours(error: OSError, workspace: Path, path: Path) -> bool:
    """Whether an error is about what is written: a write names no file."""
    if not isinstance(error.filename, str | bytes):
        return True
    named = Path(os.fsdecode(error.filename))
    return workspace in (named, *named.parents) or named in (path, *workspace.parents)


def _unwritable(target: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{target}: cannot be written: {error.strerror or error}; {advice(error)}, or give another target. "
        "Nothing of it was kept: the same command begins anew"
    )
