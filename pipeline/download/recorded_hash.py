"""Hashes of files without a published hash: recorded beside the file at the first download, compared at every later one."""

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
"""The record is `NAME.sha256` beside `NAME`, in the format of sha256sum."""
_RECORD_BYTES = 4096  # bound on the length of a record


def recorded_sha256(target: Path) -> str | None:
    """The SHA-256 that was recorded for a file, 64 hexadecimal digits in lower case; None: there is no record.

    Raises:
        DownloadError: the file `NAME.sha256` is no such record; it is left unchanged.
    """
    record = target.with_name(target.name + SUFFIX)
    try:
        text = read_regular(record, _RECORD_BYTES).decode("ascii")
        return checked_sha256(text.split()[0])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, IndexError, ImageError) as error:
        raise DownloadError(
            f"{printable(record)}: expected the SHA-256 that was recorded for {printable(target.name)} ({printable(error)}); move it away"
        ) from error


def record_sha256(path: Path) -> str:
    """Record the SHA-256 of a file beside it, log it, and return it (64 hexadecimal digits)."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = path.with_name(path.name + SUFFIX)
    try:
        write_atomic(record, f"{digest}  {path.name}\n".encode(), replace=False)
        outcome = f"recorded in {record}; later downloads are compared with it"
    except OSError as error:  # another process has recorded it, or the folder is read-only; the download itself is complete
        outcome = f"not recorded ({error.strerror or error})"
    log.warning("%s: %s", path.name, f"SHA-256 {digest}, {outcome}")
    return digest
