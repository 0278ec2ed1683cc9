"""What a run reads and what it writes: an input is never an output, and a file that exists is replaced only where that was requested.

Files are compared by identity, not by name, so hard links, symbolic links, `..`, relative paths and names that differ only in case on a
disk that ignores it are seen through. `look` asks the disk, `judge` decides, `Outputs` does both for the files of one run.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
import unicodedata
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError, SamdiffError, printable
from .atomic import PARTIAL, advice, hold, partial_name, partial_stem, write_atomic

EXISTS = "exists already; give --overwrite, or another --out"
ITSELF = "is the input itself; give --suffix or --out"
NOTHING, FILE, DEAD_LINK = "nothing", "a file", "a link to nothing"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LEFT_OVER = re.compile(rf"\.(.+)\.[0-9a-f]{{32}}{re.escape(PARTIAL)}", re.DOTALL)
_OLD_S = 3600.0  # a partial file untouched for so long has no writer, where the disk has no locks to tell

Key = tuple[object, ...]
"""One way in which two paths can mean one file: by device and inode, or by folder and name."""


@dataclass(frozen=True)
class Entry:
    """What lies at a path."""

    kind: str
    """`NOTHING`, `FILE`, `DEAD_LINK`, or in words what else it is."""
    keys: frozenset[Key]
    """All identities of the path: of its folder and name, of itself, and of what it leads to if it is a link."""
    place: Key
    """The first of them, which is there for files to come, too."""
    own: Key | None = None
    """The identity of the file or link itself; None if there is nothing."""


def look(path: str | Path, folders: dict[str, Key] | None = None) -> Entry:
    """Ask the disk what lies at a path. Nothing is opened.

    Args:
        path: of a file or of nothing.
        folders: identities of folders that were looked at before; filled. Makes many files of one folder cheap.

    Raises:
        OSError: the disk does not say (a name that is too long, a folder that may not be searched).
    """
    place = place_of(path, folders)
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entry(NOTHING, frozenset({place}), place)
    own: Key = ("file", found.st_dev, found.st_ino)
    keys = {place, own}
    if stat.S_ISLNK(found.st_mode):
        try:
            found = os.stat(path)
        except OSError:  # it leads to nothing, or in a circle
            return Entry(DEAD_LINK, frozenset(keys), place, own)
        keys.add(("file", found.st_dev, found.st_ino))
    kind = FILE if stat.S_ISREG(found.st_mode) else _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
    return Entry(kind, frozenset(keys), place, own)


def place_of(path: str | Path, folders: dict[str, Key] | None = None) -> Key:
    """The identity of a path by its folder and name, the same for `a.png`, `./a.png` and `in/../a.png`; the file itself is not looked at."""
    parent, name = os.path.split(os.path.normpath(path) if os.path.basename(path) in ("", ".") else os.fspath(path))
    known = {} if folders is None else folders
    if parent not in known:
        known[parent] = _identity(parent or ".") or (os.path.realpath(parent),)
    return ("place", *known[parent], name)


def judge(target: Entry, inputs: Mapping[Key, Path], overwrite: bool, resumes: bool = False) -> str:
    """Why a file may not be written, in words that follow its name; empty if it may. Pure.

    Args:
        target: what lies there.
        inputs: every file that the run reads, by all of its keys.
        overwrite: whether files that exist may be replaced.
        resumes: a file that exists is looked at later, and kept if it holds the result of identical work; so it is `EXISTS` for now, even
            if the run reads it as well. Nothing is written over it either way.
    """
    if target.kind not in (NOTHING, FILE, DEAD_LINK):
        return f"is {target.kind}, expected a file or nothing; give another --out"
    exists = target.kind != NOTHING
    if exists and not overwrite and resumes:
        return EXISTS
    read = next((inputs[key] for key in target.keys if key in inputs), None)
    if read is not None:
        return f"is an input of this command ({printable(read)}), and inputs are never overwritten; give another --out"
    return EXISTS if exists and not overwrite else ""


class Outputs:
    """The outputs of one run beside its inputs. Looking at N files takes a time proportional to N."""

    def __init__(self, inputs: Iterable[str | Path], overwrite: bool = False, resumes: bool = False) -> None:
        """
        Args:
            inputs: every file that the run reads, those that will turn out to be unreadable too.
            overwrite: whether files that exist may be replaced.
            resumes: see `judge`.
        """
        self.overwrite, self.resumes = overwrite, resumes
        self._folders: dict[str, Key] = {}
        self._read: dict[Key, Path] = {}
        self._written: dict[Key, Path] = {}
        for path in inputs:
            with suppress(OSError):  # what cannot even be looked at cannot be an output either: `trouble` says so
                for key in look(path, self._folders).keys:
                    self._read.setdefault(key, Path(path))

    def trouble(self, target: Path, source: Path | None = None) -> str:
        """Why a file may not be written, in words that follow its name; empty if it may.

        Args:
            target: the file.
            source: the input that it is made from, if it is made from one.
        """
        try:
            there = look(target, self._folders)
            own = look(source, self._folders) if source is not None else None
        except OSError as error:
            return f"cannot be written ({error.strerror or error}); give another --out"
        if own is not None and there.keys & own.keys:
            return ITSELF
        if there.own in self._written:
            return f"was written by this command before, from another input ({printable(self._written[there.own])})"
        return judge(there, self._read, self.overwrite, self.resumes)

    def wrote(self, target: Path) -> None:
        """Remember a file that was written, so that the same run never replaces it, whatever the disk takes for one name."""
        own = look(target, self._folders).own
        if own is not None:
            self._written[own] = target

    def clash(self, targets: Sequence[Path]) -> Path | None:
        """The first target that would be one file with an earlier one; None if all are different."""
        seen: set[Key] = set()
        folded: dict[Key, Path] = {}
        for target in targets:
            place = place_of(target, self._folders)
            if place in seen:
                return target
            seen.add(place)
            *folder, name = place
            alike = folded.setdefault((*folder, unicodedata.normalize("NFC", str(name)).casefold()), target)
            if alike is not target and _one_name(target.parent, alike.name, target.name):
                return target
        return None


def claim_outputs(outputs: Sequence[tuple[str, Path]], inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Before any work of a command: may all of its files be written? Also removes what killed runs left of these very files.

    Args:
        outputs: (the option that names it, the file).
        inputs: every file that the command reads.
        overwrite: whether files that exist may be replaced.

    Raises:
        ConfigError: a file is an input, exists already, is a folder, FIFO or device, or lies in none, or two of them are one.
    """
    guard = Outputs(inputs, overwrite)
    for option, path in outputs:
        if reason := guard.trouble(path) or folder_trouble(path.parent) or place_trouble(path):
            raise ConfigError(f"{printable(path)}: {reason.replace('--out', option)}")
    double = guard.clash([path for _, path in outputs])
    if double is not None:
        raise ConfigError(f"{printable(double)}: two results of this command would go to this one file; give each its own name")
    sweep_outputs(path for _, path in outputs)


def folder_trouble(folder: Path) -> str:
    """Why a folder cannot be made, in words that follow a file's name; empty if it is there or may be made."""
    with suppress(OSError):  # what cannot be looked at is reported by whoever writes
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if os.path.lexists(folder) and not folder.is_dir():
            return f"cannot be written ({printable(folder)} is no folder); give another --out"
    return ""


def place_trouble(target: Path) -> str:
    """Why no file could be made in a target's folder, or in the one that its missing folders would be made in; empty if one could.

    An empty file is made and removed there, so that permissions and disks that are read-only or full are found before the work.
    """
    folder = target.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        try_place(folder / target.name)
    except OSError as error:
        return f"cannot be written ({error.strerror or error}); {advice(error)}, or give another --out"
    return ""


def write_output(target: Path, data: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all; one that exists is replaced only with `overwrite`, also if it appeared a moment ago.

    Raises:
        SamdiffError: it exists, is no file, or cannot be written.
    """
    try:
        kind = look(target).kind
        if kind not in (NOTHING, FILE, DEAD_LINK):
            raise SamdiffError(f"{printable(target)}: is {kind}, expected a file or nothing; give another --out")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, data, replace=overwrite)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(target):
            raise SamdiffError(f"{printable(target)}: {EXISTS}") from error
        raise SamdiffError(
            f"{printable(target)}: cannot be written ({error.strerror or error}); {advice(error)}, or give another --out"
        ) from error


def try_place(target: Path) -> None:
    """OSError if no file could be written there. Makes the missing folders."""
    target.parent.mkdir(parents=True, exist_ok=True)
    probe = target.with_name(partial_name(target.name))
    with open(probe, "xb"):
        pass
    probe.unlink()


def sweep_outputs(targets: Iterable[Path]) -> int:
    """Remove the hidden partial files that killed runs left of these targets, and nothing else; returns how many there were.

    A name must be exactly of the form that `write_atomic` gives to one of the targets; a file that another process is writing stays.
    """
    wanted: dict[Path, set[str]] = {}
    for target in targets:
        wanted.setdefault(target.parent, set()).add(partial_stem(target.name))
    count = 0
    for folder, names in wanted.items():
        with suppress(OSError), os.scandir(folder) as entries:  # no such folder, or it may not be listed: nothing to sweep
            left = [
                e.path
                for e in entries
                if (m := _LEFT_OVER.fullmatch(e.name)) and m[1] in names and e.is_file(follow_symlinks=False)
            ]
            for path in filter(_abandoned, left):
                os.unlink(path)
                count += 1
    return count


def files_of(path: Path) -> list[Path]:
    """What is read where a file or a run's folder is given: the file, or the files of the folder (not of its folders)."""
    if path.is_dir():
        with suppress(OSError):
            return [entry for entry in path.iterdir() if not entry.is_dir()]
    return [path]


def _identity(folder: str) -> Key | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _one_name(folder: Path, first: str, second: str) -> bool:
    """Whether the disk takes two names that differ in case, or in how their letters are composed, for one. Asked with empty files."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".samdiff-{uuid.uuid4().hex}", dir=folder) as scratch:
            Path(scratch, first).touch()
            return Path(scratch, second).exists()
    except OSError:  # nothing can be written there anyway, which is said when it is tried
        return False


def _abandoned(partial: str) -> bool:
    """Whether no process is writing a partial file: the system takes a killed writer's lock away."""
    try:
        with open(os.open(partial, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)), "rb+") as file:
            free = hold(file)
            return time.time() - os.fstat(file.fileno()).st_mtime > _OLD_S if free is None else free
    except OSError:
        return False
