"""The output files of a run: an input is never overwritten, and an existing file is replaced only if that was requested.

Files are compared by identity and not by name. This covers hard links, symbolic links, `..`, relative paths, and names that differ only in
case on a case-insensitive disk. `look` reads the disk, `judge` decides, `Outputs` does both for the files of one run.
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
NOTHING, FILE, DEAD_LINK = "nothing", "a file", "a broken link"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LEFT_OVER = re.compile(rf"\.(.+)\.[0-9a-f]{{32}}{re.escape(PARTIAL)}", re.DOTALL)
_OLD_S = 3600.0  # seconds; without locks, a partial file that was not changed for so long is taken to have no writer

Key = tuple[object, ...]
"""An identity of a file: its device and inode, or its folder and name."""


@dataclass(frozen=True)
class Entry:
    """What exists at a path."""

    kind: str
    """`NOTHING`, `FILE`, `DEAD_LINK`, or a description such as `a folder`."""
    keys: frozenset[Key]
    """All identities of the path: its folder and name, the file itself, and the target of a link."""
    place: Key
    """The identity by folder and name, which a missing file has too."""
    own: Key | None = None
    """The identity of the file or link itself; None if the path does not exist."""


def look(path: str | Path, folders: dict[str, Key] | None = None) -> Entry:
    """What exists at a path. Nothing is opened.

    Args:
        path: a file, or a path that does not exist.
        folders: a cache of folders' identities, extended by this call; it makes many files of one folder cheap.

    Raises:
        OSError: the path cannot be examined (the name is too long, or a folder may not be searched).
    """
    place = place_of(path, folders)
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entry(NOTHING, keys=frozenset({place}), place=place)
    own: Key = ("file", status.st_dev, status.st_ino)
    keys = {place, own}
    if stat.S_ISLNK(status.st_mode):
        try:
            status = os.stat(path)
        except OSError:  # the target does not exist, or the links form a circle
            return Entry(DEAD_LINK, keys=frozenset(keys), place=place, own=own)
        keys.add(("file", status.st_dev, status.st_ino))
    kind = FILE if stat.S_ISREG(status.st_mode) else _KINDS.get(stat.S_IFMT(status.st_mode), "not a file")
    return Entry(kind, keys=frozenset(keys), place=place, own=own)


def place_of(path: str | Path, folders: dict[str, Key] | None = None) -> Key:
    """The identity of a path by its folder and name: the same for `a.png`, `./a.png` and `in/../a.png`. The file itself is not examined."""
    parent, name = os.path.split(os.path.normpath(path) if os.path.basename(path) in ("", ".") else os.fspath(path))
    known = {} if folders is None else folders
    if parent not in known:
        known[parent] = _identity(parent or ".") or (os.path.realpath(parent),)
    return ("place", *known[parent], name)


def judge(target: Entry, inputs: Mapping[Key, Path], *, overwrite: bool, resumes: bool = False) -> str:
    """Why a file may not be written, as a phrase to follow its name; empty if it may. Pure.

    Args:
        target: what exists at the path.
        inputs: identity -> path of every file that the run reads.
        overwrite: whether existing files may be replaced.
        resumes: the run later keeps an existing file that holds the result of identical work. The answer for such a file is therefore
            `EXISTS`, even if it is an input too; it is not overwritten in either case.
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
    """The output files of one run, checked against its inputs. The time is proportional to the number of files."""

    def __init__(self, inputs: Iterable[str | Path], overwrite: bool = False, resumes: bool = False) -> None:
        """
        Args:
            inputs: every file that the run reads, including unreadable ones.
            overwrite: whether existing files may be replaced.
            resumes: see `judge`.
        """
        self.overwrite, self.resumes = overwrite, resumes
        self._folders: dict[str, Key] = {}
        self._read: dict[Key, Path] = {}
        self._written: dict[Key, Path] = {}
        for path in inputs:
            with suppress(OSError):  # a path that cannot be examined cannot be an output either, see `problem`
                for key in look(path, self._folders).keys:
                    self._read.setdefault(key, Path(path))

    def problem(self, target: Path, source: Path | None = None) -> str:
        """Why a file may not be written, as a phrase to follow its name; empty if it may.

        Args:
            target: the file.
            source: the input that it is made from; None: no single one.
        """
        try:
            entry = look(target, self._folders)
            own = look(source, self._folders) if source is not None else None
        except OSError as error:
            return f"cannot be written ({error.strerror or error}); give another --out"
        if own is not None and entry.keys & own.keys:
            return ITSELF
        if entry.own in self._written:
            return f"was written by this command before, from another input ({printable(self._written[entry.own])})"
        return judge(entry, self._read, overwrite=self.overwrite, resumes=self.resumes)

    def wrote(self, target: Path) -> None:
        """Remember a file that was written, so that the same run does not replace it, under whatever name."""
        own = look(target, self._folders).own
        if own is not None:
            self._written[own] = target

    def clash(self, targets: Sequence[Path]) -> Path | None:
        """The first target that would be the same file as an earlier one; None if all differ."""
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
    """Check before any work that all files of a command may be written. Also removes partial files that killed runs left of them.

    Args:
        outputs: (the option that sets it, the file).
        inputs: every file that the command reads.
        overwrite: whether existing files may be replaced.

    Raises:
        ConfigError: a file is an input, exists already, is a folder, FIFO or device, has a parent that is not a folder or not
            writable, or two of them are the same file.
    """
    guard = Outputs(inputs, overwrite)
    for option, path in outputs:
        if reason := guard.problem(path) or folder_problem(path.parent) or place_problem(path):
            raise ConfigError(f"{printable(path)}: {reason.replace('--out', option)}")
    duplicate = guard.clash([path for _, path in outputs])
    if duplicate is not None:
        raise ConfigError(f"{printable(duplicate)}: two outputs of this command are this same file; give each its own name")
    sweep_outputs(path for _, path in outputs)


def folder_problem(folder: Path) -> str:
    """Why a folder cannot be made, as a phrase to follow a file's name; empty if it exists or can be made."""
    with suppress(OSError):  # a path that cannot be examined is reported when it is written
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if os.path.lexists(folder) and not folder.is_dir():
            return f"cannot be written ({printable(folder)} is not a folder); give another --out"
    return ""


def place_problem(target: Path) -> str:
    """Why no file can be made in a target's folder (or its nearest existing parent), as a phrase to follow its name; empty if one can.

    An empty file is made and removed there, so that missing permissions and read-only or full disks are reported before the work.
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
    """Write a file atomically, and its missing folders. An existing file, even one that has just appeared, is replaced only with `overwrite`.

    Raises:
        SamdiffError: the target exists, is not a file, or cannot be written.
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
    """Raise an OSError if the target could not be written. Makes its missing folders."""
    target.parent.mkdir(parents=True, exist_ok=True)
    probe = target.with_name(partial_name(target.name))
    with open(probe, "xb"):
        pass
    probe.unlink()


def sweep_outputs(targets: Iterable[Path]) -> int:
    """Remove partial files of these targets that killed runs left; returns their number.

    A name must be exactly one that `write_atomic` makes for one of the targets. A file that another process is writing is kept.
    """
    stems: dict[Path, set[str]] = {}
    for target in targets:
        stems.setdefault(target.parent, set()).add(partial_stem(target.name))
    count = 0
    for folder, names in stems.items():
        with suppress(OSError), os.scandir(folder) as entries:  # the folder may be missing or unreadable
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
    """The files that a path stands for: the file itself, or the files directly in a folder."""
    if path.is_dir():
        with suppress(OSError):
            return [entry for entry in path.iterdir() if not entry.is_dir()]
    return [path]


def _identity(folder: str) -> Key | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _one_name(folder: Path, first: str, second: str) -> bool:
    """Whether two names that differ only in case or Unicode normalization are one file on this disk; tried with empty files."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".samdiff-{uuid.uuid4().hex}", dir=folder) as scratch:
            Path(scratch, first).touch()
            return Path(scratch, second).exists()
    except OSError:  # not writable, which is reported when the output is written
        return False


def _abandoned(partial: str) -> bool:
    """Whether no process is writing a partial file: the system releases the lock of a killed writer."""
    try:
        with open(os.open(partial, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)), "rb+") as file:
            free = hold(file)
            return time.time() - os.fstat(file.fileno()).st_mtime > _OLD_S if free is None else free
    except OSError:
        return False
