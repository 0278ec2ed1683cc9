"""Copies tensors from the device to the host asynchronously: pinned memory, a side stream, and work queued ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Key = TypeVar("Key")


def to_host(parts: Iterable[tuple[Key, Tensor]], ahead: int = 2) -> Iterator[tuple[Key, np.ndarray]]:
    """Named tensors as arrays, in order.

    On a GPU each tensor is copied to pinned memory on a side stream while the next ones are computed: the host waits for one copy, not
    for the work queued behind it. On the CPU the array shares the tensor's memory.

    Args:
        parts: (key, tensor); a lazy iterable, so that the next ones are queued before the host waits for the first.
        ahead: copies in flight.
    """
    waiting: deque[tuple[Key, Tensor, torch.cuda.Event | None]] = deque()
    stream = None
    for key, part in parts:
        if part.is_cuda and stream is None:
            stream = torch.cuda.Stream(part.device)
        waiting.append((key, *_send(part, stream)))
        if len(waiting) > ahead:
            yield _arrived(*waiting.popleft())
    while waiting:
        yield _arrived(*waiting.popleft())


def fetch(*parts: Tensor) -> list[np.ndarray]:
    """A few small tensors as arrays, with one wait."""
    return [array for _, array in to_host(enumerate(parts), ahead=len(parts))]


def _send(part: Tensor, stream: torch.cuda.Stream | None) -> tuple[Tensor, torch.cuda.Event | None]:
    if stream is None:
        return part, None
    stream.wait_stream(torch.cuda.current_stream(part.device))
    with torch.cuda.stream(stream):
        host = torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True)
        event = stream.record_event()
    part.record_stream(stream)  # the allocator must not reuse its memory before the copy is done
    return host, event


def _arrived(key: Key, part: Tensor, event: torch.cuda.Event | None) -> tuple[Key, np.ndarray]:
    if event is not None:
        event.synchronize()
    return key, part.numpy()
