"""The two networks of a configuration, with random weights."""

from __future__ import annotations

from ..config import RunConfig
from .rrdb import RRDB, condition_channels
from .unet import UNet


def build_rrdb(config: RunConfig) -> RRDB:
    """The RRDB of a configuration."""
    m = config.model
    return RRDB(m.rrdb_blocks, m.rrdb_features, m.rrdb_growth, config.scale)


def build_unet(config: RunConfig) -> UNet:
    """The U-Net of a configuration."""
    m = config.model
    channels = condition_channels(m.rrdb_blocks, m.rrdb_features)
    return UNet(m.width, m.multipliers, channels, config.scale, config.diffusion.build().outputs)
