"""How the structure E enters the diffusion process: `none`, `official`, `paper`, `joint`. Pure.

All four follow one pair of formulas with two tables of coefficients, u_t and k_t:

    x_t = sqrt(abar_t) x_0 + u_t E + sqrt(1 - abar_t) eps          input of the network
    c   = eps + k_t E                                              its target (`joint`: eps and E separately)

    none      u = 0                          k = 0                           SRDiff
    official  u = (1 - abar_t) b_t           k = sqrt(1 - abar_t) b_t        the official SAM-DiffSR code
    paper     u = phi_t                      k = sqrt(1 - abar_t) / sqrt(b_t)   SAM-DiffSR, arXiv 2402.17133
    joint     u = phi_t                      predicts (eps, E)               ours
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ConfigError
from ..names import MODULATIONS as MODULATIONS
from .schedule import Schedule, gather


@dataclass(frozen=True, eq=False)
class Modulation:
    """A modulation of a noise schedule, created by `modulation(name, schedule)`."""

    name: str
    schedule: Schedule
    x_coef: Tensor
    """u_t, float64 [T]: coefficient of E in x_t."""
    target_coef: Tensor
    """k_t, float64 [T]: coefficient of E in the target of the network; zeros for `joint`."""
    grid: tuple[int, ...]
    """The time steps that a sampler may use: for `paper` those that its k_t belongs to, all for the others."""

    @property
    def needs_masks(self) -> bool:
        """Whether training uses E."""
        return self.name != "none"

    @property
    def outputs(self) -> int:
        """Output channels of the network for RGB."""
        return self.outputs_of(3)

    def outputs_of(self, bands: int) -> int:
        """Output channels of the network for images of so many bands: one more for `joint`, which predicts E too."""
        return bands + (self.name == "joint")

    def q_sample(self, x_0: Tensor, e: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """x_t.

        Args:
            x_0: residual [B, 3, H, W] in [-1, 1].
            e: E_SAM [B, 1, H, W], broadcast over the channels; may be None for `none`.
            t: int64 [B], 0-based.
            noise: eps, standard normal, shaped like x_0.
        """
        abar = gather(self.schedule.alpha_bars, t, x_0)
        x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise
        return x_t + gather(self.x_coef, t, x_0) * self._given(e) if self.needs_masks else x_t

    def target(self, e: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """The target of the network: [B, 3, H, W], or [B, 4, H, W] (eps, E) for `joint`."""
        if self.name == "joint":
            return torch.cat([noise, self._given(e).to(noise.dtype)], dim=1)
        return noise + gather(self.target_coef, t, noise) * self._given(e) if self.needs_masks else noise

    def x_0(self, x_t: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """x_0 from the prediction, not clipped.

        Exact for `none` and `official` (u = sqrt(1 - abar) k) and, given E, for `joint`. For `paper` its error is
        (phi_t - (1 - abar_t) / sqrt(b_t)) / sqrt(abar_t) E.
        """
        abar = gather(self.schedule.alpha_bars, t, x_t)
        if self.name == "joint":
            x_t = x_t - gather(self.x_coef, t, x_t) * predicted[:, x_t.shape[1] :]
        return (x_t - (1 - abar).sqrt() * predicted[:, : x_t.shape[1]]) / abar.sqrt()

    def _given(self, e: Tensor | None) -> Tensor:
        if e is None:
            raise ConfigError(
                f"modulation {self.name!r} needs E_SAM, and none was given; use a store with masks, or --modulation none"
            )
        return e


def modulation(name: str, schedule: Schedule, steps: int | None = None) -> Modulation:
    """A modulation by name.

    Args:
        name: `none`, `official`, `paper` or `joint`.
        schedule: the noise schedule.
        steps: for `paper`, the number of sampling steps to train for; None: all T.

    Raises:
        ConfigError: an unknown name, or `steps` for a modulation that allows any number.
    """
    if name not in MODULATIONS:
        raise ConfigError(f"modulation: expected one of {', '.join(MODULATIONS)}, got {name!r}")
    if steps is not None and name != "paper":
        raise ConfigError(
            f"modulation {name!r} can be sampled with any number of steps; only 'paper' is trained for one number"
        )
    abar, zero = schedule.alpha_bars, torch.zeros(len(schedule), dtype=torch.float64)
    grid = time_grid(len(schedule), len(schedule) if steps is None else steps)
    if name == "none":
        return Modulation(name, schedule, x_coef=zero, target_coef=zero, grid=grid)
    if name == "official":
        target_coef = (1 - abar).sqrt() * schedule.betas
        return Modulation(name, schedule, x_coef=(1 - abar).sqrt() * target_coef, target_coef=target_coef, grid=grid)
    return Modulation(
        name,
        schedule,
        x_coef=schedule.phi,
        target_coef=_grid_target_coef(schedule, grid) if name == "paper" else zero,
        grid=grid,
    )


def time_grid(total: int, steps: int) -> tuple[int, ...]:
    """`steps` time steps, evenly spread from total - 1 down to 0; only total - 1 for one step.

    Raises:
        ConfigError: fewer than 1 or more than `total` steps.
    """
    if not 1 <= steps <= total:
        raise ConfigError(f"steps: expected 1 to {total} (the length of the noise schedule), got {steps}")
    spread = torch.linspace(total - 1, 0, steps, dtype=torch.float64) if steps > 1 else torch.tensor([total - 1.0])
    return tuple(spread.round().long().tolist())


def posterior_coefs(schedule: Schedule, t: int, s: int) -> tuple[float, float, float]:
    """A, psi and variance of the transition from t to s < t in the process with drift phi: A = sqrt(abar_t / abar_s), psi = phi_t - A phi_s."""
    abar_t, abar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
    a = (abar_t / abar_s) ** 0.5
    return a, schedule.phi_at(t) - a * schedule.phi_at(s), (1 - a * a) * (1 - abar_s) / (1 - abar_t)


def _grid_target_coef(schedule: Schedule, grid: tuple[int, ...]) -> Tensor:
    """`paper`'s k_t on a grid: psi sqrt(1 - abar_t) / (1 - A^2); with all T steps that is sqrt(1 - abar_t) / sqrt(b_t)."""
    target_coef = torch.zeros(len(schedule), dtype=torch.float64)
    for t, s in zip(grid, (*grid[1:], -1), strict=True):
        a, psi, _ = posterior_coefs(schedule, t, s)
        target_coef[t] = psi * (1 - schedule.alpha_bar(t)) ** 0.5 / (1 - a * a)
    return target_coef
