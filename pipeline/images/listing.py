"""Listing images: of a folder, one file, a zip or tar archive, or the `samples`. The one lister of all commands.

Listing goes by names and is the same on every file system. What is an image by its name and cannot be used, and a folder that cannot be
looked into, are listed with the reason. Hidden files and what file servers keep for themselves (thumbnails, recycle bins, snapshots) are
left out. No file is opened, but for those without any suffix, whose first bytes tell whether they are images.
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
from ..decoding.formats import SUFFIXES as SUFFIXES
from ..decoding.formats import UNREAD_SUFFIXES
from ..storage.regular import open_regular, why_not_regular
from .archives import list_members, reason_of, valid_utf8
from .limits import MAX_ARCHIVE_GB as MAX_ARCHIVE_GB
from .limits import Limits as Limits
from .samples import sample_files

log = logging.getLogger(__name__)

_ODD_SUFFIX = re.compile(r"\.(?:png|jpe?g|webp|tiff?|bmp|gif|heic)[^a-z0-9~].*", re.DOTALL)
"""A known suffix and more, as browsers save images: `.jpg_large`, `.jpg?w=800`, `.jpg (1)`. `.jpg~` is an editor's backup."""
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|II[*+]\0|MM\0[*+]|GIF8|....ftyp(?:heic|heix|mif1|avif)", re.DOTALL)
# fmt: off
SET_ASIDE = frozenset((
    "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@synoresource", "@sharebin", "#recycle", "#snapshot", "~snapshot",
    "$recycle.bin", "recycler", "recycled", "lost+found", "system volume information", "network trash folder", "temporary items",
))
# fmt: on
"""Folders of file servers and systems, in lower case: copies, thumbnails and deleted files, never somebody's images."""

Source = str | Path | Sequence[str | Path]
"""What `list_source` takes."""

_MOST_COUNTED = 10_000  # entries of subfolders that are not looked at


@dataclass(frozen=True)
class ImageFile:
    """One image of a source: its name and where its bytes are. Small and picklable."""

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


@dataclass(frozen=True)
class Entry:
    """What `walk` finds."""

    name: str
    """Relative to the root, with `/`, as the system gives it; empty for the root."""
    path: Path
    """Where it lies."""
    is_folder: bool
    """Whether it is a folder, or a link to one."""
    error: OSError | None = None
    """Why a folder could not be looked into."""


def list_source(source: Source, limits: Limits | None = None, *, recursive: bool = True) -> list[ImageFile]:
    """All images of a source, sorted by name (by code points, so everywhere the same).

    Args:
        source: a folder, an image, a zip or tar archive, the word `samples`, or several of these.
        limits: bounds; a compressed tar has to be unpacked to be listed. None takes the defaults.
        recursive: whether folders are searched with their subfolders. If not, one warning says how many images lie in those.

    Raises:
        ImageError: the source does not exist, is none of these, cannot be read, or holds no image.
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
            f"{source}: no such file or folder; expected a folder, an image, a zip, a tar, the word samples, or a data set that `samdiff download` lists"
        )
    if is_image_name(path.name):
        return [
            ImageFile(valid_utf8(path.name), str(path), path.stat().st_size)
        ]  # whoever names a file wants it: its content decides
    return _chosen(_archive_members(path, limits), source, "")


def walk(root: Path, recursive: bool = True) -> Iterator[Entry]:
    """Everything below a folder but what `is_set_aside`, folder by folder, in order of names. Links to folders are followed once."""
    seen: set[tuple[int, int]] = set()
    waiting = [Entry("", root, is_folder=True)]
    while waiting:
        here = waiting.pop()
        try:
            place = os.stat(here.path)
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            with os.scandir(here.path) as found:
                inside = sorted((entry for entry in found if not is_set_aside(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            yield replace(here, error=error)
            continue
        entries = [Entry(f"{here.name}/{e.name}" if here.name else e.name, Path(e.path), _is_folder(e)) for e in inside]
        yield from entries
        if recursive:
            waiting += reversed([entry for entry in entries if entry.is_folder])


def is_set_aside(name: str) -> bool:
    """Whether a path has a part that is hidden, or a folder of a file server or system."""
    return any(part.startswith(".") or part.lower() in SET_ASIDE for part in PurePosixPath(name).parts)


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its name, of a format that is read or of another."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in SUFFIXES or _why_unread(name) != ""


def stray_images(folder: Path, recursive: bool) -> str:
    """How many images of a folder a listing that is not recursive leaves out, in words; empty if there are none."""
    if recursive:
        return ""
    below, folders = 0, set()
    for count, entry in enumerate(walk(folder)):
        if "/" in entry.name and not entry.is_folder and is_image_name(entry.name):
            below += 1
            folders.add(entry.name.partition("/")[0])
        if count >= _MOST_COUNTED:
            return f"not looked at: {below} or more images in subfolders"
    return f"not looked at: {below} in subfolders ({', '.join(map(printable, sorted(folders)[:3]))})" if below else ""


def _of_folder(path: Path, source: str | Path, recursive: bool) -> list[ImageFile]:
    found = list(_images_below(path, recursive))
    stray = stray_images(path, recursive)
    if stray and any(is_image_name(image.name) for image in found):
        log.warning("%s: %s; give -r to take them too", printable(source), stray)
    return _chosen(found, source, stray)


def _chosen(found: Sequence[ImageFile], source: str | Path, stray: str) -> list[ImageFile]:
    """The images among files, sorted; ImageError if there are none."""
    kept = [image for image in found if not is_set_aside(image.name) and is_image_name(image.name) or image.trouble]
    left = Counter(_suffix_of(image.name) for image in found) - Counter(_suffix_of(image.name) for image in kept)
    if not kept:
        common = ", ".join(f"{n} {printable(suffix)[:20]}" for suffix, n in left.most_common(4))
        more = "; ".join(filter(None, [f"found: {common}" if left else "", stray and f"{stray}; give -r to take them"]))
        where = "it" if stray else "it and its subfolders"
        raise ImageError(f"{source}: no images; looked for {', '.join(SUFFIXES)} in {where}{f' ({more})' if more else ''}")
    if left:
        log.info("%s: ignored files that are no images by name: %s", source, dict(left))
    named = [image if image.trouble else replace(image, trouble=_why_unread(image.name)) for image in kept]
    return _unique(sorted(named, key=lambda image: image.name))


def _archive_members(path: Path, limits: Limits) -> list[ImageFile]:
    try:
        members = list_members(str(path), limits.max_archive_bytes)
    except ImageError as error:
        raise ImageError(f"{path}: expected an image ({', '.join(SUFFIXES)}), a zip or a tar archive: {error}") from error
    return [ImageFile(m.name, str(path), m.size, m.place, m.trouble if _counts(m.name) or m.place < 0 else "") for m in members]


def _images_below(root: Path, recursive: bool) -> Iterator[ImageFile]:
    """Files of a folder, whatever else is named like an image, and folders that cannot be looked into."""
    for entry in walk(root, recursive):
        name = valid_utf8(entry.name)
        if entry.error is not None:
            if not entry.name:
                raise ImageError(f"{root}: cannot be read: {reason_of(entry.error)}")
            yield ImageFile(
                f"{name} (folder)", str(entry.path), trouble=f"a folder that cannot be read: {reason_of(entry.error)}"
            )
        elif not entry.is_folder or PurePosixPath(name).suffix.lower() in SUFFIXES:
            size, trouble = _looked_at(entry.path)
            yield ImageFile(
                name, str(entry.path), size, trouble=trouble if is_image_name(name) else _why_hidden(entry.path, trouble)
            )


def _looked_at(path: Path) -> tuple[int, str]:
    """Bytes of a file, and why it is none."""
    try:
        found = path.stat()
        return found.st_size, why_not_regular(found.st_mode)
    except OSError as error:
        return 0, f"cannot be read: {'a link to nowhere' if path.is_symlink() else reason_of(error)}"


def _why_hidden(path: Path, trouble: str) -> str:
    """Why a file without a suffix is not used, if it is an image; empty for all other files."""
    if path.suffix or trouble:
        return ""
    try:
        with open_regular(str(path)) as file:
            image = _MAGIC.match(file.read(16)) is not None
    except (OSError, ImageError):
        return ""
    return "an image whose name has no suffix; add it, such as .jpg" if image else ""


def _why_unread(name: str) -> str:
    """Why an image is not used, by its name alone; empty if it may be, or is no image."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUFFIXES:
        return ""
    if suffix in UNREAD_SUFFIXES:
        return f"{UNREAD_SUFFIXES[suffix]}, a format that samdiff does not read ({suffix}); save it as PNG"
    return f"a suffix that no image has ({printable(suffix)[:20]}); rename it" if _ODD_SUFFIX.fullmatch(suffix) else ""


def _counts(name: str) -> bool:
    return not is_set_aside(name) and is_image_name(name)


def _suffix_of(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "none"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _unique(images: list[ImageFile]) -> list[ImageFile]:
    """Archives may hold a name twice: the second becomes `name (2)`."""
    seen: Counter[str] = Counter()
    out = []
    for image in images:
        seen[image.name] += 1
        n = seen[image.name]
        out.append(replace(image, name=f"{image.name} ({n})") if n > 1 else image)
    return out
