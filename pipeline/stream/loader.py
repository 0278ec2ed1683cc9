"""Batches that are ready when the training step asks for them: `ShardLoader`, and `ShardStream` for PyTorch's own `DataLoader`.

`ShardLoader` makes batches in threads. Checksums aside, reading and decoding a tile release the interpreter's lock, so threads scale
as worker processes do, without copies between processes and without anything to fork. The order is that of `order.py`: a batch is a function
of its first position, so the number of workers and ranks changes who makes it, never what it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...errors import ConfigError, IndexKindError
from ..shards.reader import Store
from .dataset import ShardDataset
from .passes import PassCounter

MakeBatch = Callable[[int, int], Mapping[str, Any]]
"""(first global position, samples) -> arrays or tensors on the CPU; a function of its arguments, callable from threads."""

Stores = ShardDataset | Store | Path | str | Sequence[Path | str | Store]
"""A data set, or the stores of one with whole tiles as its samples."""


def plan_steps(
    batch: int, start: int = 0, steps: int | None = None, rank: int = 0, ranks: int = 1, worker: int = 0, workers: int = 1
) -> Iterator[int]:
    """First positions of the batches that one worker of one rank makes; together they cover the stream once, in order.

    Step k of rank r holds the positions from `start + (k ranks + r) batch` on. Steps go round the workers.

    Args:
        batch: samples per step and rank.
        start: global position of the first sample of rank 0: steps done x batch x ranks, whatever ran them.
        steps: how many steps; None goes on for ever, epoch after epoch.
        rank: which process of the group.
        ranks: processes of the group.
        worker: which worker of the rank.
        workers: workers of the rank.
    """
    if batch < 1 or start < 0 or not 0 <= rank < ranks or not 0 <= worker < workers or (steps is not None and steps < 0):
        raise ConfigError(
            "expected batch >= 1, start >= 0, steps >= 0 and 0 <= rank < ranks, "
            f"got batch {batch}, start {start}, steps {steps}, rank {rank} of {ranks}, worker {worker} of {workers}"
        )
    return (start + (step * ranks + rank) * batch for step in islice(count(), worker, steps, workers))


def dataset_of(source: Stores) -> ShardDataset:
    """The data set itself, or one of whole tiles of these stores.

    Raises:
        ConfigError: it is something else.
        StoreError: a store cannot be read.
    """
    if isinstance(source, ShardDataset):
        return source
    if isinstance(source, (str, Path, Store)) or (isinstance(source, Sequence) and source):
        return ShardDataset(source)
    raise ConfigError(f"expected a ShardDataset, a store or a store's path, got {type(source).__name__}")


class ShardLoader:
    """Batches of the stream as tensors on the training device, made ahead of their use.

    With `steps`, one iteration is a pass of that many batches, and the next iteration resumes where it ended, so that crops and flips differ
    from pass to pass; `set_epoch` chooses the pass. Without `steps` an iteration has no end, and each begins at `start`.

    Leaving a loop early is safe: close the iterator (or let it go), and its threads end after the batches they are at.
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
            source: a `ShardDataset`, stores or their paths (whole tiles then), or any function of (first position, samples) such as one
                that adds noise to its batches.
            batch: samples per step and rank.
            start: global position to begin with, a resume's only need: steps done x batch x ranks.
            steps: how many batches, such as `len(data) // batch` for an epoch; None: no end.
            rank: which process of the group.
            ranks: processes of the group.
            workers: threads that make batches; 0 makes each when it is requested.
            ahead: batches per worker that are made in advance.
            device: where the tensors go. For a GPU they are pinned and copied on a stream of their own, during the steps before.

        Raises:
            ConfigError: a value that cannot be used.
            StoreError: a store cannot be read.
        """
        if workers < 0 or ahead < 1:
            raise ConfigError(f"expected workers >= 0 and ahead >= 1, got workers {workers}, ahead {ahead}")
        plan_steps(batch, start=start, steps=steps, rank=rank, ranks=ranks)  # complains here and not at the first batch
        is_function = callable(source) and not isinstance(source, ShardDataset)
        self._make: MakeBatch = source if is_function else dataset_of(source).batch  # type: ignore[assignment,arg-type]
        self.batch, self.start, self.steps, self.rank, self.ranks = batch, start, steps, rank, ranks
        self.workers, self.ahead = workers, ahead
        self.device = torch.device(device)
        self._passes = PassCounter()

    def __len__(self) -> int:
        """Batches of one pass.

        Raises:
            IndexKindError: an iteration has no end, because `steps` was not given; a `TypeError`, as Python expects.
        """
        if self.steps is None:
            raise IndexKindError("this ShardLoader has no end and so no length; give steps=len(data) // batch for one epoch")
        return self.steps

    def __repr__(self) -> str:
        steps = "no end" if self.steps is None else f"{self.steps} steps"
        return f"ShardLoader(batch {self.batch}, {steps}, start {self.start}, rank {self.rank} of {self.ranks}, {self.workers} workers, {self.device})"

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be pass number `epoch`: it begins at `start + epoch * steps * batch * ranks`.

        Raises:
            ConfigError: a number below 0, or a loader without `steps`, which goes through all epochs by itself.
        """
        if self.steps is None:
            raise ConfigError(
                "set_epoch: without steps one iteration goes through all epochs; give steps, or begin elsewhere with start"
            )
        self._passes.restart(epoch)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        mover = _Mover(self.device)
        start = self.start
        if self.steps is not None:
            start += self._passes.begin() * self.steps * self.batch * self.ranks
        firsts = plan_steps(self.batch, start=start, steps=self.steps, rank=self.rank, ranks=self.ranks)
        if self.workers == 0:
            return (mover.arrived(self._ready(first, mover)) for first in firsts)
        return self._from_threads(firsts, mover)

    def _from_threads(self, firsts: Iterator[int], mover: _Mover) -> Iterator[dict[str, Tensor]]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="shards")
        due: deque[Future[_Moving]] = deque()
        try:
            for first in islice(firsts, self.workers * self.ahead):
                due.append(pool.submit(self._ready, first, mover))
            while due:
                moving = due.popleft().result()
                for first in islice(firsts, 1):
                    due.append(pool.submit(self._ready, first, mover))
                yield mover.arrived(moving)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ready(self, first: int, mover: _Mover) -> _Moving:
        return mover.send({name: torch.as_tensor(values) for name, values in self._make(first, self.batch).items()})


_Moving = tuple[dict[str, Tensor], "torch.cuda.Event | None"]


class _Mover:
    """Copies batches to the device: on a GPU from pinned memory, on a side stream; on the CPU there is nothing to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, batch: dict[str, Tensor]) -> _Moving:
        """Start the copy, in the worker's thread."""
        if self.stream is None:
            return {name: value.to(self.device) for name, value in batch.items()}, None
        with torch.cuda.stream(self.stream):
            moved = {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in batch.items()}
            return moved, self.stream.record_event()

    def arrived(self, moving: _Moving) -> dict[str, Tensor]:
        """Make the trainer's stream wait for the copy; the host does not wait."""
        batch, event = moving
        if event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            for value in batch.values():
                value.record_stream(current)  # its memory is not reused while the trainer's stream may still read it
        return batch


class ShardStream(IterableDataset[dict[str, np.ndarray]]):
    """The same batches for `torch.utils.data.DataLoader(stream, batch_size=None, num_workers=N)`, in the same order for any N.

    Each iteration is a pass of `steps` batches that begins where the pass before ended, with any number of workers, persistent or not, so
    that crops and flips differ from epoch to epoch; `set_epoch` chooses the pass.
    """

    def __init__(
        self, data: Stores, batch: int, *, start: int = 0, steps: int | None = None, rank: int = 0, ranks: int = 1
    ) -> None:
        """
        Args:
            data: where the samples come from, a `ShardDataset`, stores or their paths; every worker process gets a copy.
            batch: samples per step and rank.
            start: global position to begin with.
            steps: how many batches a pass has; None: those of one epoch, rounded down.
            rank: which process of the group.
            ranks: processes of the group.

        Raises:
            ConfigError: a value that cannot be used.
            StoreError: a store cannot be read.
        """
        plan_steps(batch, start=start, steps=steps, rank=rank, ranks=ranks)  # complains here and not in a worker
        self.data, self.batch = dataset_of(data), batch
        self.start, self.rank, self.ranks = start, rank, ranks
        self.steps = _epoch_steps(self.data, batch * ranks) if steps is None else steps
        self._passes = PassCounter()

    def __len__(self) -> int:
        """Batches of one pass, over all workers."""
        return self.steps

    def __repr__(self) -> str:
        return f"ShardStream({self.data}, batch {self.batch}, {self.steps} steps, start {self.start}, rank {self.rank} of {self.ranks})"

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be pass number `epoch`: it begins at `start + epoch * steps * batch * ranks`. Persistent workers see it too."""
        self._passes.restart(epoch)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        begun = self._passes.begin(info.seed - info.id if info else None)
        start = self.start + begun * self.steps * self.batch * self.ranks
        firsts = plan_steps(
            self.batch, start=start, steps=self.steps, rank=self.rank, ranks=self.ranks, worker=worker, workers=workers
        )
        return (self.data.batch(first, self.batch) for first in firsts)


def _epoch_steps(data: ShardDataset, samples: int) -> int:
    """Steps of so many samples in one epoch, rounded down; ConfigError if there is none."""
    if samples > len(data):
        raise ConfigError(
            f"batch: expected at most the {len(data)} samples of an epoch over all ranks, got {samples}; "
            "give steps, and batches cross the border of epochs"
        )
    return len(data) // samples
