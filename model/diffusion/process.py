"""The two processes with a common interface for training and inference: `ddpm` (with a modulation) and `flow`. Pure.

They work on the residual (image - base) * rescale; the base is the bicubic upsampling of LR or the RRDB's image, all in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ...errors import ConfigError
from .flow import SAMPLER, Flow
from .modulation import Modulation
from .noise_scale import SIGNAL
from .residual import RESCALE, from_residual, to_residual
from .sampler import DEFAULT, Noise, Predict, SamplingPlan, plan_sampling, sample_steps

SPREAD = {"ddpm": 0.25, "flow": 0.5}
"""process -> standard deviation that residuals to the RRDB's image are scaled to. ddpm clips them to [-1, 1], four standard deviations."""
NO_ONE_STEP = "loss.perceptual with modulation 'paper': its one-step x_0 has an error that is a multiple of E; use none, official or joint"
ONE_STEP_SIGNAL = 0.5
"""`ddpm`: minimum of sqrt(abar) for one-step prediction; below it the error of the network is magnified too much."""


@dataclass(frozen=True, eq=False)
class DdpmProcess:
    """Ho et al.'s process with one of the four modulations."""

    modulation: Modulation
    rescale: float = RESCALE
    """Of the residual, which is clipped to [-1, 1]."""

    @property
    def sampler(self) -> str:
        """The default sampler."""
        return DEFAULT[self.modulation.name]

    @property
    def times(self) -> tuple[int, ...]:
        """The time steps to train on, ascending."""
        return tuple(sorted(self.modulation.grid))

    @cached_property
    def one_step_time(self) -> int:
        """The largest time step for one-step prediction. ConfigError for `paper`, whose x_0 has an error that is a multiple of E."""
        if self.modulation.name == "paper":
            raise ConfigError(NO_ONE_STEP)
        return max(0, int((self.modulation.schedule.alpha_bars.sqrt() >= ONE_STEP_SIGNAL).sum()) - 1)

    def residual(self, image: Tensor, base: Tensor, scale: Tensor | None = None) -> Tensor:
        """x_0 of an image, both [B, 3, H, W] in [-1, 1]; with a scale of the noise [B, 1, H, W] y_0, see `noise_scale`."""
        x_0 = to_residual(image, base, self.rescale)
        return x_0 if scale is None else (x_0 * (SIGNAL["ddpm"] / scale)).clamp(-1, 1)

    def image(self, x: Tensor, base: Tensor, scale: Tensor | None = None) -> Tensor:
        """The image of an x_0, with a scale of the noise that of a y_0; not clipped."""
        x_0 = x if scale is None else x.clamp(-1, 1) * (scale / SIGNAL["ddpm"])
        return from_residual(x_0, base, self.rescale)

    def noise(self, eps: Tensor, scale: Tensor | None = None) -> Tensor:
        """The noise of `q_sample`, `compared` and `start` from standard normal values: these themselves."""
        return eps

    def q_sample(self, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """See `Modulation.q_sample`."""
        return self.modulation.q_sample(residual, e, t=t, noise=noise)

    def compared(
        self, x: Tensor, predicted: Tensor, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(prediction, target) of the loss, see `Modulation.target`."""
        return predicted, self.modulation.target(e, t, noise)

    def clean(self, x: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """x_0 from the prediction, not clipped."""
        return self.modulation.x_0(x, predicted, t)

    def plan(self, sampler: str | None = None, steps: int | None = None, *, first: int | None = None) -> SamplingPlan:
        """See `sampler.plan_sampling`."""
        if sampler == SAMPLER:
            raise ConfigError(
                f"sampler {sampler!r}: only for models with diffusion.process 'flow', this one has 'ddpm'; leave --sampler (in training: validate.sampler) out"
            )
        return plan_sampling(self.modulation, sampler, steps, first=first)

    def start(self, noise: Tensor, residual: Tensor, first: int | None) -> Tensor:
        """The initial state: noise, or the residual noised to time step `first`, without the small multiple of E of `official`."""
        if first is None:
            return noise
        abar = self.modulation.schedule.alpha_bar(first)
        return abar**0.5 * residual + (1 - abar) ** 0.5 * noise

    def sample_steps(
        self, predict: Predict, x: Tensor, *, noise: Noise, plan: SamplingPlan, rows: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """See `sampler.sample_steps`."""
        return sample_steps(predict, self.modulation, x, noise=noise, plan=plan, rows=rows)


@dataclass(frozen=True, eq=False)
class FlowProcess:
    """A rectified flow from the base image with noise to HR; it does not use E."""

    flow: Flow
    rescale: float
    """Of the residual, which is not clipped."""
    sampler: str = SAMPLER
    one_step_time: int = 0

    @property
    def times(self) -> tuple[int, ...]:
        """The time steps to train on, ascending."""
        return tuple(range(self.flow.timesteps))

    def residual(self, image: Tensor, base: Tensor, scale: Tensor | None = None) -> Tensor:
        """r of an image, both [B, 3, H, W] in [-1, 1]; a scale of the noise does not change it."""
        return (image - base) * self.rescale

    def image(self, x: Tensor, base: Tensor, scale: Tensor | None = None) -> Tensor:
        """The image of an r, not clipped; a scale of the noise does not change it."""
        return x / self.rescale + base

    def noise(self, eps: Tensor, scale: Tensor | None = None) -> Tensor:
        """The noise of `q_sample`, `compared` and `start` from standard normal values, times the scale [B, 1, H, W] if there is one."""
        return eps if scale is None else eps * (scale / SIGNAL["flow"])

    def q_sample(self, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """See `Flow.q_sample`."""
        return self.flow.q_sample(residual, t, noise)

    def compared(
        self, x: Tensor, predicted: Tensor, residual: Tensor, e: Tensor | None, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Flow.compared`."""
        return self.flow.compared(x, predicted, residual=residual, t=t, noise=noise)

    def clean(self, x: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """r from the prediction, not clipped."""
        return self.flow.clean(x, predicted, t)

    def plan(self, sampler: str | None = None, steps: int | None = None, *, first: int | None = None) -> SamplingPlan:
        """See `Flow.plan`."""
        return self.flow.plan(sampler, steps, first=first)

    def start(self, noise: Tensor, residual: Tensor, first: int | None) -> Tensor:
        """The initial state: sigma eps."""
        return self.flow.sigma * noise

    def sample_steps(
        self, predict: Predict, x: Tensor, *, noise: Noise, plan: SamplingPlan, rows: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """See `Flow.sample_steps`; draws no noise."""
        return self.flow.sample_steps(predict, x, plan, rows=rows)


Process = DdpmProcess | FlowProcess


def build_process(name: str, modulation: Modulation, rescale: float, *, sigma: float, prediction: str) -> Process:
    """A process by name.

    Args:
        name: one of PROCESSES.
        modulation: of `ddpm`; a flow takes its number of time steps.
        rescale: factor of residuals.
        sigma: for `flow`, see `Flow`.
        prediction: for `flow`, see `Flow`.

    Raises:
        ConfigError: `rescale` is 0, that is, not measured yet.
    """
    if not rescale:
        raise ConfigError("diffusion.residual_scale: not measured yet; a model with base 'rrdb' is saved with its own")
    if name == "flow":
        return FlowProcess(Flow(len(modulation.schedule), sigma, prediction), rescale)
    return DdpmProcess(modulation, rescale)


def measured_rescale(residual: Tensor, process: str) -> float:
    """The factor that scales residuals [N, 3, H, W] to an RMS of `SPREAD[process]`, rounded to two digits; 1 … 64."""
    spread = float(residual.double().square().mean().sqrt())
    return min(64.0, max(1.0, float(f"{SPREAD[process] / max(spread, 1e-6):.2g}")))
