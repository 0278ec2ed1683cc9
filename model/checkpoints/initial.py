"""The checkpoints that a run starts and resumes from: their fit is checked before anything is written; facts about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import CheckpointError, printable
from ..config import RunConfig
from ..networks.build import build_rrdb, build_unet
from ..networks.rrdb import RRDB
from .format import Checkpoint, load_checkpoint, load_into, remedy, save_checkpoint
from .plain import brief, whole_number


def of_scale(path: Path, config: RunConfig, kind: str | None = None) -> Checkpoint:
    """Load a checkpoint. CheckpointError if its scale is not that of the run."""
    checkpoint = load_checkpoint(path, kind)
    if checkpoint.config.get("scale") != config.scale:
        raise CheckpointError(f"{path}: trained for x{brief(checkpoint.config.get('scale'))}, the store is x{config.scale}")
    if checkpoint.config.get("bands", 3) != config.bands:
        raise CheckpointError(
            f"{path}: trained on images of {brief(checkpoint.config.get('bands', 3))} bands, the store's have {config.bands}; "
            "start from a model of the same bands, or from none"
        )
    own = checkpoint.config.get("model")
    skip = own.get("rrdb_skip", "none") if isinstance(own, Mapping) else "none"
    if skip != config.model.rrdb_skip:
        raise CheckpointError(
            f"{path}: its RRDB was trained with model.rrdb_skip={brief(skip)}, this run has {config.model.rrdb_skip}; add --set model.rrdb_skip={printable(skip)[:20]}"
        )
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


def restore_rrdb(file: Path, model: Path, *, config: dict[str, object], facts: dict[str, object]) -> list[str]:
    """Restore a missing RRDB file of stage one from the model of stage two. Returns the lines to report.

    Raises:
        CheckpointError: both files are missing.
    """
    if file.exists():
        return []
    if not model.exists():
        raise CheckpointError(
            f"{file}: missing, and stage two has begun on its features; restore it, or start again with another --out"
        )
    tensors = {f"rrdb.{name}": value for name, value in load_checkpoint(model, "diffusion").part("rrdb").items()}
    save_checkpoint(file, Checkpoint("rrdb", tensors, config, facts=facts))
    return [f"{file}: was missing, restored from {model.name}"]


def steps_of(file: Path) -> int:
    """Number of training steps of a checkpoint. CheckpointError if it does not state it."""
    step = load_checkpoint(file).facts.get("step")
    if step is None:
        raise CheckpointError(f"{file}: does not state the number of its training steps; {remedy(file)}")
    return int(step)


def validation_in(file: Path, step: int) -> dict[str, object]:
    """The validation metrics in an earlier checkpoint of this run; empty if there is none, or it is from after `step`."""
    try:
        facts = load_checkpoint(file).facts if file.exists() else {}
    except CheckpointError:  # the run replaces the file anyway
        return {}
    metrics, saved = facts.get("validation"), facts.get("step")
    return dict(metrics) if isinstance(metrics, dict) and whole_number(saved) and saved <= step else {}


def with_validation(checkpoint: Checkpoint, metrics: Mapping[str, object]) -> Checkpoint:
    """The checkpoint with the metrics as its fact `validation`; unchanged without metrics."""
    return replace(checkpoint, facts={**checkpoint.facts, "validation": dict(metrics)}) if metrics else checkpoint
