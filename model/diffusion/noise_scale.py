"""A local scale of the noise: S, the RMS of the residual over each region. Pure.

With x_0 the residual of `process.residual`, d = SIGNAL and S^ the estimate of S:

    ddpm    y_0 = clip(d x_0 / S^, -1, 1) is diffused in place of x_0, with the ordinary process       x_0 = y_0 S^ / d
    flow    the noise at the start is (S^ / d) sigma eps in place of sigma eps

S^ is a function of LR alone (a head of the U-Net on the RRDB's features), the same in training and in sampling. So sampling needs no masks
and stays exact for any S^. S is only what the head learns, as L1 on log S. S^ = d everywhere is the process without a scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ConfigError
from .regions import region_means

SIGNAL = {"ddpm": 0.125, "flow": 0.5}
"""d, by process: the standard deviation of the residual in units of the noise, about that without a scale. ddpm clips y_0 at eight of them."""
FLOOR_LEVELS = 1.0
"""Smallest S, in grey levels (1/255) of the image: below it lies the rounding of HR to whole levels."""


def bounds(rescale: float) -> tuple[float, float]:
    """The smallest and the largest S for residuals with this factor: `FLOOR_LEVELS`, and the full range of an image."""
    return rescale * FLOOR_LEVELS * 2 / 255, rescale * 2


def scale_of(log_scale: Tensor, rescale: float) -> Tensor:
    """S^ from the head's output log S^, within `bounds`; without a gradient."""
    low, high = bounds(rescale)
    return log_scale.detach().float().clamp(math.log(low), math.log(high)).exp()


def true_scale(residual: Tensor, labels: Tensor, *, source: str, count: int, sigma: float, rescale: float) -> Tensor:
    """S, float32 [B, 1, H, W], within `bounds`.

    Args:
        residual: x_0 [B, 3, H, W].
        labels: integers [B, H, W] from 0 to count - 1; used for `masks` and `oracle` only.
        source: `masks` or `oracle`: RMS over each region; `blur`: S^2 is x_0^2 after a Gaussian blur; `crop`: RMS over the whole map.
        count: number of labels that may occur.
        sigma: for `blur`: standard deviation of the Gaussian in pixels.
        rescale: factor of residuals.
    """
    energy = residual.float().square().mean(dim=1)
    if source in ("masks", "oracle"):
        energy = region_means(energy, labels, count)
    elif source == "blur":
        energy = _blur(energy, sigma)
    elif source == "crop":
        energy = energy.mean(dim=(1, 2), keepdim=True).expand_as(energy)
    else:
        raise ConfigError(f"scale_from: expected masks, blur, crop or oracle, got {source!r}")
    low, high = bounds(rescale)
    return energy.sqrt().clamp(low, high)[:, None]


def check_scale(source: str, given: bool, name: str) -> None:
    """ConfigError if sampling needs an S that is not given, or has no use for a given one.

    Args:
        source: `diffusion.scale_from` of the model.
        given: whether the caller gives S.
        name: of the model, for the message.
    """
    if source == "oracle" and not given:
        raise ConfigError(
            f"{name}: trained with diffusion.scale_from 'oracle', a control for studies that needs HR and its masks at sampling: "
            "only upscale(…, noise_scale=…) in Python has them (model/evaluation/oracle.py); use another model"
        )
    if source == "none" and given:
        raise ConfigError(f"noise_scale: {name} was trained without diffusion.scale_from; leave it out")


def given_scale(scale: np.ndarray, size: Sequence[int], *, padded: Sequence[int], rescale: float) -> Tensor:
    """S that a caller gives, checked: float32 [1, 1, *padded], with the last row and column repeated, within `bounds`.

    Args:
        scale: float [H, W].
        size: the expected H and W.
        padded: the result's height and width.
        rescale: factor of residuals.

    Raises:
        ConfigError: another shape, or values that are not finite and positive.
    """
    values = np.asarray(scale, np.float32)
    if values.shape != tuple(size) or not np.isfinite(values).all() or values.min() <= 0:
        raise ConfigError(
            f"noise_scale: expected finite positive numbers of shape {list(size)}, got shape {list(values.shape)}"
        )
    pad = [(0, whole - own) for whole, own in zip(padded, size, strict=True)]
    low, high = bounds(rescale)
    return torch.from_numpy(np.pad(values, pad, mode="edge")).clamp_(low, high)[None, None]


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [B, H, W], truncated at 3 sigma. Near the edges, the weights inside the image are divided by their sum."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)

    def weighted(values: Tensor) -> Tensor:
        rows = F.conv2d(values[:, None], kernel.view(1, 1, -1, 1), padding=(reach, 0))
        return F.conv2d(rows, kernel.view(1, 1, 1, -1), padding=(0, reach))[:, 0]

    return weighted(image) / weighted(torch.ones_like(image[:1]))
