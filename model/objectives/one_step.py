"""The second phase of stage two: a perceptual loss and L1 on the image predicted in one step, in addition to the main loss."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import LossConfig
from ..losses import load_perceptual

Distance = Callable[[Tensor, Tensor], Tensor]
"""(a, b), both [B, 3, H, W] in [-1, 1] -> [B], differentiable."""


def chosen(count: int, share: float) -> list[int]:
    """Indices of the samples that get the additional losses: evenly spread over `count`, starting with the first (none for a share of 0). Pure.

    The parts of an accumulated batch choose the same samples as the whole batch if `share` of each part is an integer.
    """
    part = Fraction(share).limit_denominator(1000)
    return [index for index in range(count) if ceil((index + 1) * part) > ceil(index * part)]


def in_second_phase(position: int, batch: int, steps: int, loss: LossConfig) -> bool:
    """Whether the sample at a global position belongs to the second phase. Pure.

    Args:
        position: of the sample, counted from the beginning of the stage.
        batch: samples per step, over all processes.
        steps: of the whole stage.
        loss: `begin` is the fraction of the steps before it.
    """
    return loss.perceptual != "none" and position // batch >= loss.begin * steps


def one_step_loss(image: Tensor, hr: Tensor, distance: Distance, loss: LossConfig) -> Tensor:
    """weight x mean distance + pixel_weight x mean |image - HR|; images [B, 3, H, W] in [-1, 1], the first not clipped."""
    return loss.weight * distance(image, hr).mean() + loss.pixel_weight * F.l1_loss(image, hr)


def checkerboard(added: Tensor, period: int) -> Tensor:
    """Mean energy of the periodic pattern in `added`, float [B, 3, H, W] in model units (2 for 255 levels), in squared levels: a scalar. Pure.

    Pixels are grouped by (row mod period, column mod period). The energy is the variance of the groups' means, per image and channel.
    Transposed convolutions make such patterns (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016), and a perceptual loss
    does not remove them: it prefers any texture to a smooth area. In a photograph the expected energy is near 0. H and W: multiples of
    `period`, as training crops are.
    """
    batch, channels, height, width = added.shape
    cells = added.reshape(batch, channels, height // period, period, width // period, period)
    means = cells.mean(dim=(2, 4))
    return 127.5**2 * means.var(dim=(2, 3), correction=0).mean()


def load_distance(kind: str, device: torch.device) -> Distance:
    """A perceptual distance by name (see `LossConfig.perceptual`), with frozen weights, which are downloaded if the cache lacks them.

    Raises:
        WeightsError: the weights are missing and cannot be downloaded; the message says how to get them.
    """
    return load_perceptual(kind, device)
