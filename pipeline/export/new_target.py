"""Atomic creation of files and folders: made in a hidden workspace in the same folder, and moved to the target when complete."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError, StoreError
from ...runtime import user_path
from ..storage.foreign import is_system_file
from ..storage.local import LocalStore
from .workspace import NEW, is_workspace, open_workspace

if TYPE_CHECKING:
    from ..shards.reader import Store

_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]+:/"
)  # Path turns `s3://bucket` into `s3:/bucket`; a single letter is a Windows drive


@contextlib.contextmanager
def new_file(target: Path, command: str) -> Iterator[Path]:
    """A context with the path of a new file. At its end the file is moved to `target`; after an exception it is deleted.

    Args:
        target: a file that does not exist.
        command: the command that makes it, for messages.

    Raises:
        ConfigError: `target` exists, or is not a valid path.
        BusyError: another process is making it.
        StoreError: it cannot be written.
    """
    path = local_path(target)
    _refuse_files([path], target.parent, "give another name")
    with open_workspace(path, target, command=command, parent=path.parent) as workspace:
        _refuse_files([path], target.parent, "give another name")  # again, under the lock
        yield workspace / NEW
        _flush(workspace / NEW)
        _move(workspace / NEW, path)


@contextlib.contextmanager
def new_folder(target: Path, command: str) -> Iterator[Path]:
    """Like `new_file`, for a folder that does not exist or is empty except for system files.

    An existing folder is filled and not replaced, because it may be a mounted disk.
    """
    path = local_path(target)
    _refuse_folder(path, target)
    exists = path.is_dir()
    with open_workspace(path, target, command=command, parent=path if exists else path.parent) as workspace:
        _refuse_folder(path, target)
        new = workspace / NEW
        new.mkdir()
        yield new
        if exists:
            _move_all(new, path, sorted(entry.name for entry in new.iterdir()))
        else:
            _move(new, path)


@contextlib.contextmanager
def new_files(folder: Path, names: Iterable[str], command: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Like `new_file`, for several files of a folder that may have other files. The context has the folder to write them to.

    Args:
        folder: the folder; made if missing.
        names: the names of all files.
        command: the command that makes them, for messages.
        overwrite: whether existing files are replaced.

    Raises:
        ConfigError: a file exists and `overwrite` is false, or `folder` is not a folder.
        BusyError: another process is making them.
        StoreError: they cannot be written.
    """
    path, names = local_path(folder), list(names)
    if not os.path.lexists(path):
        with new_folder(folder, command) as new:
            yield new
        return
    if not path.is_dir():
        raise ConfigError(f"{folder}: expected a folder or nothing, got a file; give another --out")
    refuse = partial(_refuse_files, [path / name for name in names], folder, overwrite=overwrite)
    refuse("give --overwrite, or another --out")
    with open_workspace(path, folder, command=command, parent=path) as workspace:
        refuse("give --overwrite, or another --out")
        new = workspace / NEW
        new.mkdir()
        yield new
        for name in names:
            _flush(new / name)
        _move_all(new, path, names, overwrite=overwrite)


def check_free(folder: Path, target: Path, known_bytes: int) -> None:
    """Check the free space of a disk.

    Args:
        folder: any folder on the disk.
        target: the target, for the message.
        known_bytes: a lower bound of the bytes that will be written.

    Raises:
        StoreError: the disk has less free space than `known_bytes`.
    """
    free = shutil.disk_usage(folder).free
    if known_bytes > free:
        raise StoreError(
            f"{target}: needs more than {known_bytes / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free on that disk; "
            "free some space there, or give a target on another disk. Nothing was written"
        )


def outside_store(store: Store, target: Path) -> Path:
    """The target; ConfigError if it is inside the store."""
    target = Path(target)
    if isinstance(store.place, LocalStore):
        root = Path(os.path.realpath(store.place.root))
        path = local_path(target)
        if root in (path, *path.parents):
            raise ConfigError(f"{target}: lies in the store that is exported; give a target outside of it")
    return target


def write_new(folder: Path, name: str, data: bytes) -> None:
    """Write a new file whose name is encoded as UTF-8, whatever the locale."""
    with open(os.path.join(os.fsencode(folder), name.encode()), "xb") as file:
        file.write(data)


def local_path(target: Path) -> Path:
    """The absolute path of a target, with links resolved; a leading `~` is the user's home folder.

    Raises:
        ConfigError: the target is a URL, or not a valid path.
    """
    if _URL.match(str(target)):
        raise ConfigError(f"{target}: expected a path on this machine, got a URL; write a local file, then copy it there")
    expanded = user_path(target)
    try:
        path = Path(os.path.realpath(expanded))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
        return path
    except (ValueError, OSError) as error:  # a NUL; circular links; too long; a folder without permission
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{target}: cannot be a file or folder here ({reason}); give another name") from error


def _refuse_files(paths: Iterable[Path], folder: Path, advice: str, *, overwrite: bool = False) -> None:
    """ConfigError if a path is a folder, or exists and may not be overwritten."""
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{folder / path.name}: expected a file or nothing, got a folder; give another name")
        if os.path.lexists(path) and not overwrite:
            raise ConfigError(f"{folder / path.name}: exists already; {advice}")


def _refuse_folder(path: Path, target: Path) -> None:
    """ConfigError if a path exists and is not an empty folder."""
    if os.path.lexists(path) and (not path.is_dir() or not all(map(_is_ignored, path.iterdir()))):
        raise ConfigError(f"{target}: exists already; give the name of a new or an empty folder")


def _is_ignored(path: Path) -> bool:
    """Whether a folder with this entry still counts as empty: the entry is a workspace of ours, or a system file."""
    return is_workspace(path) or (is_system_file(path.name) and path.is_file())


def _flush(path: Path) -> None:
    """Flush a file to the disk, which may report only now that it is full."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _move(new: Path, path: Path, *, overwrite: bool = False) -> None:
    """Rename `new` to `path`. Without `overwrite`, an existing path is not replaced, even if it appears at the last moment."""
    if new.is_dir() or overwrite:
        os.replace(new, path)  # a folder can only replace an empty folder
        return
    try:
        os.link(new, path)
    except FileExistsError as error:
        raise ConfigError(f"{path}: was made by another process meanwhile, and is not changed; give another name") from error
    except OSError:  # no hard links on this disk
        if os.path.lexists(path):
            raise
        os.rename(new, path)
    else:
        os.unlink(new)


def _move_all(new: Path, path: Path, names: Iterable[str], *, overwrite: bool = False) -> None:
    """Move files; after an error without `overwrite`, those that were moved are moved back."""
    moved: list[str] = []
    try:
        for name in names:
            _move(new / name, path / name, overwrite=overwrite)
            moved.append(name)
    except BaseException:
        for name in moved:
            if not overwrite:
                os.replace(path / name, new / name)
        raise
