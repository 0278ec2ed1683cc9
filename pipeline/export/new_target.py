"""A new file or folder that appears whole or not at all: made in a hidden workspace beside its place, moved there at the end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import ConfigError, StoreError
from ...runtime import user_path
from ..storage.foreign import is_system_file
from .workspace import NEW, is_workspace, open_workspace

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `s3:/bucket`, as Path shortens it; one letter is a Windows drive


@contextlib.contextmanager
def new_file(target: Path, command: str) -> Iterator[Path]:
    """Inside, the path to write; at the end of the block it becomes `target`, after an exception it is deleted.

    Args:
        target: a file that does not exist.
        command: what makes it, for messages.

    Raises:
        ConfigError: `target` exists or cannot be a file here.
        BusyError: another process makes it at this moment.
        StoreError: it cannot be written.
    """
    path = local_path(target)
    _refuse_files([path], target.parent, "give another name")
    with open_workspace(path, target, command, path.parent) as workspace:
        _refuse_files([path], target.parent, "give another name")  # under the lock: it may have been made meanwhile
        yield workspace / NEW
        _flush(workspace / NEW)
        _move(workspace / NEW, path)


@contextlib.contextmanager
def new_folder(target: Path, command: str) -> Iterator[Path]:
    """As `new_file`, for a folder that does not exist or is empty but for files of the system. An empty one is filled: it may be a mounted disk."""
    path = local_path(target)
    _refuse_folder(path, target)
    inside = path.is_dir()
    with open_workspace(path, target, command, path if inside else path.parent) as workspace:
        _refuse_folder(path, target)
        new = workspace / NEW
        new.mkdir()
        yield new
        if inside:
            _move_all(new, path, sorted(entry.name for entry in new.iterdir()))
        else:
            _move(new, path)


@contextlib.contextmanager
def new_files(folder: Path, names: Iterable[str], command: str, overwrite: bool = False) -> Iterator[Path]:
    """As `new_file`, for files of given names in a folder that may hold other things. Inside, the folder to write them to.

    Args:
        folder: made if need be.
        names: all of the files.
        command: what makes them, for messages.
        overwrite: replace files of these names.
    """
    path, names = local_path(folder), list(names)
    if not os.path.lexists(path):
        with new_folder(folder, command) as new:
            yield new
        return
    if not path.is_dir():
        raise ConfigError(f"{folder}: expected a folder or nothing, got a file; give another --out")
    files, advised = [path / name for name in names], "give --overwrite, or another --out"
    _refuse_files(files, folder, advised, overwrite)
    with open_workspace(path, folder, command, path) as workspace:
        _refuse_files(files, folder, advised, overwrite)
        new = workspace / NEW
        new.mkdir()
        yield new
        for name in names:
            _flush(new / name)
        _move_all(new, path, names, overwrite)


def check_free(folder: Path, target: Path, known_bytes: int) -> None:
    """Refuse what is certain not to fit.

    Args:
        folder: on the disk in question.
        target: for the message.
        known_bytes: what will be written at least.

    Raises:
        StoreError: the disk has less space.
    """
    free = shutil.disk_usage(folder).free
    if known_bytes > free:
        raise StoreError(
            f"{target}: needs more than {known_bytes / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free on that disk; "
            "free some space there, or give a target on another disk. Nothing was written"
        )


def local_path(target: Path) -> Path:
    """A target's absolute path, links followed; `~` at its start is the user's home folder.

    Raises:
        ConfigError: a URL, or no name that a file can have here.
    """
    if _URL.match(str(target)):
        raise ConfigError(f"{target}: expected a place on this machine, got a URL; write it here, then copy it there")
    meant = user_path(target)
    try:
        path = Path(os.path.realpath(meant))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
        return path
    except (ValueError, OSError) as error:  # a NUL; links in a circle; too long; a folder that is not ours to look into
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{target}: cannot be a file or folder here ({reason}); give another name") from error


def _refuse_files(paths: Iterable[Path], folder: Path, advised: str, overwrite: bool = False) -> None:
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{folder / path.name}: expected a file or nothing, got a folder; give another name")
        if os.path.lexists(path) and not overwrite:
            raise ConfigError(f"{folder / path.name}: exists already; {advised}")


def _refuse_folder(path: Path, target: Path) -> None:
    if os.path.lexists(path) and (not path.is_dir() or not all(map(_is_nothing, path.iterdir()))):
        raise ConfigError(f"{target}: exists already; give the name of a new or an empty folder")


def _is_nothing(path: Path) -> bool:
    """Whether an entry of a folder leaves the folder empty: a workspace of ours, or what file managers make."""
    return is_workspace(path) or (is_system_file(path.name) and path.is_file())


def _flush(path: Path) -> None:
    """To the disk, which may say only now that it is full."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _move(new: Path, path: Path, overwrite: bool = False) -> None:
    """Make a path visible; without `overwrite` nothing is replaced, whoever made it at this very moment."""
    if new.is_dir() or overwrite:
        os.replace(new, path)  # a folder replaces nothing but an empty folder
        return
    try:
        os.link(new, path)
    except FileExistsError as error:
        raise ConfigError(f"{path}: was made by another process meanwhile, and is left as it is; give another name") from error
    except OSError:  # a disk without hard links
        if os.path.lexists(path):
            raise
        os.rename(new, path)
    else:
        os.unlink(new)


def _move_all(new: Path, path: Path, names: Iterable[str], overwrite: bool = False) -> None:
    """All of them, or none where nothing was replaced."""
    moved: list[str] = []
    try:
        for name in names:
            _move(new / name, path / name, overwrite)
            moved.append(name)
    except BaseException:
        for name in moved:
            if not overwrite:
                os.replace(path / name, new / name)
        raise
