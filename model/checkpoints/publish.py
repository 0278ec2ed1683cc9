"""A run's model as a file to give away, and the model that comes with samdiff."""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import CheckpointError, ConfigError
from ...pipeline.storage.outputs import files_of
from ..config import config_of
from ..diffusion.recommended import FACT, Recommended, as_facts, read_recommended, recommended_for
from .format import BEST_FILE, MODEL_FILE, SHIPPED, SHIPPED_NAME, Checkpoint, load_checkpoint, newest_run, save_checkpoint
from .plain import brief, whole_number


def publish(
    source: Path,
    target: Path,
    licence: str,
    attribution: str,
    half: bool = True,
    overwrite: bool = True,
    recommended: Recommended | None = None,
) -> Checkpoint:
    """Write a model without anything of the machine that trained it; returns what was written.

    Args:
        source: a run's folder (its best model by validation if there is one, else its newest), or a model's file.
        target: the new file.
        licence: of the weights, such as that of the photographs.
        attribution: whom the licence asks to name.
        half: store float16, half the bytes; `load_checkpoint` gives float32 again.
        overwrite: whether a file that is there already is replaced.
        recommended: sampling settings by quality, over the source's own (None: those, or what is recommended for its kind).

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
    own = read_recommended(found.facts, str(source)) or recommended_for(config_of(found.config))
    facts |= {"licence": licence, "attribution": attribution, FACT: as_facts({**own, **(recommended or {})})}
    made = Checkpoint("diffusion", {name: value.to(dtype) for name, value in found.tensors.items()}, config, facts)
    save_checkpoint(target, made, overwrite)
    return made


def default_checkpoint(runs: Path = Path("runs")) -> tuple[Path, str]:
    """The model to use when none is named, and why.

    The newest finished run whose validation beat bicubic; else the model that comes with samdiff, and why no newer run was taken.

    Raises:
        CheckpointError: there is neither.
    """
    models = sorted(runs.glob(f"*/{MODEL_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    if not models and SHIPPED.exists():
        return SHIPPED, f"the small model that comes with samdiff; {runs}/ holds no trained one"
    passed_over = ""
    for model in models:
        reason, what = _worth(model)
        if not reason:
            return model, f"the newest run that is finished and beats bicubic: {what}"
        passed_over = passed_over or f"{model.parent} {reason}"
    if SHIPPED.exists():
        return SHIPPED, f"the small model that comes with samdiff; {passed_over}: name it with --checkpoint to use it"
    return newest_run(runs), "the newest run"


def _worth(model: Path) -> tuple[str, str]:
    """(why a run's model is not taken without being named, "") or ("", its step and its PSNR)."""
    try:
        found = load_checkpoint(model, "diffusion")
        best = model.parent / BEST_FILE
        validation = (load_checkpoint(best, "diffusion") if best.exists() else found).facts.get("validation")
        steps = config_of(found.config).train.steps
    except (CheckpointError, ConfigError):
        return "cannot be read", ""
    step = found.facts.get("step")
    if not whole_number(step) or step < steps:
        return f"is not finished (step {brief(step)} of {steps})", ""
    ours, bicubic = ((validation or {}).get(name) for name in ("psnr_y", "bicubic_psnr_y"))
    if not isinstance(ours, float | int) or not isinstance(bicubic, float | int):
        return "has no validation", ""
    if ours <= bicubic:
        return f"has not beaten bicubic in its validation ({ours:.2f} dB, bicubic {bicubic:.2f})", ""
    return "", f"step {step}, {ours:.2f} dB in its best validation (bicubic {bicubic:.2f})"


def checkpoint_files(given: Path) -> list[Path]:
    """The files that belong to a checkpoint as users name it (a file, a run's folder, or the word `shipped`): none of them is an output."""
    return [SHIPPED] if str(given) == SHIPPED_NAME and not given.exists() else files_of(given)
