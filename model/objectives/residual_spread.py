"""Measures the scale of residuals to the RRDB's image, once, on training samples before the first step of stage two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...pipeline.scientific.residuals import residual_scale_in
from ...pipeline.scientific.sample_format import RGB8, SampleFormat
from ...pipeline.shards.reader import Store
from ..config import RunConfig
from ..diffusion.process import measured_rescale
from ..diffusion.residual import to_model_range
from ..networks.rrdb import RRDB

SAMPLES, _AT_ONCE = 128, 16


def with_rescale(config: RunConfig, value: float) -> RunConfig:
    """The configuration with `diffusion.residual_scale` set."""
    return replace(config, diffusion=replace(config.diffusion, residual_scale=value))


def with_measured_scale(config: RunConfig, stores: Sequence[Store]) -> RunConfig:
    """The configuration with the factor that `prepare` measured on the first store; unchanged for 8-bit RGB, base rrdb, or a given factor."""
    if stores[0].samples.is_rgb8 or config.diffusion.base != "bicubic" or config.diffusion.residual_scale:
        return config
    return with_rescale(config, residual_scale_in(stores[0].attrs))


def measure_rescale(
    rrdb: RRDB,
    config: RunConfig,
    batch: Callable[[int, int], dict[str, Tensor]],
    count: int,
    device: torch.device,
    samples: SampleFormat = RGB8,
) -> float:
    """`measured_rescale` of the first training samples.

    Args:
        rrdb: trained, on `device`.
        config: of the run.
        batch: (position, size) -> tensors `hr` and `lr`, stored samples [size, h, w, C].
        count: available samples; at most SAMPLES are used.
        device: to compute on.
        samples: of the store.
    """
    residuals = []
    with torch.inference_mode():
        for position in range(0, min(count, SAMPLES), _AT_ONCE):
            pixels = batch(position, min(_AT_ONCE, count - position))
            hr, lr = (to_model_range(pixels[name].to(device), samples) for name in ("hr", "lr"))
            residuals.append((hr - rrdb(lr).clamp_(-1, 1)).cpu())
    return measured_rescale(torch.cat(residuals), config.diffusion.process)
