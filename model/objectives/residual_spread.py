"""How large residuals to the RRDB's image are: measured once, before stage two's first step, on training samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..config import RunConfig
from ..diffusion.process import measured_rescale
from ..diffusion.residual import to_picture_range
from ..networks.rrdb import RRDB

SAMPLES, _AT_ONCE = 128, 16


def with_rescale(config: RunConfig, value: float) -> RunConfig:
    """The configuration with its residual's scale decided."""
    return replace(config, diffusion=replace(config.diffusion, residual_scale=value))


def measure_rescale(
    rrdb: RRDB, config: RunConfig, batch: Callable[[int, int], dict[str, Tensor]], count: int, device: torch.device
) -> float:
    """`measured_rescale` of the first training samples.

    Args:
        rrdb: trained, on `device`.
        config: of the run.
        batch: (position, size) -> tensors `hr` and `lr`, uint8 [size, h, w, 3].
        count: samples that there are; at most SAMPLES are taken.
        device: to compute on.
    """
    found = []
    with torch.inference_mode():
        for position in range(0, min(count, SAMPLES), _AT_ONCE):
            pixels = batch(position, min(_AT_ONCE, count - position))
            hr, lr = (to_picture_range(pixels[name].to(device)) for name in ("hr", "lr"))
            found.append((hr - rrdb(lr).clamp_(-1, 1)).cpu())
    return measured_rescale(torch.cat(found), config.diffusion.process)
