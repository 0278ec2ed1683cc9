"""Foreign files: files in a store's folder that samdiff did not write. They are never changed, replaced or deleted.

A file is ours if its whole key is in a record of ours, or if it is the partial file of such a key (`atomic.partial_of`). A plausible
name is not enough: any program may make a folder `images`. Files of the operating system, such as `.DS_Store`, are ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from ...errors import StoreError, printable
from .atomic import partial_of, unreadable
from .local import KeyStore, LocalStore

SYSTEM_FILES = frozenset({".DS_Store", ".localized", ".directory", "Thumbs.db", "desktop.ini"})
"""Files that file managers make in any folder."""
_SYSTEM_FOLDERS = frozenset({"@eaDir", "@tmp", "__MACOSX", ".AppleDouble", ".@__thumb"})
"""Folders that file servers make in any folder."""


def is_system_file(key: str) -> bool:
    """Whether a key is a file manager's file, a macOS resource fork, or in a file server's folder."""
    path = PurePosixPath(key)
    return path.name in SYSTEM_FILES or path.name.startswith("._") or any(part in _SYSTEM_FOLDERS for part in path.parts)


def foreign_names(place: KeyStore, ours: Collection[str] = ()) -> Iterator[str]:
    """Names of foreign files and folders, see the module. A folder ends in `/`, a link in ` (a link)`.

    Args:
        place: a folder or a URL. In a folder, links, devices and empty folders are foreign too. Links are not followed, and only
            folders of our keys are listed.
        ours: our keys, such as `images/name/zarr.json`.
    """
    ours = frozenset(ours)
    if isinstance(place, LocalStore):
        folders = {parent.as_posix() for key in ours for parent in PurePosixPath(key).parents}
        yield from _foreign_below(place.root, "", ours=ours, folders=folders) if os.path.lexists(place.root) else ()
    else:
        yield from (key or "an object of the same name" for key in place.list_keys() if not _is_known(key, ours))


def some(names: Iterable[str], most: int = 3) -> str:
    """The first `most` names for a message, safe to print; empty if there is none."""
    first = list(islice(names, most + 1))
    return ", ".join(printable(name) for name in first[:most]) + (", …" if len(first) > most else "")


def is_plain_file(path: Path) -> bool:
    """Whether the path is a regular file: no link, folder, pipe or device. False if it cannot be checked."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def refuse_foreign(out: KeyStore, ours: Collection[str]) -> None:
    """Raise a StoreError unless a store's target is missing, an empty folder, or has only our keys of an interrupted write."""
    if isinstance(out, LocalStore) and os.path.lexists(out.root) and not out.root.is_dir():
        what = "a broken link" if out.root.is_symlink() else "a file"
        raise StoreError(f"{out}: expected a folder or nothing, got {what}; give another --out")
    if names := some(foreign_names(out, ours)):
        raise StoreError(f"{out}: holds files that are not a store's ({names}); give another --out, or move them away")


def refuse_links(root: Path) -> None:
    """Raise a StoreError if a folder of ours, such as the staging folder, is a link or a file."""
    if root.is_symlink() or (os.path.lexists(root) and not root.is_dir()):
        what = f"a link to {printable(os.path.realpath(root))}" if root.is_symlink() else "a file"
        raise StoreError(f"{root}: expected a folder of samdiff or nothing, got {what}; move it away, or give another --out")


def _foreign_below(root: Path, prefix: str, *, ours: frozenset[str], folders: Collection[str]) -> Iterator[str]:
    try:
        with os.scandir(root / prefix) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(root / prefix, error) from error
    for entry in entries:
        key = prefix + entry.name
        if entry.is_symlink():
            yield f"{key} (a link)"
        elif entry.is_dir(follow_symlinks=False):
            if key in folders:
                yield from _foreign_below(root, f"{key}/", ours=ours, folders=folders)
            elif not is_system_file(key):
                yield f"{key}/"
        elif not entry.is_file(follow_symlinks=False) or not _is_known(key, ours):
            yield key


def _is_known(key: str, ours: frozenset[str]) -> bool:
    return key in ours or partial_of(key) in ours or is_system_file(key)
