"""Rectified flow (Liu et al. 2022, arXiv 2209.03003) from the RRDB's image with noise to HR, as in PMRF (arXiv 2410.00418). Pure.

With r the scaled residual to the base image, eps standard normal and s = t / T from 0 (noise) to 1 (HR):

    x_s = (1 - s) sigma eps + s r            the straight path
    v   = r - sigma eps = (r - x_s) / (1 - s)    its velocity
    x_s' = x_s + (s' - s) v                  Euler's step; the last one ends in the estimate of r

The meaning of the network's output F (`prediction`):

    clean     r^ = F                                          v^ = (F - x_s) / (1 - s)
    velocity  v^ = F + (2 s - 1) / ((1 - s)^2 + s^2) x_s      r^ = x_s + (1 - s) v^

For `clean`, F = 0 gives the base image for any number of steps. For `velocity`, F = 0 gives it in one step; with more steps F = 0 is the
exact flow between two Gaussians of equal variance, so noise remains. The factor is the best linear estimate of v from x_s for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ConfigError
from ..names import FLOW_SAMPLER as SAMPLER
from ..names import PREDICTIONS as PREDICTIONS
from .sampler import Predict, SamplingPlan

LEAST_LEFT = 0.25
"""Lower bound of 1 - s as a divisor in the loss: otherwise the last time steps would dominate. Four Euler steps go no closer to s = 1."""


@dataclass(frozen=True)
class Flow:
    """A rectified flow with time steps 0 … T - 1; T is HR."""

    timesteps: int
    """T."""
    sigma: float
    """Standard deviation of the noise at time 0, in units of the scaled residual."""
    prediction: str = "clean"
    """One of PREDICTIONS."""

    def q_sample(self, residual: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_s.

        Args:
            residual: r [B, 3, H, W].
            t: int64 [B], 0 … T - 1.
            noise: eps, standard normal, shaped like r.
        """
        s = self._share(t, residual)
        return (1 - s) * self.sigma * noise + s * residual

    def clean(self, x: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """r^ from the prediction, not clipped."""
        if self.prediction == "clean":
            return predicted
        return x + (1 - self._share(t, x)) * self.velocity(x, predicted, t)

    def velocity(self, x: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """v^ from the prediction."""
        s = self._share(t, x)
        if self.prediction == "clean":
            return (predicted - x) / (1 - s)
        return predicted + (2 * s - 1) / ((1 - s) ** 2 + s**2) * x

    def compared(self, x: Tensor, predicted: Tensor, residual: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(prediction, target) of the loss: v^ and v; for `clean` r^ and r, both divided by max(1 - s, LEAST_LEFT)."""
        if self.prediction == "velocity":
            return self.velocity(x, predicted, t), residual - self.sigma * noise
        left = (1 - self._share(t, x)).clamp(min=LEAST_LEFT)
        return predicted / left, residual / left

    def plan(self, sampler: str | None = None, steps: int | None = None, *, first: int | None = None) -> SamplingPlan:
        """The time steps of Euler's method, ascending from 0.

        Args:
            sampler: `euler` or None.
            steps: number of network calls; None: all T.
            first: None; anything else is an error.

        Raises:
            ConfigError: another sampler, start, or number of steps.
        """
        if sampler not in (None, SAMPLER):
            raise ConfigError(
                f"sampler {sampler!r}: the model is a flow, whose only sampler is {SAMPLER!r}; leave --sampler (in training: validate.sampler) out"
            )
        if first is not None:
            raise ConfigError("start: a flow always starts from the RRDB's image; leave --start out")
        number = self.timesteps if steps is None else steps
        if not 1 <= number <= self.timesteps:
            raise ConfigError(f"steps: expected 1 to {self.timesteps} (the flow's time steps), got {number}")
        return SamplingPlan(SAMPLER, tuple(index * self.timesteps // number for index in range(number)))

    def sample_steps(
        self, predict: Predict, x: Tensor, plan: SamplingPlan, *, rows: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """(time, state) from the start to the end: (0, x_0), …, (T, r^). The state is `x` itself, changed in place.

        Args:
            predict: the network, called with x_s [B, 3, H, W] and t int64 [B].
            x: sigma eps.
            plan: of `plan`.
            rows: rows that are updated at once, which bounds the memory; None: all.
        """
        grid = plan.times
        yield grid[0], x
        for t, after in zip(grid, (*grid[1:], self.timesteps), strict=True):
            predicted = predict(x, torch.full((len(x),), t, dtype=torch.int64, device=x.device))
            weight = (after - t) / (self.timesteps - t)  # fraction of the remaining time; 1 in the last step
            for top in range(0, x.shape[2], rows or x.shape[2]):
                part = x[:, :, top : top + (rows or x.shape[2])]
                output = predicted[:, :, top : top + (rows or x.shape[2])]
                part.lerp_(self.clean(part, output, torch.full((len(x),), t, device=x.device)).to(part.dtype), weight)
            yield after, x

    def _share(self, t: Tensor, like: Tensor) -> Tensor:
        """s = t / T, shaped to multiply `like`."""
        return (t.to(like.device, like.dtype) / self.timesteps).view(-1, *[1] * (like.ndim - 1))
