"""What lies in a place and is not ours. The law: what no record of ours names is never changed, replaced or deleted.

A name alone makes nothing ours: a folder `images` may be anybody's. Ours is a file whose whole key a record names, or the partial
file of such a key (`keystore.partial_of`). The system's own files, such as `.DS_Store`, may lie anywhere; they are left alone.
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
"""Files that file managers put into any folder that is looked at."""
_SYSTEM_FOLDERS = frozenset({"@eaDir", "@tmp", "__MACOSX", ".AppleDouble", ".@__thumb"})
"""Folders that file servers put into any folder that they keep an index of."""


def is_system_file(key: str) -> bool:
    """Whether a key is the name of a file that a file manager makes, lies in a server's own folder, or is one of macOS' resource forks."""
    path = PurePosixPath(key)
    return path.name in SYSTEM_FILES or path.name.startswith("._") or any(part in _SYSTEM_FOLDERS for part in path.parts)


def foreign_names(place: KeyStore, ours: Collection[str] = ()) -> Iterator[str]:
    """What lies in a place and is neither one of our keys, nor partial of one, nor the system's; folders and links end in `/` and ` (a link)`.

    Args:
        place: a folder is read without following links, and no deeper than the folders of our keys; in it a link, a device and
            an empty folder are foreign, too.
        ours: keys, such as `images/name/zarr.json`.
    """
    ours = frozenset(ours)
    if isinstance(place, LocalStore):
        folders = {parent.as_posix() for key in ours for parent in PurePosixPath(key).parents}
        yield from _foreign_below(place.root, "", ours, folders) if os.path.lexists(place.root) else ()
    else:
        yield from (key or "an object of that very name" for key in place.list_keys() if not _is_known(key, ours))


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names for a message, safe to print; empty if there is none."""
    first = list(islice(names, most + 1))
    return ", ".join(printable(name) for name in first[:most]) + (", …" if len(first) > most else "")


def is_plain_file(path: Path) -> bool:
    """Whether a file lies there that can be read without waiting: no link, folder, pipe or device."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def refuse_foreign(out: KeyStore, ours: Collection[str]) -> None:
    """StoreError if a store's target is anything but nothing, an empty folder, or what an unfinished write of ours left (its keys)."""
    if isinstance(out, LocalStore) and os.path.lexists(out.root) and not out.root.is_dir():
        what = "a link to nowhere" if out.root.is_symlink() else "a file"
        raise StoreError(f"{out}: expected a folder or nothing, got {what}; give another --out")
    if there := some(foreign_names(out, ours)):
        raise StoreError(f"{out}: holds files that are not a store's ({there}); give another --out, or move them away")


def refuse_links(root: Path) -> None:
    """StoreError if a folder that is ours to fill and to remove is a link to another one, or no folder."""
    if root.is_symlink() or (os.path.lexists(root) and not root.is_dir()):
        what = f"a link to {printable(os.path.realpath(root))}" if root.is_symlink() else "a file"
        raise StoreError(f"{root}: expected a folder of samdiff's or nothing, got {what}; move it away, or give another --out")


def _foreign_below(root: Path, prefix: str, ours: frozenset[str], folders: Collection[str]) -> Iterator[str]:
    try:
        with os.scandir(root / prefix) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(root / prefix, error) from error
    for entry in entries:
        key = prefix + entry.name
        if entry.is_symlink():
            yield f"{key} (a link)"
        elif entry.is_dir(follow_symlinks=False):
            if key in folders:
                yield from _foreign_below(root, f"{key}/", ours, folders)
            elif not is_system_file(key):
                yield f"{key}/"
        elif not entry.is_file(follow_symlinks=False) or not _is_known(key, ours):
            yield key


def _is_known(key: str, ours: frozenset[str]) -> bool:
    return key in ours or partial_of(key) in ours or is_system_file(key)
