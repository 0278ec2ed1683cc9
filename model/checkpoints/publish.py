"""A run's model as a file to give away, and the model that comes with samdiff."""

from __future__ import annotations

from pathlib import Path

import torch

from ...pipeline.storage.outputs import files_of
from .format import BEST_FILE, SHIPPED, SHIPPED_NAME, Checkpoint, load_checkpoint, newest_run, save_checkpoint


def publish(
    source: Path, target: Path, licence: str, attribution: str, half: bool = True, overwrite: bool = True
) -> Checkpoint:
    """Write a model without anything of the machine that trained it; returns what was written.

    Args:
        source: a run's folder (its best model by validation if there is one, else its newest), or a model's file.
        target: the new file.
        licence: of the weights, such as that of the photographs.
        attribution: whom the licence asks to name.
        half: store float16, half the bytes; `load_checkpoint` gives float32 again.
        overwrite: whether a file that is there already is replaced.

    Raises:
        CheckpointError: the source cannot be read, or the target not be written.
    """
    best = source / BEST_FILE
    found = load_checkpoint(best if source.is_dir() and best.exists() else source, kind="diffusion")
    dtype = torch.float16 if half else torch.float32
    config = {key: value for key, value in found.config.items() if key not in ("rrdb_from", "start_from")}  # paths
    facts: dict[str, object] = {
        key: found.facts[key] for key in ("step", "version", "stores", "validation") if key in found.facts
    }
    facts |= {"licence": licence, "attribution": attribution}
    made = Checkpoint("diffusion", {name: value.to(dtype) for name, value in found.tensors.items()}, config, facts)
    save_checkpoint(target, made, overwrite)
    return made


def default_checkpoint(runs: Path = Path("runs")) -> tuple[Path, str]:
    """The model to use when none is named, and why: the newest run, else the model that comes with samdiff.

    Raises:
        CheckpointError: there is neither.
    """
    if SHIPPED.exists() and not any(runs.glob("*/model.safetensors")):
        return SHIPPED, f"the small model that comes with samdiff; {runs}/ holds no trained one"
    return newest_run(runs), "the newest run"


def checkpoint_files(given: Path) -> list[Path]:
    """The files that belong to a checkpoint as users name it (a file, a run's folder, or the word `shipped`): none of them is an output."""
    return [SHIPPED] if str(given) == SHIPPED_NAME and not given.exists() else files_of(given)
