"""Reads scanned files again: the decoded bytes are those whose hash was recorded, or the run ends with an error that names the file."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ...errors import ChangedError, ImageError, printable
from ..scientific.sample_format import RGB8, SampleFormat
from .decode import Decoded, Limits, decode_as
from .sources import ImageFile, SourceReader, hash_images


def read_unchanged(
    image_file: ImageFile, sha256: str, limits: Limits, source_reader: SourceReader, samples: SampleFormat = RGB8
) -> Decoded:
    """Read an image once, compare the hash of its bytes, and decode these bytes.

    Args:
        image_file: from `list_source`.
        sha256: from `hash_images`, when the source was scanned.
        limits: bounds.
        source_reader: keeps archives open between images.
        samples: what is kept of it.

    Raises:
        ImageError: it cannot be used, and could not be when it was scanned.
        ChangedError: the file has changed since the scan: other bytes, no longer readable, or readable only now.
    """
    try:
        data = source_reader.read(image_file, limits.max_bytes)
    except (ImageError, IndexError) as error:  # IndexError: the archive has fewer files now
        if isinstance(error, ImageError) and (image_file.size > limits.max_bytes or sha256 == _unreadable(image_file)):
            raise
        raise changed(_where(image_file), str(error)) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise changed(_where(image_file), "its bytes differ from those of the scan")
    return decode_as(data, image_file.name, limits, samples)


def changed(where: str, how: str) -> ChangedError:
    """The error for a file that changed."""
    return ChangedError(
        f"{printable(where)}: the file changed during the run ({how}); nothing was written with it. "
        "Wait until the file is complete, then run the same command again: finished images are kept"
    )


def _where(image_file: ImageFile) -> str:
    return image_file.path if image_file.member is None else f"{image_file.path}: {image_file.name}"


def _unreadable(image_file: ImageFile) -> str:
    """The hash that the scan records for an unreadable file."""
    return next(hash_images([replace(image_file, problem="unreadable")]))
