"""The networks of a configuration, with random weights."""

from __future__ import annotations

import torch

from ..config import RunConfig
from ..diffusion.noise_scale import SIGNAL
from .rrdb import RRDB, condition_channels
from .student import Student
from .unet import UNet


def build_rrdb(config: RunConfig) -> RRDB:
    """The RRDB of a configuration."""
    m = config.model
    sizes = {"blocks": m.rrdb_blocks, "features": m.rrdb_features, "growth": m.rrdb_growth}
    return RRDB(**sizes, scale=config.scale, bands=config.bands, skip=m.rrdb_skip == "bicubic")


def build_student(config: RunConfig) -> Student:
    """The student of a configuration; its output is the bicubic upsampling."""
    return Student(config.student.width, config.student.layers, config.scale)


def build_unet(config: RunConfig) -> UNet:
    """The U-Net of a configuration; for a flow its output layer is zero, so that training starts from the RRDB's image."""
    m = config.model
    channels = condition_channels(m.rrdb_blocks, m.rrdb_features)
    d = config.diffusion
    unet = UNet(
        m.width,
        m.multipliers,
        channels,
        scale=config.scale,
        out_channels=d.build().outputs_of(config.bands),
        in_channels=config.bands,
        first_scale=SIGNAL[d.process] if d.estimates_scale else None,
    )
    if config.diffusion.process == "flow":
        zero_output(unet)
    return unet


def zero_output(unet: UNet) -> None:
    """Set the weights of the last layer to zero."""
    torch.nn.init.zeros_(unet.out.weight)
    assert unet.out.bias is not None
    torch.nn.init.zeros_(unet.out.bias)
