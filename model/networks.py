"""The two networks of a configuration, with random weights."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from .checkpoint import Checkpoint, load_checkpoint, load_into
from .config import RunConfig
from .plain import brief
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


def of_scale(path: Path, config: RunConfig, kind: str | None = None) -> Checkpoint:
    """A checkpoint, refused with a CheckpointError if it is of another scale than the run."""
    found = load_checkpoint(path, kind)
    if found.config.get("scale") != config.scale:
        raise CheckpointError(f"{path}: trained for x{brief(found.config.get('scale'))}, the store is x{config.scale}")
    return found


def load_rrdb(network: RRDB, path: Path, config: RunConfig) -> RRDB:
    """The RRDB of any checkpoint of ours; CheckpointError if there is none, or it does not fit the configuration."""
    weights = of_scale(path, config).part("rrdb")
    if not weights:
        raise CheckpointError(f"{path}: holds no RRDB; give the rrdb.safetensors or model.safetensors of a run")
    load_into(network, weights, str(path))
    return network


def check_given(config: RunConfig, rrdb: Path | None, start: Checkpoint | None) -> None:
    """CheckpointError now, before anything is written, if the weights that a run begins from do not fit it."""
    if rrdb is not None:
        load_rrdb(build_rrdb(config), rrdb, config)
    if start is not None:
        where = f"--start (a model of preset {start.config.get('preset')!r})"
        if rrdb is None:
            load_into(build_rrdb(config), start.part("rrdb"), where)
        load_into(build_unet(config), start.part("unet"), where)
