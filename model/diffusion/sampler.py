"""Sampling: from noise to x_0, given a model that predicts. Pure; neither E nor SAM is needed.

    predict(x_t, t) -> c          x_t [B, 3, H, W], t int64 [B], c [B, 3 or 4, H, W]
    noise(i, top, bottom) -> eps  standard normal like rows top … bottom of x, for step i = 1, 2, …; asked for once per step and row

The jump t -> s < t of `ddpm` is the posterior q(x_s | x_t, x_0) of the process between the two times; with all T steps it is Ho et
al.'s sampler. `joint` runs the same jump on y_t = x_t - phi_t E^, and puts phi_s E^ back. `dpm2m` is DPM-Solver++(2M).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

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
    "the x_0 that this sampler takes from a `paper` prediction is off by a multiple of E (2.4 E at t = 50), "
    "and a sample without E drifts; sample with 'paper' (its one-step mean, all steps), or 'paper-clipped' knowing that it is biased"
)
_NO_MEAN = "its one-step mean holds for the `paper` process only; sample with 'ddpm' or 'ddim'"
_NO_HISTORY = (
    "a second-order step continues the x_0 of the step before, and there another E^ was taken out; sample with 'ddpm' or 'ddim'"
)

INCOMPATIBLE = {
    ("paper", "ddpm"): _NO_X0,
    ("paper", "ddim"): _NO_X0,
    ("paper", "dpm2m"): _NO_X0,
    ("joint", "dpm2m"): _NO_HISTORY,
    **{(name, sampler): _NO_MEAN for name in ("none", "official", "joint") for sampler in ("paper", "paper-clipped")},
}
"""(modulation, sampler) -> why the pair is wrong."""

DEFAULT = {"none": "ddpm", "official": "ddpm", "paper": "paper", "joint": "ddpm"}
"""modulation -> the sampler that fits it."""


def check_pair(modulation: Modulation, sampler: str, steps: int | None, first: int | None = None) -> tuple[int, ...]:
    """The times that a sampler will use.

    Args:
        modulation: how the model was trained.
        sampler: one of SAMPLERS.
        steps: how many times; None: all.
        first: the time to start from; None: T - 1 with all steps, and the schedule's `t_start` with fewer (`paper-clipped`, whose
            states at all times hold much of E, is left as it is).

    Raises:
        ConfigError: an unknown sampler, a pair of modulation and sampler that is wrong, or a number of steps or a start that it does
            not allow.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if (modulation.name, sampler) in INCOMPATIBLE:
        raise ConfigError(f"sampler {sampler!r} with modulation {modulation.name!r}: {INCOMPATIBLE[modulation.name, sampler]}")
    total = len(modulation.schedule)
    if first is not None and modulation.name in ("paper", "joint"):
        raise ConfigError(
            f"start: a picture cannot be brought to time {first} of the {modulation.name!r} process, whose state there holds phi_t E "
            "and no E is known; start from noise"
        )
    if first is not None and not 0 <= first < total:
        raise ConfigError(f"start: expected a time of 0 to {total - 1}, got {first}")
    if sampler == "paper" and steps not in (None, len(modulation.grid)):
        raise ConfigError(
            f"sampler 'paper': the model was trained for {len(modulation.grid)} steps, got {steps}; other numbers need training "
            "with the coefficient of their grid"
        )
    if sampler == "paper":
        return modulation.grid
    if first is None and sampler != "paper-clipped" and 0 < (steps or 0) <= modulation.schedule.t_start:
        first = modulation.schedule.t_start
    length = total if first is None else first + 1
    return time_grid(length, length if steps is None else steps)


def sample(
    predict: Predict, modulation: Modulation, x: Tensor, noise: Noise, sampler: str | None = None, steps: int | None = None
) -> Tensor:
    """The last state of `sample_steps`: x_0 [B, 3, H, W]."""
    last = deque(sample_steps(predict, modulation, x, noise, sampler, steps), maxlen=1)
    return last[0][1]


def sample_steps(
    predict: Predict,
    modulation: Modulation,
    x: Tensor,
    noise: Noise,
    sampler: str | None = None,
    steps: int | None = None,
    *,
    first: int | None = None,
    rows: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """(time, state) from the start to the end: (T-1, x_{T-1}), …, (-1, x_0). The state is `x` itself, changed in place.

    Args:
        predict: the model; sees x_t and t [B].
        modulation: how the model was trained.
        x: standard normal [B, 3, H, W], or the state at time `first`.
        noise: standard normal by step and rows; inject a fixed stream to repeat a sample.
        sampler: one of SAMPLERS; None takes the one that fits the modulation.
        steps: number of network calls (`joint` makes one more, to find its start); None: all T.
        first: the time of x; None: as of `check_pair`.
        rows: of the picture per piece of arithmetic, which bounds the memory beside x and the prediction; None: all.

    Raises:
        ConfigError: see `check_pair`.
    """
    sampler = sampler or DEFAULT[modulation.name]
    grid = check_pair(modulation, sampler, steps, first)
    if modulation.name == "joint":
        # The state is noise about phi_t E: E^ is read from noise and LR at the process's end, then put in.
        x += modulation.schedule.phi_at(grid[0]) * predict(x, _times(x, len(modulation.schedule) - 1))[:, 3:]
    yield grid[0], x
    history = torch.empty_like(x) if sampler == "dpm2m" else None  # x_0 of the step before
    before = None
    for number, (t, s) in enumerate(zip(grid, (*grid[1:], -1), strict=True), start=1):
        predicted = predict(x, _times(x, t))
        for top in range(0, x.shape[2], rows or x.shape[2]):
            bottom = min(top + (rows or x.shape[2]), x.shape[2])
            part, c = x[:, :, top:bottom], predicted[:, :, top:bottom]
            if sampler in RANDOM:
                step = _paper_step if sampler == "paper" else _ddpm_step
                part.copy_(step(modulation, part, c, t, s, noise(number, top, bottom)))
            elif history is None:
                part.copy_(_ddim_step(modulation, part, c, t, s))
            else:
                x_0 = modulation.x_0(part, c, _times(part, t)).clamp_(-1, 1)
                part.copy_(_dpm2m_step(modulation, part, x_0, history[:, :, top:bottom], before, t, s))
                history[:, :, top:bottom] = x_0
        before = t
        yield s, x


def _times(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


def _split(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int) -> tuple[Tensor, Tensor, Tensor | float]:
    """x_0 clipped to its range, y_t = x_t - phi_t E^, and what the state at s gets back: phi_s E^ (0 but for `joint`)."""
    x_0 = modulation.x_0(x, predicted, _times(x, t)).clamp(-1, 1)
    if modulation.name != "joint":
        return x_0, x, 0.0
    schedule, e = modulation.schedule, predicted[:, 3:]
    return x_0, x - schedule.phi_at(t) * e, schedule.phi_at(s) * e


def _ddpm_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int, eps: Tensor) -> Tensor:
    schedule = modulation.schedule
    x_0, y, back = _split(modulation, x, predicted, t, s)
    abar_t, abar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
    a, _, variance = posterior_coefs(schedule, t, s)
    mean = abar_s**0.5 * (1 - a * a) / (1 - abar_t) * x_0 + a * (1 - abar_s) / (1 - abar_t) * y  # Ho et al. 2020, eq. 7
    return mean + back + variance**0.5 * eps


def _ddim_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int) -> Tensor:
    x_0, y, back = _split(modulation, x, predicted, t, s)
    abar_t, abar_s = modulation.schedule.alpha_bar(t), modulation.schedule.alpha_bar(s)
    eps = (y - abar_t**0.5 * x_0) / (1 - abar_t) ** 0.5  # of the clipped x_0, so that the state stays consistent
    return abar_s**0.5 * x_0 + (1 - abar_s) ** 0.5 * eps + back  # Song et al. 2021, eq. 12, eta = 0


def _paper_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int, eps: Tensor) -> Tensor:
    """SAM-DiffSR's posterior mean, with its c = eps + k_t E in place of eps; x_0 is never formed and nothing is clipped."""
    a, _, variance = posterior_coefs(modulation.schedule, t, s)
    abar_t = modulation.schedule.alpha_bar(t)
    return (x - (1 - a * a) / (1 - abar_t) ** 0.5 * predicted) / a + variance**0.5 * eps


def _dpm2m_step(
    modulation: Modulation, x: Tensor, x_0: Tensor, x_0_before: Tensor, before: int | None, t: int, s: int
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: x_0 is taken as linear in lambda = log(alpha / sigma) through this and the last time."""
    abar_s = modulation.schedule.alpha_bar(s)
    if s < 0:
        return x_0  # lambda is infinite at the clean picture: the step is of first order, and ends in x_0
    lambda_t, lambda_s = _log_snr(modulation, t), _log_snr(modulation, s)
    if before is not None:
        slope = (lambda_s - lambda_t) / (2 * (lambda_t - _log_snr(modulation, before)))
        x_0 = x_0 + slope * (x_0 - x_0_before)
    ratio = ((1 - abar_s) / (1 - modulation.schedule.alpha_bar(t))) ** 0.5
    return ratio * x - abar_s**0.5 * math.expm1(lambda_t - lambda_s) * x_0


def _log_snr(modulation: Modulation, t: int) -> float:
    abar = modulation.schedule.alpha_bar(t)
    return 0.5 * math.log(abar / (1 - abar))
