"""How much memory and time a stage will take, measured on one sample before the first step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Estimate:
    """What one sample showed."""

    parameters: int
    per_sample: int
    """Bytes that the backward pass needs of one sample's forward pass."""
    seconds: float
    """Forward and backward pass of one sample."""
    fixed: int
    """Bytes of weights, gradients, Adam's moments and average: 20 per parameter."""

    def line(self, name: str, steps: int, batch: int, at_once: int, ranks: int, device: torch.device) -> str:
        """One line for the user."""
        memory = self.fixed + at_once * self.per_sample
        text = f"{name}: {self.parameters / 1e6:.2f} M parameters on {device}; about {_bytes(memory)} "
        text += (
            f"({_bytes(self.fixed)} weights and optimiser, {_bytes(at_once * self.per_sample)} activations of {at_once} samples"
        )
        text += f"{' per process' if ranks > 1 else ''}), at most {_time(steps * batch * self.seconds / ranks)} for {steps} steps of {batch}"
        if device.type == "cuda" and memory > torch.cuda.mem_get_info(device)[0]:
            text += f"; only {_bytes(torch.cuda.mem_get_info(device)[0])} are free: try --set train.grad_accum=2 or train.gradient_checkpointing=true"
        return text


def measure(
    network: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor], sample: dict[str, Tensor], device: torch.device
) -> Estimate:
    """Run one sample forward and backward twice (the first time warms up); weights are untouched, gradients dropped again."""
    sizes: dict[int, int] = {}
    own = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return value

    on_device = {name: value.to(device) for name, value in sample.items()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        loss(on_device).backward()
    _wait(device)
    started = time.perf_counter()
    loss(on_device).backward()
    _wait(device)
    seconds = time.perf_counter() - started
    network.zero_grad(set_to_none=True)
    count = sum(value.numel() for value in network.parameters())
    return Estimate(count, sum(sizes.values()), seconds, 20 * count)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"
