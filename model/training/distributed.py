"""Distributed training with `torchrun`: the part of a batch that each process computes, and the communication between processes.

A batch is a range of the global sample order, and rank r takes the r-th part of it. All ranks make the same number of steps, so none waits
for another that has finished. A run can be resumed with another number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...errors import ConfigError, SamdiffError

T = TypeVar("T")
_TIMEOUT = timedelta(hours=2)  # validation of whole images happens on rank 0 while the others wait


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process, and the operations that all ranks take part in."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def local_batch(self, batch: int, pieces: int) -> int:
        """Samples of this rank per step.

        Raises:
            ConfigError: the batch cannot be divided evenly.
        """
        if batch % (self.world * pieces):
            raise ConfigError(
                f"train.batch: expected a multiple of {self.world} processes x {pieces} (train.grad_accum), got {batch}"
            )
        return batch // self.world

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network in DistributedDataParallel, which averages gradients over all ranks; unchanged for one process."""
        if self.world == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def no_sync(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Skip the exchange of gradients for all but the last part of an accumulated batch."""
        return nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync()

    def all_reduce(self, loss: Tensor, stop: bool) -> tuple[Tensor, bool]:
        """The mean loss over all ranks, and whether any rank was requested to stop."""
        if self.world == 1:
            return loss, stop
        both = torch.stack([loss, torch.tensor(float(stop), device=loss.device)])
        dist.all_reduce(both)
        return both[0] / self.world, bool(both[1] > 0)

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 and return its result on all ranks. An error is raised on all ranks, so that none waits forever."""
        if self.world == 1:
            return work()
        result: list[Any] = [None, None]
        if self.is_main:
            try:
                result[0] = work()
            except (SamdiffError, OSError) as error:
                result[1] = error
        dist.broadcast_object_list(result, device=self.device)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def wait(self) -> None:
        """Wait until all ranks have arrived."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join(device: torch.device) -> Iterator[ProcessGroup]:
    """The process group if `torchrun` started this process (see its environment variables), else this process alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ProcessGroup(device)
        return
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield ProcessGroup(own, dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
