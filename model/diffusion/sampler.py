"""Sampling from noise to x_0, given a prediction function. Pure; needs neither E nor SAM.

    predict(x_t, t) -> c          x_t [B, 3, H, W], t int64 [B], c [B, 3 or 4, H, W]
    noise(i, top, bottom) -> eps  standard normal like rows top … bottom of x, for step i = 1, 2, …; called once per step and row

The step t -> s < t of `ddpm` samples the posterior q(x_s | x_t, x_0); with all T steps it is the sampler of Ho et al. `joint` makes the
same step on y_t = x_t - phi_t E^, and adds phi_s E^ again. `dpm2m` is DPM-Solver++(2M).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ConfigError
from ..names import SAMPLERS as SAMPLERS
from .modulation import Modulation, posterior_coefs, time_grid

Predict = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int, int, int], Tensor]

RANDOM = ("ddpm", "paper", "paper-clipped")
"""Samplers that draw noise at each step."""

_NO_X0 = (
    "the x_0 that this sampler derives from a `paper` prediction has an error that is a multiple of E (2.4 E at t = 50), "
    "so samples drift; use 'paper' (all of its steps), or 'paper-clipped', which is biased"
)
_NO_MEAN = "it is defined for modulation 'paper' only; use 'ddpm' or 'ddim'"
_NO_HISTORY = (
    "a second-order step uses the x_0 of the previous step, from which another E^ was subtracted; use 'ddpm' or 'ddim'"
)

INCOMPATIBLE = {
    ("paper", "ddpm"): _NO_X0,
    ("paper", "ddim"): _NO_X0,
    ("paper", "dpm2m"): _NO_X0,
    ("joint", "dpm2m"): _NO_HISTORY,
    **{(name, sampler): _NO_MEAN for name in ("none", "official", "joint") for sampler in ("paper", "paper-clipped")},
}
"""(modulation, sampler) -> why they are incompatible."""

DEFAULT = {"none": "ddpm", "official": "ddpm", "paper": "paper", "joint": "ddpm"}
"""modulation -> its default sampler."""


@dataclass(frozen=True)
class SamplingPlan:
    """How samples are drawn: checked against the model once, and passed on."""

    sampler: str
    times: tuple[int, ...]
    """Time step of each network call, in order."""
    first: int | None = None
    """Time step that the RRDB's image is noised to, where sampling starts; None: it starts from noise."""


def plan_sampling(
    modulation: Modulation, sampler: str | None = None, steps: int | None = None, *, first: int | None = None
) -> SamplingPlan:
    """The sampler and its time steps.

    Args:
        modulation: how the model was trained.
        sampler: one of SAMPLERS; None: the default of the modulation.
        steps: number of time steps; None: all.
        first: the time step to start from; None: T - 1 with all steps, the schedule's `t_start` with fewer (except for `paper-clipped`,
            whose states contain E at all time steps).

    Raises:
        ConfigError: an unknown sampler, an incompatible modulation, or an unsupported number of steps or start.
    """
    sampler = sampler or DEFAULT[modulation.name]
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if (modulation.name, sampler) in INCOMPATIBLE:
        raise ConfigError(f"sampler {sampler!r} with modulation {modulation.name!r}: {INCOMPATIBLE[modulation.name, sampler]}")
    total = len(modulation.schedule)
    if first is not None and modulation.name in ("paper", "joint"):
        raise ConfigError(
            f"start: an image cannot be noised to time step {first} of modulation {modulation.name!r}, whose state contains phi_t E, "
            "and E is unknown; start from noise"
        )
    if first is not None and not 0 <= first < total:
        raise ConfigError(f"start: expected a time step of 0 to {total - 1}, got {first}")
    if sampler == "paper" and steps not in (None, len(modulation.grid)):
        raise ConfigError(
            f"sampler 'paper': the model was trained for {len(modulation.grid)} steps, got {steps}; another number needs training "
            "with the coefficients of its time steps"
        )
    if sampler == "paper":
        return SamplingPlan(sampler, modulation.grid)
    few = first is None and sampler != "paper-clipped" and 0 < (steps or 0) <= modulation.schedule.t_start
    start = modulation.schedule.t_start if few else first
    length = total if start is None else start + 1
    return SamplingPlan(sampler, time_grid(length, length if steps is None else steps), first)


def sample(
    predict: Predict, modulation: Modulation, x: Tensor, noise: Noise, sampler: str | None = None, steps: int | None = None
) -> Tensor:
    """The last state of `sample_steps`: x_0 [B, 3, H, W]. See `plan_sampling` for sampler and steps."""
    plan = plan_sampling(modulation, sampler, steps)
    return deque(sample_steps(predict, modulation, x, noise=noise, plan=plan), maxlen=1)[0][1]


def sample_steps(
    predict: Predict,
    modulation: Modulation,
    x: Tensor,
    *,
    noise: Noise,
    plan: SamplingPlan,
    rows: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """(time, state) from the start to the end: (T-1, x_{T-1}), …, (-1, x_0). The state is `x` itself, changed in place.

    Args:
        predict: the model, called with x_t and t [B].
        modulation: how the model was trained.
        x: standard normal [B, 3, H, W], or the state at time step `plan.first`.
        noise: standard normal by step and rows; a fixed stream repeats a sample.
        plan: of `plan_sampling`; one network call per time step (`joint` makes one more, for its start).
        rows: rows that are updated at once, which bounds the memory; None: all.
    """
    sampler, grid = plan.sampler, plan.times
    if modulation.name == "joint":
        # The state is noise with mean phi_t E: E^ is predicted from noise and LR at the last time step, then added.
        x += modulation.schedule.phi_at(grid[0]) * predict(x, _times(x, len(modulation.schedule) - 1))[:, x.shape[1] :]
    yield grid[0], x
    history = torch.empty_like(x) if sampler == "dpm2m" else None  # x_0 of the previous step
    before = None
    for number, (t, s) in enumerate(zip(grid, (*grid[1:], -1), strict=True), start=1):
        predicted = predict(x, _times(x, t))
        for top in range(0, x.shape[2], rows or x.shape[2]):
            bottom = min(top + (rows or x.shape[2]), x.shape[2])
            part, c = x[:, :, top:bottom], predicted[:, :, top:bottom]
            if sampler in RANDOM:
                step = _paper_step if sampler == "paper" else _ddpm_step
                part.copy_(step(modulation, part, predicted=c, t=t, s=s, eps=noise(number, top, bottom)))
            elif history is None:
                part.copy_(_ddim_step(modulation, part, predicted=c, t=t, s=s))
            else:
                x_0 = modulation.x_0(part, c, _times(part, t)).clamp_(-1, 1)
                part.copy_(
                    _dpm2m_step(modulation, part, x_0=x_0, x_0_before=history[:, :, top:bottom], before=before, t=t, s=s)
                )
                history[:, :, top:bottom] = x_0
        before = t
        yield s, x


def _times(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


def _split(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int) -> tuple[Tensor, Tensor, Tensor | float]:
    """x_0 clipped to [-1, 1], y_t = x_t - phi_t E^, and phi_s E^, which is added to the state at s (0 except for `joint`)."""
    x_0 = modulation.x_0(x, predicted, _times(x, t)).clamp(-1, 1)
    if modulation.name != "joint":
        return x_0, x, 0.0
    schedule, e = modulation.schedule, predicted[:, x.shape[1] :]
    return x_0, x - schedule.phi_at(t) * e, schedule.phi_at(s) * e


def _ddpm_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int, eps: Tensor) -> Tensor:
    schedule = modulation.schedule
    x_0, y, back = _split(modulation, x, predicted, t=t, s=s)
    abar_t, abar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
    a, _, variance = posterior_coefs(schedule, t, s)
    mean = abar_s**0.5 * (1 - a * a) / (1 - abar_t) * x_0 + a * (1 - abar_s) / (1 - abar_t) * y  # Ho et al. 2020, eq. 7
    return mean + back + variance**0.5 * eps


def _ddim_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int) -> Tensor:
    x_0, y, back = _split(modulation, x, predicted, t=t, s=s)
    abar_t, abar_s = modulation.schedule.alpha_bar(t), modulation.schedule.alpha_bar(s)
    eps = (y - abar_t**0.5 * x_0) / (1 - abar_t) ** 0.5  # from the clipped x_0, so that the state stays consistent
    return abar_s**0.5 * x_0 + (1 - abar_s) ** 0.5 * eps + back  # Song et al. 2021, eq. 12, eta = 0


def _paper_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int, eps: Tensor) -> Tensor:
    """SAM-DiffSR's posterior mean, with c = eps + k_t E instead of eps; without x_0 and without clipping."""
    a, _, variance = posterior_coefs(modulation.schedule, t, s)
    abar_t = modulation.schedule.alpha_bar(t)
    return (x - (1 - a * a) / (1 - abar_t) ** 0.5 * predicted) / a + variance**0.5 * eps


def _dpm2m_step(
    modulation: Modulation, x: Tensor, x_0: Tensor, x_0_before: Tensor, before: int | None, t: int, s: int
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: x_0 is extrapolated linearly in lambda = log(alpha / sigma) from this and the previous time step."""
    abar_s = modulation.schedule.alpha_bar(s)
    if s < 0:
        return x_0  # lambda is infinite for the clean image: a first-order step, which returns x_0
    lambda_t, lambda_s = _log_snr(modulation, t), _log_snr(modulation, s)
    if before is not None:
        slope = (lambda_s - lambda_t) / (2 * (lambda_t - _log_snr(modulation, before)))
        x_0 = x_0 + slope * (x_0 - x_0_before)
    ratio = ((1 - abar_s) / (1 - modulation.schedule.alpha_bar(t))) ** 0.5
    return ratio * x - abar_s**0.5 * math.expm1(lambda_t - lambda_s) * x_0


def _log_snr(modulation: Modulation, t: int) -> float:
    abar = modulation.schedule.alpha_bar(t)
    return 0.5 * math.log(abar / (1 - abar))
