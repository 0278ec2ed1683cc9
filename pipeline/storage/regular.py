"""Opening files whose names others gave: regular files only, without blocking, and no more bytes than a bound.

A pipe, device or socket may bear any name, such as `x.png`: opened like a file it would wait for ever or have effects. Whatever is wrong
is an `OSError` with the reason, as for other files that cannot be read.
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
    """Empty for the `st_mode` of a regular file, else what has its name instead."""
    if stat.S_ISREG(mode):
        return ""
    return f"not a file: {next((what for test, what in _KINDS if test(mode)), 'something else')} has this name"


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading; links are followed.

    Args:
        path: of the file.
        limit: most bytes that it may have, looked up before anything is read; None: any number.

    Raises:
        OSError: it cannot be opened, is no regular file, or has more bytes than `limit`.
    """
    _check(os.stat(path), limit)  # so that a device is not even opened
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), limit)  # it may be another one by now
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """All bytes of a regular file, at most `limit`, also if it grows meanwhile.

    Raises:
        OSError: as of `open_regular`.
    """
    with open_regular(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise too_large(len(data), limit)
    return data


def too_large(size: int, limit: int) -> OSError:
    """The error about a file of `size` bytes where `limit` are allowed."""
    return OSError(errno.EFBIG, f"{size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB that an image may have")


def _check(found: os.stat_result, limit: int | None) -> None:
    reason = why_not_regular(found.st_mode)
    if reason:
        raise OSError(errno.EINVAL, reason)
    if limit is not None and found.st_size > limit:
        raise too_large(found.st_size, limit)
