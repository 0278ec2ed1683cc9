"""Several processes, started by `torchrun`: who does which part of a batch, and what they tell each other.

A batch is one piece of the global order of samples; rank r takes the r-th share of it. All ranks make the same number of steps, whatever
the stores hold, so none waits for one that is done; and a run may go on with another number of processes.
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
_PATIENCE = timedelta(hours=2)  # validation of whole pictures happens on rank 0 while the others wait


@dataclass(frozen=True)
class ProcessGroup:
    """This process among all of them."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def local_batch(self, batch: int, pieces: int) -> int:
        """Samples of this rank per step.

        Raises:
            ConfigError: the batch cannot be cut evenly.
        """
        if batch % (self.world * pieces):
            raise ConfigError(
                f"train.batch: expected a multiple of {self.world} processes x {pieces} (train.grad_accum), got {batch}"
            )
        return batch // self.world

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean over all ranks."""
        if self.world == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def no_sync(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged with the last piece of a batch only."""
        return nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync()

    def all_reduce(self, loss: Tensor, stop: bool) -> tuple[Tensor, bool]:
        """The mean loss of all ranks, and whether any was asked to stop."""
        if self.world == 1:
            return loss, stop
        both = torch.stack([loss, torch.tensor(float(stop), device=loss.device)])
        dist.all_reduce(both)
        return both[0] / self.world, bool(both[1] > 0)

    def one_for_all(self, work: Callable[[], T]) -> T:
        """What rank 0 makes of it, on all ranks. Its error too, so that all end with the reason and none waits for it."""
        if self.world == 1:
            return work()
        made: list[Any] = [None, None]
        if self.is_main:
            try:
                made[0] = work()
            except (SamdiffError, OSError) as error:
                made[1] = error
        dist.broadcast_object_list(made, device=self.device)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join(device: torch.device) -> Iterator[ProcessGroup]:
    """The ranks that `torchrun` started (its environment says so), or this process alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ProcessGroup(device)
        return
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield ProcessGroup(own, dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
