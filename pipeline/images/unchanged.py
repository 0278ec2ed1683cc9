"""Reading what was scanned: the bytes that are decoded are those whose hash is recorded, or the run ends with the file's name."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ...errors import ChangedError, ImageError, printable
from .decode import Decoded, Limits, decode_picture
from .sources import ImageFile, SourceReader, hash_pictures


def read_unchanged(picture: ImageFile, sha256: str, limits: Limits, shelf: SourceReader) -> Decoded:
    """Read an image once, compare its bytes with its hash, and decode these bytes.

    Args:
        picture: from `list_source`.
        sha256: of `hash_pictures`, made when the source was scanned.
        limits: bounds.
        shelf: keeps archives open.

    Raises:
        ImageError: it cannot be used, as was so when it was scanned.
        ChangedError: it is not what was scanned: other bytes, readable before and not now, or the other way round.
    """
    try:
        data = shelf.read(picture, limits.max_bytes)
    except (ImageError, IndexError) as error:  # an index of an archive that has fewer files now
        if isinstance(error, ImageError) and (picture.size > limits.max_bytes or sha256 == _unreadable(picture)):
            raise
        raise changed(_where(picture), str(error)) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise changed(_where(picture), "its bytes are not those that were hashed at first")
    return decode_picture(data, picture.name, limits)


def changed(where: str, how: str) -> ChangedError:
    """The error for a file that changed."""
    return ChangedError(
        f"{printable(where)}: the file changed during the run ({how}); nothing was written with it. "
        "Wait until nothing changes it any more, then run the same command again: what is finished is kept"
    )


def _where(picture: ImageFile) -> str:
    return picture.path if picture.member is None else f"{picture.path}: {picture.name}"


def _unreadable(picture: ImageFile) -> str:
    """The hash of a file that could not be read when it was scanned."""
    return next(hash_pictures([replace(picture, trouble="unreadable")]))
