"""The two processes behind the same functions, for training and inference: `ddpm` (with a modulation) and `flow`. Pure.

residual  what is diffused: (image - base) * rescale, base the bicubic enlargement or the RRDB's image, all in [-1, 1]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ...errors import ConfigError
from .flow import SAMPLER, Flow
from .modulation import Modulation
from .residual import RESCALE, from_residual, to_residual
from .sampler import DEFAULT, Noise, Predict, check_pair, sample_steps

SPREAD = {"ddpm": 0.25, "flow": 0.5}
"""process -> standard deviation that a residual to the RRDB's image is scaled to. ddpm's is clipped to [-1, 1], four deviations."""
NO_ONE_STEP = (
    "loss.perceptual with modulation 'paper': the x_0 of one step is off by a multiple of E; use none, official or joint"
)
ONE_STEP_SIGNAL = 0.5
"""`ddpm`: share of x_0, sqrt(abar), in the states whose x_0 is looked at as an image; below it the network's error is magnified too much."""


@dataclass(frozen=True, eq=False)
class DdpmProcess:
    """Ho et al.'s process with one of the four modulations."""

    modulation: Modulation
    rescale: float = RESCALE
    """Of the residual, which is clipped to [-1, 1]."""

    @property
    def sampler(self) -> str:
        """The sampler that fits."""
        return DEFAULT[self.modulation.name]

    @property
    def times(self) -> tuple[int, ...]:
        """The times to train on, ascending."""
        return tuple(sorted(self.modulation.grid))

    @cached_property
    def one_step_time(self) -> int:
        """The latest time at which an x_0 may be judged as an image. ConfigError for `paper`, whose x_0 is off by a multiple of E."""
        if self.modulation.name == "paper":
            raise ConfigError(NO_ONE_STEP)
        return max(0, int((self.modulation.schedule.alpha_bars.sqrt() >= ONE_STEP_SIGNAL).sum()) - 1)

    def residual(self, image: Tensor, base: Tensor) -> Tensor:
        """x_0 of an image, both [B, 3, H, W] in [-1, 1]."""
        return to_residual(image, base, self.rescale)

    def image(self, x: Tensor, base: Tensor) -> Tensor:
        """The image of an x_0, not clipped."""
        return from_residual(x, base, self.rescale)

    def q_sample(self, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """See `Modulation.q_sample`."""
        return self.modulation.q_sample(residual, e, t, noise)

    def compared(
        self, x: Tensor, predicted: Tensor, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the loss compares: the prediction and `Modulation.target`."""
        return predicted, self.modulation.target(e, t, noise)

    def clean(self, x: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """x_0 as the prediction implies it, unclipped."""
        return self.modulation.x_0(x, predicted, t)

    def check(self, sampler: str | None, steps: int | None, first: int | None = None) -> tuple[int, ...]:
        """See `sampler.check_pair`."""
        if sampler == SAMPLER:
            raise ConfigError(
                f"sampler {sampler!r}: for models with diffusion.process 'flow', this one is 'ddpm'; leave --sampler out"
            )
        return check_pair(self.modulation, sampler or self.sampler, steps, first)

    def start(self, noise: Tensor, residual: Tensor, first: int | None) -> Tensor:
        """The state to sample from: noise, or (time `first`) the residual with noise: that of `none`; of `official` but for its small multiple of E."""
        if first is None:
            return noise
        abar = self.modulation.schedule.alpha_bar(first)
        return abar**0.5 * residual + (1 - abar) ** 0.5 * noise

    def sample_steps(
        self,
        predict: Predict,
        x: Tensor,
        noise: Noise,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        first: int | None = None,
        rows: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """See `sampler.sample_steps`."""
        return sample_steps(predict, self.modulation, x, noise, sampler, steps, first=first, rows=rows)


@dataclass(frozen=True, eq=False)
class FlowProcess:
    """A straight flow from the base image with noise to HR; E has no part in it."""

    flow: Flow
    rescale: float
    """Of the residual, which is not clipped."""
    sampler: str = SAMPLER
    one_step_time: int = 0

    @property
    def times(self) -> tuple[int, ...]:
        """The times to train on, ascending."""
        return tuple(range(self.flow.timesteps))

    def residual(self, image: Tensor, base: Tensor) -> Tensor:
        """r of an image, both [B, 3, H, W] in [-1, 1]."""
        return (image - base) * self.rescale

    def image(self, x: Tensor, base: Tensor) -> Tensor:
        """The image of an r, not clipped."""
        return x / self.rescale + base

    def q_sample(self, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """See `Flow.q_sample`."""
        return self.flow.q_sample(residual, t, noise)

    def compared(
        self, x: Tensor, predicted: Tensor, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Flow.compared`."""
        return self.flow.compared(x, predicted, residual=residual, t=t, noise=noise)

    def clean(self, x: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """r as the prediction implies it."""
        return self.flow.clean(x, predicted, t)

    def check(self, sampler: str | None, steps: int | None, first: int | None = None) -> tuple[int, ...]:
        """See `Flow.check`."""
        return self.flow.check(sampler, steps, first)

    def start(self, noise: Tensor, residual: Tensor, first: int | None) -> Tensor:
        """The state to sample from: sigma eps."""
        return self.flow.sigma * noise

    def sample_steps(
        self,
        predict: Predict,
        x: Tensor,
        noise: Noise,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        first: int | None = None,
        rows: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Flow.sample_steps`; no noise is drawn on the way."""
        self.check(sampler, steps, first)
        return self.flow.sample_steps(predict, x, steps, rows=rows)


Process = DdpmProcess | FlowProcess


def build_process(name: str, modulation: Modulation, rescale: float, *, sigma: float, prediction: str) -> Process:
    """A process by name.

    Args:
        name: one of PROCESSES.
        modulation: for `ddpm`; its schedule has as many times as a flow gets.
        rescale: what residuals are multiplied by.
        sigma: for `flow`, see `Flow`.
        prediction: for `flow`, see `Flow`.

    Raises:
        ConfigError: `rescale` is 0, which means that it is not known.
    """
    if not rescale:
        raise ConfigError("diffusion.residual_scale: not measured yet; a model with base 'rrdb' is saved with its own")
    if name == "flow":
        return FlowProcess(Flow(len(modulation.schedule), sigma, prediction), rescale)
    return DdpmProcess(modulation, rescale)


def measured_rescale(residual: Tensor, process: str) -> float:
    """What scales residuals [N, 3, H, W] to the standard deviation `SPREAD[process]` about 0, rounded to two digits; 1 … 64."""
    spread = float(residual.double().square().mean().sqrt())
    return min(64.0, max(1.0, float(f"{SPREAD[process] / max(spread, 1e-6):.2g}")))
