"""The number of the current epoch or pass, which the worker processes of a loader agree on."""

from __future__ import annotations

from ...errors import ConfigError
from ..storage.once import SharedArray
from .order import mix

_LIMIT = 1 << 30  # passes; such a number and 32 more bits fit into an int64
_LOW = (1 << 32) - 1


def checked_epoch(epoch: int) -> int:
    """The number of an epoch or pass as an int; ConfigError if it is out of range."""
    if not 0 <= epoch < _LIMIT:
        raise ConfigError(f"epoch: expected 0 to 2^30 - 1, got {epoch}")
    return int(epoch)


class PassCounter:
    """Numbers the passes over a stream: 0, 1, 2, …. All workers of a loader get the same number for the same pass.

    PyTorch's workers do not know the epoch, but the seeds of the workers of one iteration have a common base. A shared 64-bit word holds the
    number of started passes (upper half) and a hash of the iteration that started the last one (lower half; 0: this process itself). Workers
    that start at the same time read and write the same values, so no lock is needed.
    """

    def __init__(self) -> None:
        self._word = SharedArray("q", [0])
        self._last: tuple[int | None, int] = (
            None,
            0,
        )  # of this process' last iteration: common base, earlier passes with this base

    def restart(self, number: int) -> None:
        """Set the number of the next pass."""
        self._word.cells[0] = checked_epoch(number) << 32

    def begin(self, base: int | None = None) -> int:
        """Start a pass, and return its number.

        Args:
            base: the common base of the seeds of the workers of one iterator, `worker_info.seed - worker_info.id`; None: no worker.
        """
        word = self._word.cells[0]  # read once: another worker may write between two reads
        started, key = word >> 32, word & _LOW
        if base is None:
            self._word.cells[0] = (started + 1) << 32
            return started
        times = self._last[1] + 1 if self._last[0] == base else 0  # a persistent worker keeps its seed for the next pass
        self._last = (base, times)
        own = int(mix(base, times)) & _LOW | 1
        if key == own:  # another worker has started this pass
            return started - 1
        self._word.cells[0] = (started + 1) << 32 | own
        return started
