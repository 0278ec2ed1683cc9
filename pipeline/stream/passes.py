"""Which epoch or pass is being read: numbers that a loader's worker processes agree on."""

from __future__ import annotations

from ...errors import ConfigError
from ..storage.once import SharedArray
from .order import mix

_MOST = 1 << 30  # passes; such a number and 32 bits more fit into one signed word
_LOW = (1 << 32) - 1


def checked_epoch(epoch: int) -> int:
    """The number of an epoch or a pass; ConfigError if it is none."""
    if not 0 <= epoch < _MOST:
        raise ConfigError(f"epoch: expected 0 to 2^30 - 1, got {epoch}")
    return int(epoch)


class PassCounter:
    """Numbers the passes over a stream: 0, 1, 2, …; all workers of a loader that begin the same pass get the same number.

    PyTorch tells its workers nothing about epochs, but the workers of one iteration have seeds with a common base. The word holds how
    many passes have begun (upper half) and which iteration began the last of them (lower half, 0: this process itself). Workers that
    begin at once read the same word and write the same word, so no lock is needed.
    """

    def __init__(self) -> None:
        self._word = SharedArray("q", [0])
        self._last: tuple[int | None, int] = (None, 0)  # this process' last iteration: common base, how often begun

    def restart(self, number: int) -> None:
        """Let the next pass have this number."""
        self._word.cells[0] = checked_epoch(number) << 32

    def begin(self, base: int | None = None) -> int:
        """The number of the pass that begins now.

        Args:
            base: what the workers of one loader's iterator have in common (`worker_info.seed - worker_info.id`); None: no worker.
        """
        begun, key = self._word.cells[0] >> 32, self._word.cells[0] & _LOW
        if base is None:
            self._word.cells[0] = (begun + 1) << 32
            return begun
        times = self._last[1] + 1 if self._last[0] == base else 0  # a persistent worker begins again and keeps its seed
        self._last = (base, times)
        own = int(mix(base, times)) & _LOW | 1
        if key == own:  # another worker was here first
            return begun - 1
        self._word.cells[0] = (begun + 1) << 32 | own
        return begun
