"""Sampling: from noise to x_0, given a model that predicts. Pure; neither E nor SAM is needed.

    predict(x_t, t) -> c      x_t [B, 3, H, W], t int64 [B], c [B, 3 or 4, H, W]
    noise(i) -> eps           standard normal like x; i = 0 gives the start, i = 1 … the noise of each step

The jump t -> s < t of `ddpm` is the posterior q(x_s | x_t, x_0) of the process between the two times; with all T steps it is Ho et
al.'s sampler. `joint` runs the same jump on y_t = x_t - phi_t E^, and puts phi_s E^ back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import ConfigError
from .modulation import Modulation, jump, time_grid

Predict = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]

SAMPLERS = ("ddpm", "ddim", "paper", "paper-clipped")

_NO_X0 = (
    "the x_0 that this sampler takes from a `paper` prediction is off by a multiple of E (2.4 E at t = 50), "
    "and a sample without E drifts; sample with 'paper' (its one-step mean, all steps), or 'paper-clipped' knowing that it is biased"
)
_NO_MEAN = "its one-step mean holds for the `paper` process only; sample with 'ddpm' or 'ddim'"

REFUSED = {
    ("paper", "ddpm"): _NO_X0,
    ("paper", "ddim"): _NO_X0,
    **{(name, sampler): _NO_MEAN for name in ("none", "official", "joint") for sampler in ("paper", "paper-clipped")},
}
"""(modulation, sampler) -> why the pair is wrong."""

DEFAULT = {"none": "ddpm", "official": "ddpm", "paper": "paper", "joint": "ddpm"}
"""modulation -> the sampler that fits it."""


def check_pair(modulation: Modulation, sampler: str, steps: int | None) -> tuple[int, ...]:
    """The times that a sampler will use.

    Raises:
        ConfigError: an unknown sampler, a pair of modulation and sampler that is wrong, or a number of steps that it does not allow.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if (modulation.name, sampler) in REFUSED:
        raise ConfigError(f"sampler {sampler!r} with modulation {modulation.name!r}: {REFUSED[modulation.name, sampler]}")
    if sampler == "paper" and steps not in (None, len(modulation.grid)):
        raise ConfigError(
            f"sampler 'paper': the model was trained for {len(modulation.grid)} steps, got {steps}; other numbers need training "
            "with the coefficient of their grid"
        )
    return (
        modulation.grid
        if sampler == "paper"
        else time_grid(len(modulation.schedule), len(modulation.schedule) if steps is None else steps)
    )


def sample(
    predict: Predict, modulation: Modulation, noise: Noise, sampler: str | None = None, steps: int | None = None
) -> Tensor:
    """The last state of `sample_steps`: x_0 [B, 3, H, W]."""
    last = deque(sample_steps(predict, modulation, noise, sampler, steps), maxlen=1)
    return last[0][1]


def sample_steps(
    predict: Predict, modulation: Modulation, noise: Noise, sampler: str | None = None, steps: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """(time, state) from the start to the end: (T-1, x_{T-1}), …, (-1, x_0).

    Args:
        predict: the model; sees x_t and t [B].
        modulation: how the model was trained.
        noise: standard normal by number; inject a fixed stream to repeat a sample.
        sampler: `ddpm`, `ddim`, `paper` or `paper-clipped`; None takes the one that fits the modulation.
        steps: number of network calls (`joint` makes one more, to find its start); None: all T.

    Raises:
        ConfigError: see `check_pair`.
    """
    sampler = sampler or DEFAULT[modulation.name]
    grid = check_pair(modulation, sampler, steps)
    x = noise(0)
    if modulation.name == "joint":  # the process ends at phi_T E + N(0, I): E^ is read from noise and LR, then put in
        x = x + modulation.schedule.phi_at(grid[0]) * predict(x, _times(x, grid[0]))[:, 3:]
    yield grid[0], x
    for number, (t, s) in enumerate(zip(grid, (*grid[1:], -1), strict=True), start=1):
        predicted = predict(x, _times(x, t))
        if sampler == "paper":
            x = _paper_step(modulation, x, predicted, t, s, noise(number))
        elif sampler == "ddim":
            x = _ddim_step(modulation, x, predicted, t, s)
        else:
            x = _ddpm_step(modulation, x, predicted, t, s, noise(number))
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
    a, _, variance = jump(schedule, t, s)
    mean = abar_s**0.5 * (1 - a * a) / (1 - abar_t) * x_0 + a * (1 - abar_s) / (1 - abar_t) * y  # Ho et al. 2020, eq. 7
    return mean + back + variance**0.5 * eps


def _ddim_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int) -> Tensor:
    x_0, y, back = _split(modulation, x, predicted, t, s)
    abar_t, abar_s = modulation.schedule.alpha_bar(t), modulation.schedule.alpha_bar(s)
    eps = (y - abar_t**0.5 * x_0) / (1 - abar_t) ** 0.5  # of the clipped x_0, so that the state stays consistent
    return abar_s**0.5 * x_0 + (1 - abar_s) ** 0.5 * eps + back  # Song et al. 2021, eq. 12, eta = 0


def _paper_step(modulation: Modulation, x: Tensor, predicted: Tensor, t: int, s: int, eps: Tensor) -> Tensor:
    """SAM-DiffSR's posterior mean, with its c = eps + k_t E in place of eps; x_0 is never formed and nothing is clipped."""
    a, _, variance = jump(modulation.schedule, t, s)
    abar_t = modulation.schedule.alpha_bar(t)
    return (x - (1 - a * a) / (1 - abar_t) ** 0.5 * predicted) / a + variance**0.5 * eps
