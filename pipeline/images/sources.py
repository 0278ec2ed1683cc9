"""Where images come from: a folder, one file, a zip or tar archive (read in place), or the `samples`.

Listing finds images by name and opens none; whatever is wrong with one shows when it is read. Reading gives bytes and never
extracts anything, so an archive's names cannot lead out of a folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from ...errors import ImageError, printable
from ...runtime import user_path
from ..storage.regular import open_regular, too_large, why_not_regular
from .archives import CHUNK, ArchiveReader, list_members, reason_of, unpacked_in_order, valid_utf8
from .limits import MAX_ARCHIVE_GB as MAX_ARCHIVE_GB
from .limits import Limits as Limits
from .samples import sample_files

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif")
"""File names that count as pictures, in any case; what a file really is decides its content."""

Source = str | Path | Sequence[str | Path]
"""What `list_source` takes."""

_MOST_PASSES = 20  # over a compressed tar; DIV2K in random order takes fewer


@dataclass(frozen=True)
class ImageFile:
    """One picture of a source: its name and where its bytes are. Small and picklable."""

    name: str
    """As users see it, unique in the source: relative to the folder or inside the archive, with `/`; valid UTF-8, no `..`."""
    path: str
    """The file, or the archive that holds it."""
    size: int = 0
    """Bytes, as the folder or the archive states them."""
    member: int | None = None
    """In a zip: its index. In a tar: where its bytes start in the uncompressed archive. None: a file of its own."""
    trouble: str = ""
    """Why it cannot be read, if that is known from the listing."""


class SourceReader(AbstractContextManager["SourceReader"]):
    """Reads pictures' bytes and keeps archives open in between. Safe for threads."""

    def __init__(self) -> None:
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._archives: dict[str, ArchiveReader] = {}

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, picture: ImageFile, limit: int) -> bytes:
        """All bytes of a picture.

        Args:
            picture: from `list_source`.
            limit: most bytes; a longer file is not read at all, and one that only claims to be shorter is read no further.

        Raises:
            ImageError: it cannot be read, or is longer than `limit`.
        """
        return b"".join(self.chunks(picture, limit))

    def chunks(self, picture: ImageFile, limit: int | None = None) -> Iterator[bytes]:
        """The same bytes in pieces of at most 1 MiB; without a limit if it is None."""
        if picture.trouble:
            raise ImageError(picture.trouble)
        length = 0
        try:
            for part in self._chunks(picture, limit):
                length += len(part)
                if limit is not None and length > limit:
                    raise too_large(length, limit)
                yield part
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001 - zipfile, tarfile and the decompressors raise whatever comes on damage
            raise ImageError(f"cannot be read: {reason_of(error)}") from error

    def _chunks(self, picture: ImageFile, limit: int | None) -> Iterator[bytes]:
        if picture.member is None:
            with open_regular(picture.path, limit) as file:
                yield from iter(partial(file.read, CHUNK), b"")
            return
        if limit is not None and picture.size > limit:
            raise too_large(picture.size, limit)
        with self._lock:
            if picture.path not in self._archives:
                self._archives[picture.path] = self._stack.enter_context(closing(ArchiveReader(picture.path)))
            archive = self._archives[picture.path]
        yield from archive.chunks(picture.member, picture.size)


def hash_pictures(pictures: Iterable[ImageFile], limit: int | None = None) -> Iterator[str]:
    """SHA-256 (hex) of each picture's bytes, in order; of its name and nothing else if it cannot be read or is longer than `limit`."""
    with SourceReader() as shelf:
        for picture in pictures:
            digest = hashlib.sha256()
            try:
                for part in shelf.chunks(picture, limit):
                    digest.update(part)
            except ImageError:
                digest = hashlib.sha256(b"unreadable\0" + picture.name.encode())
            yield digest.hexdigest()


def check_archives(pictures: Sequence[ImageFile], limits: Limits) -> None:
    """Refuse archives whose images would unpack to more than `limits` allow; images that are too large by themselves do not count.

    Raises:
        ImageError: names the archive and the option.
    """
    total: dict[str, int] = defaultdict(int)
    for picture in pictures:
        if picture.member is not None and not picture.trouble and picture.size <= limits.max_bytes:
            total[picture.path] += picture.size
    for path, size in total.items():
        if size > limits.max_archive_bytes:
            raise ImageError(
                f"{path}: its images unpack to {size / 1e9:.1f} GB, more than {limits.max_archive_gb:g} GB; "
                "raise --max-archive-gb if they are to be used"
            )
    _check_order(pictures, set(total), limits)


def _check_order(pictures: Sequence[ImageFile], archives: Iterable[str], limits: Limits) -> None:
    for path in archives:
        places = [(p.member, p.size) for p in pictures if p.path == path and p.member is not None and not p.trouble]
        try:
            cost = unpacked_in_order(path, places)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {reason_of(error)}") from error
        if cost > _MOST_PASSES * limits.max_archive_bytes:
            raise ImageError(
                f"{path}: a compressed tar whose images lie in another order than that of their names: {cost / 1e9:.0f} GB would have to be "
                "unpacked to read them one by one; unpack it and give the folder, or raise --max-archive-gb"
            )


def list_source(source: Source, limits: Limits | None = None) -> list[ImageFile]:
    """All pictures of a source, sorted by name (by code points, so everywhere the same).

    Args:
        source: a folder (searched with its subfolders), a picture, a zip or tar archive, the word `samples`, or several of these.
        limits: bounds; a compressed tar has to be unpacked to be listed. None takes the defaults.

    Raises:
        ImageError: the source does not exist, is none of these, or holds no picture.
    """
    limits = limits or Limits()
    if not isinstance(source, str | Path):
        together = [picture for one in source for picture in list_source(one, limits)]
        return _unique(sorted(together, key=lambda picture: picture.name))
    if source == "samples":
        return [ImageFile(path.name, str(path), path.stat().st_size) for path in sample_files()]
    path = user_path(source)
    if os.path.isdir(path):
        found = list(_walk(path))
    elif not os.path.isfile(path):
        if os.path.exists(path):
            raise ImageError(f"{source}: {why_not_regular(os.stat(path).st_mode)}; expected a folder, an image, a zip or a tar")
        raise ImageError(
            f"{source}: no such file or folder; expected a folder, a picture, a zip, a tar, the word samples, or a data set that `samdiff download` lists"
        )
    elif path.suffix.lower() in SUFFIXES:
        found = [ImageFile(valid_utf8(path.name), str(path), path.stat().st_size)]
    else:
        found = _archive_members(path, limits)
    kept = [picture for picture in found if _is_wanted(picture.name) or picture.trouble]
    ignored = Counter(PurePosixPath(picture.name).suffix.lower() or "none" for picture in found) - Counter(
        PurePosixPath(picture.name).suffix.lower() or "none" for picture in kept
    )
    if not kept:
        common = ", ".join(f"{n} {printable(suffix)[:20]}" for suffix, n in ignored.most_common(4))
        others = f" (found: {common})" if ignored else ""
        raise ImageError(f"{source}: no pictures; looked for {', '.join(SUFFIXES)} in it and its subfolders{others}")
    if ignored:
        log.info("%s: ignored files that are no pictures by name: %s", source, dict(ignored))
    return _unique(sorted(kept, key=lambda picture: picture.name))


def _archive_members(path: Path, limits: Limits) -> list[ImageFile]:
    try:
        members = list_members(str(path), limits.max_archive_bytes)
    except ImageError as error:
        raise ImageError(f"{path}: expected a picture ({', '.join(SUFFIXES)}), a zip or a tar archive: {error}") from error
    return [
        ImageFile(m.name, str(path), m.size, m.place, m.trouble if _is_wanted(m.name) or m.place < 0 else "") for m in members
    ]


def _walk(root: Path) -> Iterator[ImageFile]:
    """Files below a folder, and whatever else is named like a picture or cannot be looked into. Links to folders are followed once."""
    seen: set[tuple[int, int]] = set()
    closed: list[OSError] = []
    for here, folders, files in os.walk(root, followlinks=True, onerror=closed.append):
        folders.sort()
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        for name in [*files, *(folder for folder in folders if Path(folder).suffix.lower() in SUFFIXES)]:
            path = Path(here, name)
            size, trouble = 0, ""
            try:
                found = path.stat()
                size, trouble = found.st_size, why_not_regular(found.st_mode)
            except OSError as error:
                trouble = f"cannot be read: {'a link to nowhere' if path.is_symlink() else reason_of(error)}"
            yield ImageFile(
                valid_utf8(path.relative_to(root).as_posix()), str(path), size, trouble=trouble if _is_wanted(name) else ""
            )
    for problem in closed:
        path = Path(os.fsdecode(problem.filename))
        if path == root:
            raise ImageError(f"{root}: cannot be read: {reason_of(problem)}")
        name = valid_utf8(path.relative_to(root).as_posix())
        yield ImageFile(f"{name} (folder)", str(path), trouble=f"a folder that cannot be read: {reason_of(problem)}")


def _is_wanted(name: str) -> bool:
    """Named like a picture, and not hidden, not macOS' resource forks."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _unique(pictures: list[ImageFile]) -> list[ImageFile]:
    """Archives may hold a name twice: the second becomes `name (2)`."""
    seen: Counter[str] = Counter()
    out = []
    for picture in pictures:
        seen[picture.name] += 1
        n = seen[picture.name]
        out.append(replace(picture, name=f"{picture.name} ({n})") if n > 1 else picture)
    return out
