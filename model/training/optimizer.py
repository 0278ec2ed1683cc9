"""Learning rates, EMA, and an optimiser step that is skipped on the device: no value is copied to the host.

The fused kernel skips a step whose loss or gradient is not finite (`found_inf`); the counters are tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import TrainConfig

_GROW_AFTER, _FIRST_SCALE = 2000, 65536.0  # as torch.amp.GradScaler


@dataclass
class Guard:
    """Counters of skipped steps, and the loss scale: float32 scalars on the training device, saved with each state."""

    skipped: Tensor
    """Skipped steps so far."""
    row: Tensor
    """Consecutive steps skipped until now."""
    longest: Tensor
    """Most consecutive steps skipped so far."""
    scale: Tensor
    """Loss scale; 1 unless amp is fp16."""
    calm: Tensor
    """Steps since the scale last changed."""

    @classmethod
    def new(cls, amp: str, device: torch.device) -> Guard:
        """Initial values."""
        start = {"scale": _FIRST_SCALE if amp == "fp16" else 1.0}
        return cls(**{name: torch.tensor(start.get(name, 0.0), device=device) for name in cls.__dataclass_fields__})

    def count(self, bad: Tensor, scaled: bool) -> None:
        """Count a step; `bad` is 1.0 if it was skipped. The scale then halves; it doubles after 2000 steps without a skip."""
        self.skipped += bad
        self.row = (self.row + 1) * bad
        self.longest = torch.maximum(self.longest, self.row)
        if scaled:
            grown = (self.calm + 1 >= _GROW_AFTER) & (bad == 0)
            self.scale = torch.where(bad > 0, self.scale * 0.5, torch.where(grown, self.scale * 2, self.scale)).clamp(min=1.0)
            self.calm = torch.where(grown | (bad > 0), torch.zeros_like(self.calm), self.calm + 1)


def make_optimiser(network: nn.Module, settings: TrainConfig) -> torch.optim.Adam:
    """Adam with the settings of the official code, fused."""
    return torch.optim.Adam(network.parameters(), lr=settings.lr, betas=(0.9, 0.99), fused=True)


def update(optimiser: torch.optim.Adam, guard: Guard, loss: Tensor, settings: TrainConfig) -> Tensor:
    """Make one optimiser step from the accumulated gradients (of `loss` times the guard's scale). Returns 1.0 if it was skipped, else 0.0."""
    parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    scaled = settings.amp == "fp16"
    if scaled:
        torch._foreach_mul_([p.grad for p in parameters], 1 / guard.scale)
    norm = nn.utils.clip_grad_norm_(parameters, settings.grad_clip or float("inf"), foreach=True)
    bad = (~torch.isfinite(loss + norm)).float()
    optimiser.found_inf = bad  # type: ignore[attr-defined]  # what GradScaler hands to a fused optimiser
    optimiser.step()
    guard.count(bad, scaled)
    return bad


def learning_rate(step: int, settings: TrainConfig, total: int) -> float:
    """The learning rate of a 0-based step of `total`, with linear warm-up.

    `step`: halved every `halve_every` steps (the official schedule); `cosine`: falls to 0 at the end.
    """
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.lr_schedule == "cosine":
        return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    return settings.lr * warm * 0.5 ** (step // settings.halve_every)


def set_lr(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def ema_decay(step: int, decay: float) -> float:
    """The EMA's decay at a 1-based step, warmed up as (1 + n) / (10 + n), so that early weights are forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average(ema: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights, in place."""
    weights = network.state_dict()
    names = [name for name, value in weights.items() if value.is_floating_point()]
    torch._foreach_lerp_([ema[name] for name in names], [weights[name] for name in names], 1 - decay)
