"""Workspaces: hidden folders in which exports are made, in the folder of their target.

A workspace is named `.samdiff-export-HASH`, with a hash of the target's name. It has `lock`, which its process holds locked, and `new`, the
unfinished export. After a process was killed, the next export into the same folder removes its workspace.
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
_ATTEMPTS = 100  # another process may delete the workspace while it is being opened
_TRIES, _PAUSE = 3, 0.1  # and seconds; another export's sweep holds the lock for a moment


@contextlib.contextmanager
def open_workspace(path: Path, target: Path, *, command: str, parent: Path) -> Iterator[Path]:
    """A context with the locked, empty workspace of a target. It is deleted at the end.

    Args:
        path: the absolute path of the target.
        target: the target as the user gave it, for messages.
        command: the command that makes the target, for messages.
        parent: the folder of the workspace; made if missing.

    Raises:
        BusyError: another process has the workspace.
        ConfigError: a file or folder that is not ours has its name.
        StoreError: instead of an `OSError` about the workspace or the target, also if it is raised in the block.
    """
    workspace = parent / f"{_PREFIX}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    lock: int | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock = _open_with_retries(workspace, target, command)
        _sweep(parent, workspace)
        yield workspace
        made = []
    except OSError as error:
        if not _is_ours(error, workspace, path):
            raise  # about another file, such as one of the store
        raise _unwritable(target, error) from error
    finally:
        if lock is not None:
            _remove(workspace, lock)
        for folder in made:  # after a failure, remove the folders that were made for the target
            with contextlib.suppress(OSError):
                folder.rmdir()


def _open_with_retries(workspace: Path, target: Path, command: str) -> int:
    for remaining in reversed(range(_TRIES)):
        try:
            return _open(workspace)
        except BlockingIOError as error:
            if not remaining:
                raise BusyError(f"{target}: another `{command}` is writing it; wait for it, or give another target") from error
            time.sleep(_PAUSE)
    raise AssertionError


def _open(workspace: Path) -> int:
    """Make or open a workspace, lock it, and delete what a killed process left in it; returns the descriptor of the lock file.

    Raises:
        BlockingIOError: another process has the lock.
    """
    for attempt in range(_ATTEMPTS):
        if os.path.lexists(workspace) and not is_workspace(workspace):
            raise ConfigError(
                f"{workspace}: samdiff needs this name, but did not write what is there; move it, or give another target"
            )
        try:
            workspace.mkdir(exist_ok=True)
            file = os.open(workspace / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except (FileNotFoundError, FileExistsError):  # `mkdir` raises the latter if the folder is removed during the call
            if (
                not workspace.parent.is_dir() or attempt == _ATTEMPTS - 1
            ):  # the latter where no folder can be made, such as /proc
                raise
            continue  # another process ended and deleted the workspace
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
        os.close(file)  # the file was deleted before it was locked
    raise BlockingIOError(f"{workspace}: deleted repeatedly")


def _lock(file: int) -> None:
    """Lock an open file. Unlike `lock.take_lock`, it writes nothing into the file, which would fail on a full disk."""
    if hold(file) is False:
        raise BlockingIOError("another process has the lock")


def _locks_work(workspace: Path) -> bool:
    """Whether locks work on this disk, tried with a workspace that we have locked."""
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
    """Whether a path is a folder with the name of a workspace and only the files of one; not a link."""
    if not re.fullmatch(re.escape(_PREFIX) + "[0-9a-f]{16}", path.name) or path.is_symlink() or not path.is_dir():
        return False
    return {entry.name for entry in path.iterdir()} <= {_LOCK, NEW}


def _sweep(parent: Path, own: Path) -> None:
    """Delete the workspaces of killed exports to other targets in this folder."""
    others = [path for path in parent.glob(f"{_PREFIX}*") if path != own and is_workspace(path)]
    if not _locks_work(own):
        more = f"; delete {', '.join(path.name for path in others)} if its export was killed" if others else ""
        log.warning("%s: file locks do not work here; do not run two exports to one target at once%s", parent, more)
        return
    for path in others:
        with contextlib.suppress(OSError):  # in use, or another user's
            _remove(path, _open(path))


def _remove(workspace: Path, lock: int) -> None:
    """Delete a workspace that we have locked, then release the lock."""
    with contextlib.suppress(OSError):
        _delete(workspace / NEW)
        (workspace / _LOCK).unlink(missing_ok=True)
        workspace.rmdir()  # fails if another process uses the workspace already
    os.close(lock)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_ours(error: OSError, workspace: Path, path: Path) -> bool:
    """Whether an error is about the workspace or the target. An error of a write has no file name."""
    if not isinstance(error.filename, str | bytes):
        return True
    failed = Path(os.fsdecode(error.filename))
    return workspace in (failed, *failed.parents) or failed in (path, *workspace.parents)


def _unwritable(target: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{target}: cannot be written: {error.strerror or error}; {advice(error)}, or give another target. "
        "Nothing of it was kept: the same command starts again from the beginning"
    )
