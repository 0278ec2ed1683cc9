"""The noise schedule: betas, and all tables that follow from them. Pure.

Time steps are 0-based: `t` = 0 … T-1 is the paper's t+1. `t = -1` stands for the clean image (abar = 1, phi = 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...errors import ConfigError


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule. All tables are float64 [T] on the CPU; `gather` moves values to a device."""

    betas: Tensor
    """b_t in (0, 1)."""

    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas < 1)).all():
            raise ConfigError(f"betas: expected a 1-D tensor of numbers between 0 and 1, got shape {list(betas.shape)}")
        object.__setattr__(self, "betas", betas)

    @classmethod
    def cosine(cls, steps: int = 100, s: float = 0.008) -> Schedule:
        """The official cosine schedule: T+1 points over 0 … T+1 (not T), betas at most .999 (the official configuration)."""
        points = torch.linspace(0, steps + 1, steps + 1, dtype=torch.float64)
        squared = torch.cos((points / (steps + 1) + s) / (1 + s) * math.pi / 2) ** 2
        return cls((1 - squared[1:] / squared[:-1]).clamp(max=0.999))

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
        """Linear betas (Ho et al. 2020), scaled so that any T adds as much noise as 1000 steps do."""
        scale = 1000 / steps
        return cls(torch.linspace(first * scale, last * scale, steps, dtype=torch.float64).clamp(max=0.999))

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas(self) -> Tensor:
        """a_t = 1 - b_t."""
        return 1 - self.betas

    @cached_property
    def alpha_bars(self) -> Tensor:
        """abar_t = prod_{i <= t} a_i."""
        return torch.cumprod(self.alphas, 0)

    @cached_property
    def alpha_bars_prev(self) -> Tensor:
        """abar_{t-1}; 1 at t = 0."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bars[:-1]])

    @cached_property
    def phi(self) -> Tensor:
        """Coefficient of E accumulated up to step t: phi_t = sqrt(1 - b_t) phi_{t-1} + sqrt(b_t), phi_{-1} = 0.

        Follows from the forward step of SAM-DiffSR. Some texts print sqrt(abar_t / abar_i) b_i as the summand, which is a misprint.
        """
        values, phi = [], 0.0
        for beta in self.betas.tolist():
            phi = math.sqrt(1 - beta) * phi + math.sqrt(beta)
            values.append(phi)
        return torch.tensor(values, dtype=torch.float64)

    @cached_property
    def posterior_variance(self) -> Tensor:
        """b_t (1 - abar_{t-1}) / (1 - abar_t): of q(x_{t-1} | x_t, x_0)."""
        return self.betas * (1 - self.alpha_bars_prev) / (1 - self.alpha_bars)

    @cached_property
    def posterior_mean_x0(self) -> Tensor:
        """Coefficient of x_0 in the mean of q(x_{t-1} | x_t, x_0)."""
        return self.betas * self.alpha_bars_prev.sqrt() / (1 - self.alpha_bars)

    @cached_property
    def posterior_mean_xt(self) -> Tensor:
        """Coefficient of x_t in the mean of q(x_{t-1} | x_t, x_0)."""
        return (1 - self.alpha_bars_prev) * self.alphas.sqrt() / (1 - self.alpha_bars)

    def alpha_bar(self, t: int) -> float:
        """abar_t as a number, 1 for t = -1."""
        return 1.0 if t < 0 else float(self.alpha_bars[t])

    @cached_property
    def t_start(self) -> int:
        """The first time step of sampling with few steps: the last one with sqrt(abar) >= 0.1; T - 1 if the schedule ends before.

        Later time steps hold almost no information about x_0: sqrt(abar) is .0005 at t = 99 of the cosine schedule, which magnifies the error
        of an x_0 derived there 2000 times.
        """
        known = self.alpha_bars.sqrt()
        t = int((known >= 0.1).sum()) - 1
        return t if t >= 0 and float(known[t]) < 0.2 else len(self) - 1

    def phi_at(self, t: int) -> float:
        """phi_t as a number, 0 for t = -1."""
        return 0.0 if t < 0 else float(self.phi[t])


def gather(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Values of a table [T] at the times t int64 [B], shaped [B, 1, 1, …] to multiply `like`, on its device and in its dtype."""
    values = table.to(like.device, like.dtype)[t.to(like.device)]
    return values.view(-1, *[1] * (like.ndim - 1))
