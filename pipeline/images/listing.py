"""Lists images: of a folder, one file, a zip or tar archive, or the `samples`, for all commands.

The listing is sorted by name, and the same on every file system. Files with the suffix of an image that cannot be used, and folders that
cannot be read, are listed with the reason. Hidden files and the private folders of file servers (thumbnails, recycle bins, snapshots) are
left out. Only files without a suffix are opened: their first bytes show whether they are images.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...errors import ImageError, printable
from ...runtime import user_path
from ..decoding.formats import MEASURED_SUFFIXES, UNREAD_SUFFIXES, is_volume_name
from ..decoding.formats import SUFFIXES as SUFFIXES
from ..storage.regular import open_regular, why_not_regular
from .archives import list_members, reason_of, valid_utf8
from .limits import MAX_ARCHIVE_GB as MAX_ARCHIVE_GB
from .limits import Limits as Limits
from .samples import sample_files

log = logging.getLogger(__name__)

_ODD_SUFFIX = re.compile(r"\.(?:png|jpe?g|webp|tiff?|bmp|gif|heic)[^a-z0-9~].*", re.DOTALL)
"""A known suffix with an addition, as browsers save images: `.jpg_large`, `.jpg?w=800`, `.jpg (1)`. `.jpg~` is an editor's backup."""
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|II[*+]\0|MM\0[*+]|GIF8|....ftyp(?:heic|heix|mif1|avif)", re.DOTALL)
# fmt: off
SET_ASIDE = frozenset((
    "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@synoresource", "@sharebin", "#recycle", "#snapshot", "~snapshot",
    "$recycle.bin", "recycler", "recycled", "lost+found", "system volume information", "network trash folder", "temporary items",
))
# fmt: on
"""Folders of file servers and systems, in lower case: they have copies, thumbnails and deleted files."""

Source = str | Path | Sequence[str | Path]
"""Input of `list_source`: a folder, a file, `samples`, or a sequence of these."""

_MOST_COUNTED = 10_000  # bound on the entries that are counted in subfolders which are not searched


@dataclass(frozen=True)
class ImageFile:
    """One image of a source: its name and the location of its bytes. Small and picklable."""

    name: str
    """Unique in the source: path relative to the folder or inside the archive, with `/`; valid UTF-8, no `..`."""
    path: str
    """The file, or the archive that contains it."""
    size: int = 0
    """Bytes, as recorded in the folder or the archive."""
    member: int | None = None
    """In a zip: its index. In a tar: the offset of its bytes in the uncompressed archive. None: not in an archive."""
    problem: str = ""
    """Why it cannot be read, as far as the listing shows; empty: no problem is known."""
    slice: tuple[int, int] | None = None
    """Of a volume: (axis, number) of the slice that is the image; its bytes are those of a file of one slice."""


@dataclass(frozen=True)
class Entry:
    """A file or folder below the root of `walk`."""

    name: str
    """Path relative to the root, with `/`, as the system returns it; empty for the root."""
    path: Path
    """Full path."""
    is_folder: bool
    """Whether it is a folder, or a link to one."""
    error: OSError | None = None
    """Why a folder could not be read; None: it could."""


def list_source(source: Source, limits: Limits | None = None, *, recursive: bool = True) -> list[ImageFile]:
    """All images of a source, sorted by name (by code points, so that the order is the same on every system).

    Args:
        source: a folder, an image, a zip or tar archive, `samples`, or several of these.
        limits: bounds; a compressed tar has to be unpacked to be listed. None: the defaults.
        recursive: whether to search subfolders; if not, a warning reports the number of images in them.

    Raises:
        ImageError: the source does not exist, is none of these, cannot be read, or has no images.
    """
    limits = limits or Limits()
    if not isinstance(source, str | Path):
        together = [image for one in source for image in list_source(one, limits, recursive=recursive)]
        return _unique(sorted(together, key=lambda image: image.name))
    if source == "samples":
        return [ImageFile(path.name, str(path), path.stat().st_size) for path in sample_files()]
    path = user_path(source)
    if os.path.isdir(path):
        return _of_folder(path, source, recursive)
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise ImageError(f"{source}: {why_not_regular(os.stat(path).st_mode)}; expected a folder, an image, a zip or a tar")
        raise ImageError(
            f"{source}: no such file or folder; expected a folder, an image, a zip, a tar, samples, or a data set that `samdiff download` lists"
        )
    if is_image_name(path.name):
        return [ImageFile(valid_utf8(path.name), str(path), path.stat().st_size)]
    return _chosen(_archive_members(path, limits), source, "")


def walk(root: Path, recursive: bool = True) -> Iterator[Entry]:
    """Yield all entries below a folder, sorted by name within each folder, without those that `is_set_aside`. Each folder is visited once."""
    seen: set[tuple[int, int]] = set()
    waiting = [Entry("", root, is_folder=True)]
    while waiting:
        here = waiting.pop()
        try:
            place = os.stat(here.path)
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            with os.scandir(here.path) as scan:
                inside = sorted((entry for entry in scan if not is_set_aside(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            yield replace(here, error=error)
            continue
        entries = [Entry(f"{here.name}/{e.name}" if here.name else e.name, Path(e.path), _is_folder(e)) for e in inside]
        yield from entries
        if recursive:
            waiting += reversed([entry for entry in entries if entry.is_folder])


def is_set_aside(name: str) -> bool:
    """Whether a path has a hidden part, or a folder of a file server or system (`SET_ASIDE`)."""
    return any(part.startswith(".") or part.lower() in SET_ASIDE for part in PurePosixPath(name).parts)


def is_image_name(name: str) -> bool:
    """Whether a file has the suffix of an image, of a supported format or of another one."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in SUFFIXES or suffix in MEASURED_SUFFIXES or is_volume_name(name) or _why_unread(name) != ""


def stray_images(folder: Path, recursive: bool) -> str:
    """A phrase with the number of images that a listing without subfolders leaves out; empty if there are none."""
    if recursive:
        return ""
    below, folders = 0, set()
    for count, entry in enumerate(walk(folder)):
        if "/" in entry.name and not entry.is_folder and is_image_name(entry.name):
            below += 1
            folders.add(entry.name.partition("/")[0])
        if count >= _MOST_COUNTED:
            return f"not searched: {below} or more images in subfolders"
    return f"not searched: {below} in subfolders ({', '.join(map(printable, sorted(folders)[:3]))})" if below else ""


def _of_folder(path: Path, source: str | Path, recursive: bool) -> list[ImageFile]:
    files = list(_images_below(path, recursive))
    stray = stray_images(path, recursive)
    if stray and any(is_image_name(image.name) for image in files):
        log.warning("%s: %s; add -r to include them", printable(source), stray)
    return _chosen(files, source, stray)


def _chosen(files: Sequence[ImageFile], source: str | Path, stray: str) -> list[ImageFile]:
    """The images among files, sorted; ImageError if there are none."""
    kept = [image for image in files if not is_set_aside(image.name) and is_image_name(image.name) or image.problem]
    left = Counter(_suffix_of(image.name) for image in files) - Counter(_suffix_of(image.name) for image in kept)
    if not kept:
        common = ", ".join(f"{n} {printable(suffix)[:20]}" for suffix, n in left.most_common(4))
        more = "; ".join(filter(None, [f"found: {common}" if left else "", stray and f"{stray}; add -r to include them"]))
        where = "it" if stray else "it and its subfolders"
        raise ImageError(f"{source}: no images; looked for {', '.join(SUFFIXES)} in {where}{f' ({more})' if more else ''}")
    if left:
        log.info("%s: ignored files without the suffix of an image: %s", source, dict(left))
    named = [image if image.problem else replace(image, problem=_why_unread(image.name)) for image in kept]
    return _unique(sorted(named, key=lambda image: image.name))


def _archive_members(path: Path, limits: Limits) -> list[ImageFile]:
    try:
        members = list_members(str(path), limits.max_archive_bytes)
    except ImageError as error:
        raise ImageError(f"{path}: expected an image ({', '.join(SUFFIXES)}), a zip or a tar archive: {error}") from error
    return [
        ImageFile(m.name, str(path), m.size, member=m.place, problem=m.problem if _counts(m.name) or m.place < 0 else "")
        for m in members
    ]


def _images_below(root: Path, recursive: bool) -> Iterator[ImageFile]:
    """Yield the files of a folder, everything else with the suffix of an image, and folders that cannot be read."""
    for entry in walk(root, recursive):
        name = valid_utf8(entry.name)
        if entry.error is not None:
            if not entry.name:
                raise ImageError(f"{root}: cannot be read: {reason_of(entry.error)}")
            yield ImageFile(
                f"{name} (folder)", str(entry.path), problem=f"a folder that cannot be read: {reason_of(entry.error)}"
            )
        elif not entry.is_folder or PurePosixPath(name).suffix.lower() in SUFFIXES:
            size, problem = _size_of(entry.path)
            yield ImageFile(
                name, str(entry.path), size, problem=problem if is_image_name(name) else _why_hidden(entry.path, problem)
            )


def _size_of(path: Path) -> tuple[int, str]:
    """Bytes of a file, and why it is not a regular file (empty if it is)."""
    try:
        status = path.stat()
        return status.st_size, why_not_regular(status.st_mode)
    except OSError as error:
        return 0, f"cannot be read: {'a dangling link' if path.is_symlink() else reason_of(error)}"


def _why_hidden(path: Path, problem: str) -> str:
    """Why a file without a suffix is not used, if its content is an image; empty for all other files."""
    if path.suffix or problem:
        return ""
    try:
        with open_regular(str(path)) as file:
            image = _MAGIC.match(file.read(16)) is not None
    except (OSError, ImageError):
        return ""
    return "an image whose name has no suffix; add one, such as .jpg" if image else ""


def _why_unread(name: str) -> str:
    """Why an image is not used, from its suffix alone; empty if its format is supported, or it is no image."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUFFIXES or suffix in MEASURED_SUFFIXES or is_volume_name(name):
        return ""
    if suffix in UNREAD_SUFFIXES:
        return f"{UNREAD_SUFFIXES[suffix]}, a format that samdiff does not read ({suffix}); save it as PNG"
    return f"not a suffix of images ({printable(suffix)[:20]}); rename it" if _ODD_SUFFIX.fullmatch(suffix) else ""


def _counts(name: str) -> bool:
    return not is_set_aside(name) and is_image_name(name)


def _suffix_of(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "none"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _unique(images: list[ImageFile]) -> list[ImageFile]:
    """Make names unique: archives can have a name twice, and the second becomes `name (2)`."""
    seen: Counter[str] = Counter()
    out = []
    for image in images:
        seen[image.name] += 1
        n = seen[image.name]
        out.append(replace(image, name=f"{image.name} ({n})") if n > 1 else image)
    return out
