"""Hashes of downloads whose hash nobody has published: recorded at the first download beside the file, compared at every later one."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from ...errors import ImageError, printable
from ..storage.atomic import write_atomic
from ..storage.regular import read_regular
from .fetch import DownloadError, checked_sha256

log = logging.getLogger(__name__)

SUFFIX = ".sha256"
"""Of the record: `NAME.sha256` beside `NAME`, as sha256sum writes it."""
_MOST = 4096  # bytes of a record
_PIECE = 1 << 20


def recorded_sha256(target: Path) -> str | None:
    """The SHA-256 that was recorded for a file; None if none was.

    Raises:
        DownloadError: what lies there is no such record; it is left alone.
    """
    place = target.with_name(target.name + SUFFIX)
    try:
        text = read_regular(place, _MOST).decode("ascii")
        return checked_sha256(text.split()[0])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, IndexError, ImageError) as error:
        raise DownloadError(
            f"{printable(place)}: expected the SHA-256 that was recorded for {printable(target.name)} ({printable(error)}); move it away"
        ) from error


def record_sha256(path: Path) -> str:
    """Record the SHA-256 of a file beside it, report it, and return it."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            hashed.update(piece)
    place = path.with_name(path.name + SUFFIX)
    try:
        write_atomic(place, f"{hashed.hexdigest()}  {path.name}\n".encode(), replace=False)
        what = f"recorded in {place}; later downloads are compared with it"
    except (
        OSError
    ) as error:  # another process recorded it meanwhile, or the folder is closed: the download is whole all the same
        what = f"not recorded ({error.strerror or error})"
    log.warning("%s: SHA-256 %s, %s", path.name, hashed.hexdigest(), what)
    return hashed.hexdigest()
