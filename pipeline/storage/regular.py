"""Opening files of untrusted names: only regular files, without blocking, and of limited size.

A pipe, device or socket may have any name, such as `x.png`; opening it could block for ever or have side effects. Every problem is an
`OSError` with the reason, as for other files that cannot be read.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def why_not_regular(mode: int) -> str:
    """Why an `st_mode` is not a regular file's; empty if it is."""
    if stat.S_ISREG(mode):
        return ""
    return f"not a file: {next((what for test, what in _KINDS if test(mode)), 'something else')} has this name"


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading, binary; links are followed.

    Args:
        path: the file.
        limit: largest size in bytes, checked before anything is read; None: any.

    Raises:
        OSError: it cannot be opened, is not a regular file, or has more than `limit` bytes.
    """
    _check(os.stat(path), limit)  # before opening, which may have side effects for a device
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), limit)  # the path may be another file by now
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """All bytes of a regular file, at most `limit` even if it grows during the read.

    Raises:
        OSError: see `open_regular`.
    """
    with open_regular(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise too_large(len(data), limit)
    return data


def too_large(size: int, limit: int) -> OSError:
    """The error for a file of `size` bytes where at most `limit` are allowed."""
    return OSError(errno.EFBIG, f"{size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB that an image may have")


def _check(status: os.stat_result, limit: int | None) -> None:
    reason = why_not_regular(status.st_mode)
    if reason:
        raise OSError(errno.EINVAL, reason)
    if limit is not None and status.st_size > limit:
        raise too_large(status.st_size, limit)
