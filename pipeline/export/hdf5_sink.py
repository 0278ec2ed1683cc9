"""A file object that never reports a failed write to HDF5, because the library often corrupts memory or crashes when a write fails.

The first error is kept, and `check` raises it. Later writes are kept in memory, so that the library reads what it wrote and can close the
file normally. The caller then deletes the file.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType


class Sink:
    """A new file with the methods that h5py's driver for Python file objects calls: read, write, seek, tell, truncate, flush.

    In its `with` block, Ctrl-C is also reported by `check`. Raised inside one of these methods, it would be a failed write for HDF5.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self._position = self._end = 0
        self._late_writes: list[tuple[int, bytes]] = []  # (position, bytes) of writes after the error
        self._error: BaseException | None = None
        self._handler: Callable[[int, FrameType | None], object] | int | None = None  # the handler of Ctrl-C before the block

    def __enter__(self) -> Sink:
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._handler = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        self.close()

    def check(self) -> None:
        """Raise the first error, if any."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file. Raises an OSError if the system reports only now that the disk is full."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it; see `io.IOBase.seek`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """The position of the next read or write, in bytes."""
        return self._position

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data` to the disk or, after an error, to memory; returns its size in bytes."""
        value = bytes(data)
        if self._error is None:
            self._attempt(value)
        if self._error is not None:
            self._late_writes.append((self._position, value))
        self._position += len(value)
        self._end = max(self._end, self._position)
        return len(value)

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; bytes that were never written are zero. Returns its size in bytes."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        try:
            os.lseek(self._file, self._position, os.SEEK_SET)
            data = os.read(self._file, len(view))
        except OSError as error:
            self._error, data = self._error or error, b""
        view[: len(data)] = data
        for start, value in self._late_writes:
            low, high = max(start, self._position), min(start + len(value), self._position + len(view))
            if low < high:
                view[low - self._position : high - self._position] = value[low - start : high - start]
        self._position += len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes; -1: all until the end."""
        out = bytearray(self._end - self._position if size < 0 else size)
        self.readinto(memoryview(out))
        return bytes(out)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file in bytes (None: the position), and return it."""
        self._end = self._position if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._file, self._end)
            except OSError as error:
                self._error = error
        return self._end

    def flush(self) -> None:
        """Does nothing: writes are not buffered."""

    def _interrupted(self, *_: object) -> None:
        self._error = self._error or KeyboardInterrupt()

    def _attempt(self, value: bytes) -> None:
        try:
            done = 0
            while done < len(value):
                os.lseek(self._file, self._position + done, os.SEEK_SET)
                done += os.write(self._file, value[done:])
        except OSError as error:
            self._error = error
