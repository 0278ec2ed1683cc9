"""Batches that are ready when the training step asks for them: `ShardLoader`, and `ShardStream` for PyTorch's own `DataLoader`.

`ShardLoader` makes batches in threads. Checksums aside, reading and decoding a tile release the interpreter's lock, so threads scale
as worker processes do, without copies between processes and without anything to fork. The order is that of `order.py`: a batch is a function
of its first position, so the number of workers and ranks changes who makes it, never what it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...errors import ConfigError
from .dataset import ShardDataset

MakeBatch = Callable[[int, int], Mapping[str, Any]]
"""(first global position, samples) -> arrays or tensors on the CPU; a function of its arguments, callable from threads."""


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


class ShardLoader:
    """Batches of the stream as tensors on the training device, made ahead of their use. Iterate as often as you like.

    Breaking off early is safe: close the iterator (or let it go), and its threads end after the batches they are at.
    """

    def __init__(
        self,
        source: ShardDataset | MakeBatch,
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
            source: a `ShardDataset`, or any function of (first position, samples) such as one that adds noise to its batches.
            batch: samples per step and rank.
            start: global position to begin with, a resume's only need: steps done x batch x ranks.
            steps: how many batches; None goes on for ever.
            rank: which process of the group.
            ranks: processes of the group.
            workers: threads that make batches; 0 makes each when it is asked for.
            ahead: batches per worker that are made in advance.
            device: where the tensors go. For a GPU they are pinned and copied on a stream of their own, during the steps before.

        Raises:
            ConfigError: a number that cannot be meant.
        """
        if workers < 0 or ahead < 1:
            raise ConfigError(f"expected workers >= 0 and ahead >= 1, got workers {workers}, ahead {ahead}")
        plan_steps(batch, start, steps, rank, ranks)  # complains here and not at the first batch
        self._make: MakeBatch = source.batch if isinstance(source, ShardDataset) else source
        self.batch, self.steps, self.workers, self.ahead = batch, steps, workers, ahead
        self._plan = (batch, start, steps, rank, ranks)
        self.device = torch.device(device)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        mover = _Mover(self.device)
        firsts = plan_steps(*self._plan)
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


class ShardStream(IterableDataset[Mapping[str, Any]]):
    """The same batches for `torch.utils.data.DataLoader(stream, batch_size=None, num_workers=N)`, in the same order for any N."""

    def __init__(
        self, data: ShardDataset, batch: int, *, start: int = 0, steps: int | None = None, rank: int = 0, ranks: int = 1
    ) -> None:
        """
        Args:
            data: where the samples come from; every worker process gets a copy.
            batch: samples per step and rank.
            start: global position to begin with.
            steps: how many batches; None stands for one epoch's worth, rounded down.
            rank: which process of the group.
            ranks: processes of the group.
        """
        plan_steps(batch, start, steps, rank, ranks)  # complains here and not in a worker
        self.data, self.batch = data, batch
        self._plan = (batch, start, len(data) // (batch * ranks) if steps is None else steps, rank, ranks)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for first in plan_steps(*self._plan, worker, workers):
            yield self.data.batch(first, self.batch)
