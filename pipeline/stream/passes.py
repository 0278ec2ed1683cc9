"""Which epoch or pass is being read: numbers that a loader's worker processes share with the process that started them."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawValue
from typing import Any

from ...errors import ConfigError
from .order import mix

_MOST = 1 << 30  # passes; such a number and 32 bits more fit into one signed word
_LOW = (1 << 32) - 1


def checked_epoch(epoch: int) -> int:
    """The number of an epoch or a pass; ConfigError if it is none."""
    if not 0 <= epoch < _MOST:
        raise ConfigError(f"epoch: expected 0 to 2^30 - 1, got {epoch}")
    return int(epoch)


class SharedInteger:
    """An integer in shared memory: worker processes, forked or spawned, see it change. Any other copy or pickle is independent."""

    def __init__(self, value: int = 0) -> None:
        self._cell = RawValue("q", value)

    @property
    def value(self) -> int:
        """int64; read and written as one word."""
        return self._cell.value

    @value.setter
    def value(self, value: int) -> None:
        self._cell.value = value

    def __reduce__(self) -> tuple[Callable[..., SharedInteger], tuple[Any, ...]]:
        return (SharedInteger, (self.value,)) if get_spawning_popen() is None else (_sharing, (self._cell,))


def _sharing(cell: Any) -> SharedInteger:
    shared = SharedInteger.__new__(SharedInteger)
    shared._cell = cell
    return shared


class PassCounter:
    """Numbers the passes over a stream: 0, 1, 2, …; all workers of a loader that begin the same pass get the same number.

    PyTorch tells its workers nothing about epochs, but the workers of one iteration have seeds with a common base. The word holds how
    many passes have begun (upper half) and which iteration began the last of them (lower half, 0: this process itself). Workers that
    begin at once read the same word and write the same word, so no lock is needed.
    """

    def __init__(self) -> None:
        self._word = SharedInteger()
        self._last: tuple[int | None, int] = (None, 0)  # this process' last iteration: common base, how often begun

    def restart(self, number: int) -> None:
        """Let the next pass have this number."""
        self._word.value = checked_epoch(number) << 32

    def begin(self, base: int | None = None) -> int:
        """The number of the pass that begins now.

        Args:
            base: what the workers of one loader's iterator have in common (`worker_info.seed - worker_info.id`); None: no worker.
        """
        begun, key = self._word.value >> 32, self._word.value & _LOW
        if base is None:
            self._word.value = (begun + 1) << 32
            return begun
        times = self._last[1] + 1 if self._last[0] == base else 0  # a persistent worker begins again and keeps its seed
        self._last = (base, times)
        own = int(mix(base, times)) & _LOW | 1
        if key == own:  # another worker was here first
            return begun - 1
        self._word.value = (begun + 1) << 32 | own
        return begun
