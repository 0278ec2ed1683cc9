"""A file that never fails in the eyes of HDF5: the library leaves memory in disorder, and often crashes, when a write fails.

The first error is kept for us (`check` raises it). What comes after it goes to memory, so that the library reads what it wrote and can
close its file in peace; we delete that file.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any


class Sink:
    """A new file with what h5py's driver for Python objects calls: read, write, seek, tell, truncate, flush.

    Inside its `with` block Ctrl-C waits for `check`, too: between two lines of these methods it would be a failed write for HDF5.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self._at = self._end = 0
        self._after: list[tuple[int, bytes]] = []  # writes since the error
        self._error: BaseException | None = None
        self._handler: Any = None

    def __enter__(self) -> Sink:
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._handler = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        self.close()

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Give the file back to the system, which may say only now that the disk is full."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; h5py asks for the end in this way."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Where the next read or write begins."""
        return self._at

    def write(self, data: bytes | memoryview) -> int:
        """All of `data`, onto the disk or, after an error, into memory."""
        value = bytes(data)
        if self._error is None:
            self._attempt(value)
        if self._error is not None:
            self._after.append((self._at, value))
        self._at += len(value)
        self._end = max(self._end, self._at)
        return len(value)

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; what was never written is zeros."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        try:
            os.lseek(self._file, self._at, os.SEEK_SET)
            data = os.read(self._file, len(view))
        except OSError as error:
            self._error, data = self._error or error, b""
        view[: len(data)] = data
        for start, value in self._after:
            low, high = max(start, self._at), min(start + len(value), self._at + len(view))
            if low < high:
                view[low - self._at : high - self._at] = value[low - start : high - start]
        self._at += len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, or all to the end."""
        out = bytearray(self._end - self._at if size < 0 else size)
        self.readinto(memoryview(out))
        return bytes(out)

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self._end = self._at if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._file, self._end)
            except OSError as error:
                self._error = error
        return self._end

    def flush(self) -> None:
        """Nothing waits here."""

    def _interrupted(self, *_: object) -> None:
        self._error = self._error or KeyboardInterrupt()

    def _attempt(self, value: bytes) -> None:
        try:
            done = 0
            while done < len(value):
                os.lseek(self._file, self._at + done, os.SEEK_SET)
                done += os.write(self._file, value[done:])
        except OSError as error:
            self._error = error
