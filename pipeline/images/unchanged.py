"""Reading what was scanned: the bytes that are decoded are those whose hash is recorded, or the run ends with the file's name."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ...errors import ChangedError, ImageError, printable
from .decode import Decoded, Limits, decode_rgb
from .sources import ImageFile, SourceReader, hash_images


def read_unchanged(image_file: ImageFile, sha256: str, limits: Limits, source_reader: SourceReader) -> Decoded:
    """Read an image once, compare its bytes with its hash, and decode these bytes.

    Args:
        image_file: from `list_source`.
        sha256: of `hash_images`, made when the source was scanned.
        limits: bounds.
        source_reader: keeps archives open.

    Raises:
        ImageError: it cannot be used, as was so when it was scanned.
        ChangedError: it is not what was scanned: other bytes, readable before and not now, or the other way round.
    """
    try:
        data = source_reader.read(image_file, limits.max_bytes)
    except (ImageError, IndexError) as error:  # an index of an archive that has fewer files now
        if isinstance(error, ImageError) and (image_file.size > limits.max_bytes or sha256 == _unreadable(image_file)):
            raise
        raise changed(_where(image_file), str(error)) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise changed(_where(image_file), "its bytes are not those that were hashed at first")
    return decode_rgb(data, image_file.name, limits)


def changed(where: str, how: str) -> ChangedError:
    """The error for a file that changed."""
    return ChangedError(
        f"{printable(where)}: the file changed during the run ({how}); nothing was written with it. "
        "Wait until nothing changes it any more, then run the same command again: what is finished is kept"
    )


def _where(image_file: ImageFile) -> str:
    return image_file.path if image_file.member is None else f"{image_file.path}: {image_file.name}"


def _unreadable(image_file: ImageFile) -> str:
    """The hash of a file that could not be read when it was scanned."""
    return next(hash_images([replace(image_file, trouble="unreadable")]))
