"""Reads listed images: files of a folder, or members of a zip or tar archive, which is read in place.

Nothing is extracted, so that names in an archive cannot lead out of a folder. For listing see `listing`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from functools import partial

from ...errors import ImageError, printable
from ..decoding.formats import is_volume_name
from ..storage.regular import open_regular, too_large
from ..volumes.nifti import checked_volume, slice_bytes, slice_names
from .archives import CHUNK, ArchiveReader, reason_of, unpacked_in_order
from .listing import MAX_ARCHIVE_GB as MAX_ARCHIVE_GB
from .listing import SUFFIXES as SUFFIXES
from .listing import ImageFile as ImageFile
from .listing import Limits as Limits
from .listing import Source as Source
from .listing import list_source as list_source

log = logging.getLogger(__name__)

_MOST_PASSES = 20  # bound on the times that a compressed tar is unpacked; DIV2K in random order takes fewer


class SourceReader(AbstractContextManager["SourceReader"]):
    """Reads the bytes of images, and keeps archives open between reads. Thread-safe."""

    def __init__(self) -> None:
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._archives: dict[str, ArchiveReader] = {}

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, image_file: ImageFile, limit: int) -> bytes:
        """All bytes of an image.

        Args:
            image_file: from `list_source`.
            limit: bound on the bytes, checked before reading and, as recorded sizes can be false, while reading.

        Raises:
            ImageError: it cannot be read, or is longer than `limit`.
        """
        return b"".join(self.chunks(image_file, limit))

    def chunks(self, image_file: ImageFile, limit: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of an image, at most 1 MiB at a time (a slice: all at once); see `read`. None: no limit."""
        if image_file.problem:
            raise ImageError(image_file.problem)
        length = 0
        try:
            for part in self._chunks(image_file, limit):
                length += len(part)
                if limit is not None and length > limit:
                    raise too_large(length, limit)
                yield part
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001 - zipfile, tarfile and the decompressors raise exceptions of any type on damage
            raise ImageError(f"cannot be read: {reason_of(error)}") from error

    def _chunks(self, image_file: ImageFile, limit: int | None) -> Iterator[bytes]:
        if image_file.slice is not None:
            axis, number = image_file.slice
            most = math.inf if limit is None else limit
            yield slice_bytes(self.chunks(replace(image_file, slice=None)), axis, number, most_bytes=most)
            return
        if image_file.member is None:
            with open_regular(image_file.path, limit) as file:
                yield from iter(partial(file.read, CHUNK), b"")
            return
        if limit is not None and image_file.size > limit:
            raise too_large(image_file.size, limit)
        with self._lock:
            if image_file.path not in self._archives:
                self._archives[image_file.path] = self._stack.enter_context(closing(ArchiveReader(image_file.path)))
            archive = self._archives[image_file.path]
        yield from archive.chunks(image_file.member, image_file.size)


def hash_images(image_files: Iterable[ImageFile], limit: int | None = None) -> Iterator[str]:
    """Yield the SHA-256 (hex) of each image's bytes, in order; of its name alone if it cannot be read or is longer than `limit`."""
    with SourceReader() as source_reader:
        for image_file in image_files:
            digest = hashlib.sha256()
            try:
                for part in source_reader.chunks(image_file, limit):
                    digest.update(part)
            except ImageError:
                digest = hashlib.sha256(b"unreadable\0" + image_file.name.encode())
            yield digest.hexdigest()


def with_slices(image_files: Iterable[ImageFile], *, axis: str, limits: Limits) -> list[ImageFile]:
    """The images of a listing, with the slices of each volume in its place.

    Args:
        image_files: from `list_source`.
        axis: of the slices, see `Header.slice_axis`.
        limits: bounds on the size of a slice.
    """
    given, images = list(image_files), list[ImageFile]()
    names = {image_file.name for image_file in given}
    with SourceReader() as source_reader:
        for image_file in given:
            if image_file.problem or not is_volume_name(image_file.name):
                images.append(image_file)
                continue
            try:
                header, across = checked_volume(source_reader.chunks(image_file), axis, limits.max_bytes)
            except ImageError as error:
                images.append(replace(image_file, problem=str(error)))
                continue
            if header.volumes > 1:
                log.warning("%s: only the first of %s volumes is read", printable(image_file.name), header.volumes)
            made, repeated = slice_names(image_file.name, across, header), 1
            while not names.isdisjoint(made):  # such as those of a.nii and a.nii.gz
                repeated += 1
                made = slice_names(image_file.name, across, header, repeated=repeated)
            names.update(made)
            images += [replace(image_file, name=name, slice=(across, number)) for number, name in enumerate(made)]
    return images


def check_archives(image_files: Sequence[ImageFile], limits: Limits) -> None:
    """Check the unpacked size of archives; images above the size limit of a single image are skipped, and not counted.

    Raises:
        ImageError: the images of an archive unpack to more than `limits.max_archive_gb`.
    """
    total: dict[str, int] = defaultdict(int)
    for image_file in image_files:
        if image_file.member is not None and not image_file.problem and image_file.size <= limits.max_bytes:
            total[image_file.path] += image_file.size
    for path, size in total.items():
        if size > limits.max_archive_bytes:
            raise ImageError(
                f"{path}: its images unpack to {size / 1e9:.1f} GB, more than {limits.max_archive_gb:g} GB; "
                "raise --max-archive-gb to use them"
            )
    _check_order(image_files, set(total), limits)


def _check_order(image_files: Sequence[ImageFile], archives: Iterable[str], limits: Limits) -> None:
    for path in archives:
        places = [(p.member, p.size) for p in image_files if p.path == path and p.member is not None and not p.problem]
        try:
            cost = unpacked_in_order(path, places)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {reason_of(error)}") from error
        if cost > _MOST_PASSES * limits.max_archive_bytes:
            raise ImageError(
                f"{path}: a compressed tar whose images are not sorted by name: {cost / 1e9:.0f} GB would have to be unpacked to read them "
                "in order; unpack it and use the folder, or raise --max-archive-gb"
            )
