"""The initial weights of a run: checked for scale, RRDB and the configured networks before anything is written."""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError
from ..config import RunConfig
from ..networks.build import build_rrdb, build_unet
from ..networks.rrdb import RRDB
from .format import Checkpoint, load_checkpoint, load_into
from .plain import brief


def of_scale(path: Path, config: RunConfig, kind: str | None = None) -> Checkpoint:
    """Load a checkpoint. CheckpointError if its scale is not that of the run."""
    checkpoint = load_checkpoint(path, kind)
    if checkpoint.config.get("scale") != config.scale:
        raise CheckpointError(f"{path}: trained for x{brief(checkpoint.config.get('scale'))}, the store is x{config.scale}")
    return checkpoint


def load_rrdb(network: RRDB, path: Path, config: RunConfig) -> RRDB:
    """Load the RRDB of a checkpoint. CheckpointError if it has none, or it does not fit the configuration."""
    weights = of_scale(path, config).part("rrdb")
    if not weights:
        raise CheckpointError(f"{path}: holds no RRDB; give the rrdb.safetensors or model.safetensors of a run")
    load_into(network, weights, str(path))
    return network


def check_given(config: RunConfig, rrdb: Path | None, start: Checkpoint | None) -> None:
    """CheckpointError, before anything is written, if the initial weights do not fit the run."""
    if rrdb is not None:
        load_rrdb(build_rrdb(config), rrdb, config)
    if start is not None:
        where = f"--init-from (a model of preset {start.config.get('preset')!r})"
        if rrdb is None:
            load_into(build_rrdb(config), start.part("rrdb"), where)
        load_into(build_unet(config), start.part("unet"), where)
