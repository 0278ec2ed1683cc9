"""Batches ahead of their use: made in a thread, pinned, and copied to a GPU on a stream of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Batch = dict[str, Tensor]

_AHEAD = 2  # batches made in advance


@contextmanager
def feed(make: Callable[[int], Batch], steps: range, device: torch.device) -> Iterator[Iterator[Batch]]:
    """Batches `make(step)` of the steps to come, in order, on the device; an error of `make` is raised where its batch was due."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(_AHEAD)
    closed = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for step in steps:
                if closed.is_set():
                    return
                batch = make(step)
                put({name: value.pin_memory() for name, value in batch.items()} if device.type == "cuda" else batch)
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
            put(error)

    def take() -> Iterator[Batch]:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        yield _ahead_on_gpu(take(), device) if device.type == "cuda" else take()
    finally:
        closed.set()
        thread.join()


def _ahead_on_gpu(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Each batch is copied while the one before it is computed with."""
    stream = torch.cuda.Stream(device)

    def move(batch: Batch | None) -> Batch | None:
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    ahead = move(next(batches, None))
    while ahead is not None:
        torch.cuda.current_stream(device).wait_stream(stream)
        current = ahead
        for value in current.values():
            value.record_stream(torch.cuda.current_stream(device))
        ahead = move(next(batches, None))
        yield current
