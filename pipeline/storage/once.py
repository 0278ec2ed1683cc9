"""Checks that are made once for all threads and worker processes; and integers in memory shared with worker processes."""

from __future__ import annotations

import array
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterable, MutableSequence
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Literal, cast

log = logging.getLogger(__name__)

_STRIPES = 64


class SharedArray:
    """A few integers shared between a process and its workers, forked or spawned. A pickle made for any other purpose is a copy."""

    def __init__(self, code: Literal["q", "B"], values: list[int]) -> None:
        """
        Args:
            code: int64 (`q`) or uint8 (`B`); each element is read and written atomically.
            values: the initial values, at least one.
        """
        self._code = code
        try:
            self.cells: MutableSequence[int] = cast(MutableSequence[int], RawArray(code, values))
            self._shared = True
        except OSError as error:  # no folder for temporary files
            log.warning(
                "no memory can be shared with worker processes (%s): they do not see set_epoch, and repeat each other's checks",
                error,
            )
            self.cells, self._shared = array.array(code, values), False

    def __reduce__(self) -> tuple[Callable[..., SharedArray], tuple[object, ...]]:
        if self._shared and get_spawning_popen() is not None:
            return _attached, (self._code, self.cells)
        return SharedArray, (self._code, list(self.cells))


def _attached(code: Literal["q", "B"], cells: MutableSequence[int]) -> SharedArray:
    shared = SharedArray.__new__(SharedArray)
    shared._code, shared.cells, shared._shared = code, cells, True
    return shared


class Once:
    """Names that passed a check. If two threads request the same name, the second one waits for the first.

    Worker processes, forked or spawned, share the state of the names that are given to `__init__`. Any other pickled copy is empty.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._number = {name: number for number, name in enumerate(names)}
        self._marks = SharedArray("B", [0] * max(1, len(self._number)))
        self._others: set[str] = set()
        self._locks: tuple[int, list[threading.Lock]] = (-1, [])

    def __reduce__(self) -> tuple[Callable[..., Once], tuple[object, ...]]:
        return (
            (Once, (list(self._number),)) if get_spawning_popen() is None else (_with_marks, (list(self._number), self._marks))
        )

    def run(self, name: str, check: Callable[[str], None]) -> None:
        """Call `check(name)` unless it passed before. If it raises an exception, the next call checks again."""
        if self._has(name):
            return
        with self._lock(name):
            if not self._has(name):
                check(name)
                self._mark(name, passed=True)

    def forget(self, name: str) -> None:
        """Make the next `run` check the name again."""
        self._mark(name, passed=False)

    def _has(self, name: str) -> bool:
        number = self._number.get(name)
        return name in self._others if number is None else bool(self._marks.cells[number])

    def _mark(self, name: str, *, passed: bool) -> None:
        number = self._number.get(name)
        if number is not None:
            self._marks.cells[number] = passed
        elif passed:
            self._others.add(name)
        else:
            self._others.discard(name)

    def _lock(self, name: str) -> threading.Lock:
        process, locks = self._locks
        if process != os.getpid():  # after a fork: a copied lock that a thread of the parent held would never be released
            self._locks = _, locks = os.getpid(), [threading.Lock() for _ in range(_STRIPES)]
        return locks[zlib.crc32(name.encode()) % _STRIPES]


def _with_marks(names: list[str], marks: SharedArray) -> Once:
    once = Once(())
    once._number, once._marks = {name: number for number, name in enumerate(names)}, marks
    return once
