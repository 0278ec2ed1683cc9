"""Checks that are made once per process, whatever number of threads want their result."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable

_STRIPES = 64


class Once:
    """Names that passed a check. A second thread that wants the same one waits for the first; a pickled copy starts empty."""

    def __init__(self) -> None:
        self._passed: set[str] = set()
        self._locks: tuple[int, list[threading.Lock]] = (-1, [])

    def __reduce__(self) -> tuple[object, ...]:
        return Once, ()

    def run(self, name: str, check: Callable[[str], None]) -> None:
        """Call `check(name)` unless it passed before; what it raises is raised, and the next call checks again."""
        if name in self._passed:
            return
        with self._lock(name):
            if name not in self._passed:
                check(name)
                self._passed.add(name)

    def forget(self, name: str) -> None:
        """The next call checks again."""
        self._passed.discard(name)

    def _lock(self, name: str) -> threading.Lock:
        process, locks = self._locks
        if process != os.getpid():  # a fork may have copied a lock that a thread of the parent held: nobody would give it back
            self._locks = _, locks = os.getpid(), [threading.Lock() for _ in range(_STRIPES)]
        return locks[zlib.crc32(name.encode()) % _STRIPES]
