"""Batches prepared ahead of the training step: `ShardLoader`, and `ShardStream` for PyTorch's own `DataLoader`.

`ShardLoader` makes batches in threads. Reading and decoding a tile (except for its checksum) release Python's interpreter lock, so threads
scale like worker processes, without copies between processes and without forks. A batch is a function of its first position, in the order
of `order.py`; its content does not depend on the number of workers and ranks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...errors import ConfigError, IndexKindError
from ..shards.reader import Store
from .dataset import ShardDataset
from .passes import PassCounter

MakeBatch = Callable[[int, int], Mapping[str, np.ndarray | Tensor]]
"""(first global position, number of samples) -> arrays or tensors on the CPU. Thread-safe, and a function of its arguments alone."""

Stores = ShardDataset | Store | Path | str | Sequence[Path | str | Store]
"""A data set, or one or several stores, whose whole tiles are then the samples."""


def plan_steps(
    batch: int, *, start: int = 0, steps: int | None = None, rank: int = 0, ranks: int = 1, worker: int = 0, workers: int = 1
) -> Iterator[int]:
    """The first global positions of the batches that one worker of one rank makes. All workers together cover the stream once.

    Step k of rank r has the `batch` positions from `start + (k * ranks + r) * batch`. Worker w makes the steps w, w + workers, ….

    Args:
        batch: samples per step and rank.
        start: global position of the first sample of rank 0; to resume: finished steps x batch x ranks.
        steps: number of steps; None: no end.
        rank: number of this process in its group, from 0.
        ranks: number of processes in the group.
        worker: number of this worker of the rank, from 0.
        workers: number of workers of the rank.

    Raises:
        ConfigError: a value is out of range.
    """
    if batch < 1 or start < 0 or not 0 <= rank < ranks or not 0 <= worker < workers or (steps is not None and steps < 0):
        raise ConfigError(
            "expected batch >= 1, start >= 0, steps >= 0 and 0 <= rank < ranks, "
            f"got batch {batch}, start {start}, steps {steps}, rank {rank} of {ranks}, worker {worker} of {workers}"
        )
    return (start + (step * ranks + rank) * batch for step in islice(count(), worker, steps, workers))


def dataset_of(source: Stores) -> ShardDataset:
    """The data set itself, or a data set of whole tiles of these stores.

    Raises:
        ConfigError: the source has another type.
        StoreError: a store cannot be read.
    """
    if isinstance(source, ShardDataset):
        return source
    if isinstance(source, (str, Path, Store)) or (isinstance(source, Sequence) and source):
        return ShardDataset(source)
    raise ConfigError(f"expected a ShardDataset, a store or a store's path, got {type(source).__name__}")


class ShardLoader:
    """Batches as tensors on the training device, prepared ahead of their use.

    With `steps`, an iteration is a pass of that many batches. The next iteration starts where it ended, so crops and flips differ between
    passes; `set_epoch` sets the number of the pass. Without `steps`, an iteration has no end, and each starts at `start`.

    A loop may be left early: when the iterator is closed or deleted, its threads end after their current batches.
    """

    def __init__(
        self,
        source: Stores | MakeBatch,
        batch: int,
        *,
        start: int = 0,
        steps: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 2,
        ahead: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            source: a `ShardDataset`, stores or their paths (then samples are whole tiles), or a function that makes batches.
            batch: samples per step and rank.
            start: global position of the first sample; to resume: finished steps x batch x ranks.
            steps: number of batches per pass, such as `len(data) // batch` for an epoch; None: no end.
            rank: number of this process in its group, from 0.
            ranks: number of processes in the group.
            workers: number of threads that make batches; 0: each batch is made when it is requested.
            ahead: number of batches per worker that are prepared in advance.
            device: device of the tensors. For a GPU, they are pinned and copied on a separate stream, during earlier steps.

        Raises:
            ConfigError: a value is out of range, or the source has another type.
            StoreError: a store cannot be read.
        """
        if workers < 0 or ahead < 1:
            raise ConfigError(f"expected workers >= 0 and ahead >= 1, got workers {workers}, ahead {ahead}")
        plan_steps(batch, start=start, steps=steps, rank=rank, ranks=ranks)  # errors are raised here and not at the first batch
        is_function = callable(source) and not isinstance(source, ShardDataset)
        self._make: MakeBatch = source if is_function else dataset_of(source).batch  # type: ignore[assignment,arg-type]
        self.batch, self.start, self.steps, self.rank, self.ranks = batch, start, steps, rank, ranks
        self.workers, self.ahead = workers, ahead
        self.device = torch.device(device)
        self._passes = PassCounter()

    def __len__(self) -> int:
        """Batches of one pass.

        Raises:
            IndexKindError: an iteration has no end, because `steps` is None; a `TypeError`, as Python expects.
        """
        if self.steps is None:
            raise IndexKindError(
                "this ShardLoader has no end and therefore no length; give steps=len(data) // batch for one epoch"
            )
        return self.steps

    def __repr__(self) -> str:
        steps = "no end" if self.steps is None else f"{self.steps} steps"
        return f"ShardLoader(batch {self.batch}, {steps}, start {self.start}, rank {self.rank} of {self.ranks}, {self.workers} workers, {self.device})"

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass, which then starts at `start + epoch * steps * batch * ranks`.

        Raises:
            ConfigError: the number is out of range, or the loader has no `steps`.
        """
        if self.steps is None:
            raise ConfigError("set_epoch: without steps, one iteration goes through all epochs; give steps, or another start")
        self._passes.restart(epoch)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        mover = _Mover(self.device)
        start = self.start
        if self.steps is not None:
            start += self._passes.begin() * self.steps * self.batch * self.ranks
        firsts = plan_steps(self.batch, start=start, steps=self.steps, rank=self.rank, ranks=self.ranks)
        if self.workers == 0:
            return (mover.wait(self._prepare(first, mover)) for first in firsts)
        return self._from_threads(firsts, mover)

    def _from_threads(self, firsts: Iterator[int], mover: _Mover) -> Iterator[dict[str, Tensor]]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="shards")
        pending: deque[Future[_Moving]] = deque()
        try:
            for first in islice(firsts, self.workers * self.ahead):
                pending.append(pool.submit(self._prepare, first, mover))
            while pending:
                moving = pending.popleft().result()
                for first in islice(firsts, 1):
                    pending.append(pool.submit(self._prepare, first, mover))
                yield mover.wait(moving)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, first: int, mover: _Mover) -> _Moving:
        return mover.send({name: torch.as_tensor(values) for name, values in self._make(first, self.batch).items()})


_Moving = tuple[dict[str, Tensor], "torch.cuda.Event | None"]


class _Mover:
    """Copies batches to the device. For a GPU it copies from pinned memory on a separate stream; for the CPU it does nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, batch: dict[str, Tensor]) -> _Moving:
        """Start the copy. Called in the thread of the worker."""
        if self.stream is None:
            return {name: value.to(self.device) for name, value in batch.items()}, None
        with torch.cuda.stream(self.stream):
            moved = {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in batch.items()}
            return moved, self.stream.record_event()

    def wait(self, moving: _Moving) -> dict[str, Tensor]:
        """Make the current stream wait for the copy, and return the batch. The host does not wait."""
        batch, event = moving
        if event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            for value in batch.values():
                value.record_stream(current)  # its memory is not reused while this stream may still read it
        return batch


class ShardStream(IterableDataset[dict[str, np.ndarray]]):
    """The same batches for `torch.utils.data.DataLoader(stream, batch_size=None, num_workers=N)`, in the same order for any N.

    Each iteration is a pass of `steps` batches that starts where the previous pass ended, so crops and flips differ between passes. This
    holds for any number of workers, persistent or not. `set_epoch` sets the number of the pass.
    """

    def __init__(
        self, data: Stores, batch: int, *, start: int = 0, steps: int | None = None, rank: int = 0, ranks: int = 1
    ) -> None:
        """
        Args:
            data: a `ShardDataset`, stores or their paths; each worker process gets a copy.
            batch: samples per step and rank.
            start: global position of the first sample.
            steps: number of batches per pass; None: those of one epoch, rounded down.
            rank: number of this process in its group, from 0.
            ranks: number of processes in the group.

        Raises:
            ConfigError: a value is out of range.
            StoreError: a store cannot be read.
        """
        plan_steps(batch, start=start, steps=steps, rank=rank, ranks=ranks)  # errors are raised here and not in a worker
        self.data, self.batch = dataset_of(data), batch
        self.start, self.rank, self.ranks = start, rank, ranks
        self.steps = _epoch_steps(self.data, batch * ranks) if steps is None else steps
        self._passes = PassCounter()

    def __len__(self) -> int:
        """Batches of one pass, of all workers together."""
        return self.steps

    def __repr__(self) -> str:
        return f"ShardStream({self.data}, batch {self.batch}, {self.steps} steps, start {self.start}, rank {self.rank} of {self.ranks})"

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass, which then starts at `start + epoch * steps * batch * ranks`. Persistent workers see it too."""
        self._passes.restart(epoch)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        number = self._passes.begin(info.seed - info.id if info else None)
        start = self.start + number * self.steps * self.batch * self.ranks
        firsts = plan_steps(
            self.batch, start=start, steps=self.steps, rank=self.rank, ranks=self.ranks, worker=worker, workers=workers
        )
        return (self.data.batch(first, self.batch) for first in firsts)


def _epoch_steps(data: ShardDataset, samples: int) -> int:
    """Steps of `samples` samples in one epoch, rounded down; ConfigError if an epoch has fewer samples."""
    if samples > len(data):
        raise ConfigError(
            f"batch: expected at most the {len(data)} samples of an epoch over all ranks, got {samples}; "
            "give steps, so that batches may span epochs"
        )
    return len(data) // samples
