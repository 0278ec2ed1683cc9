"""Publishes the model of a run; chooses the default checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ...errors import CheckpointError, ConfigError, printable
from ...pipeline.storage.outputs import files_of
from ..config import config_of
from ..diffusion.recommended import FACT, Recommended, as_facts, read_recommended, recommended_for
from .format import BEST_FILE, MODEL_FILE, SHIPPED, UPSCALERS, Checkpoint, load_checkpoint, save_checkpoint, shipped_file
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
    """Write a model without facts about the machine that trained it. Returns the written checkpoint.

    Args:
        source: a run's folder (its best model by validation if there is one, else its newest), or a model's file.
        target: the new file.
        licence: of the weights, such as that of the training images.
        attribution: the credit that the licence requires.
        half: store float16, half the bytes; `load_checkpoint` converts to float32.
        overwrite: whether an existing file is replaced.
        recommended: sampling settings by quality, which override those of the source; None: those of the source, else of its configuration.

    Raises:
        CheckpointError: the source cannot be read, or the target cannot be written.
        ConfigError: `recommended` for a network of one step.
    """
    best = source / BEST_FILE
    checkpoint = load_checkpoint(best if source.is_dir() and best.exists() else source, kind=UPSCALERS)
    dtype = torch.float16 if half else torch.float32
    config = {
        key: value for key, value in checkpoint.config.items() if key not in ("rrdb_from", "start_from", "teacher")
    }  # paths
    facts: dict[str, object] = {
        key: checkpoint.facts[key] for key in ("step", "version", "stores", "validation") if key in checkpoint.facts
    }
    facts |= {"licence": licence, "attribution": attribution}
    if checkpoint.kind == "diffusion":
        own = read_recommended(checkpoint.facts, str(source)) or recommended_for(config_of(checkpoint.config))
        facts |= {FACT: as_facts({**own, **(recommended or {})})}
    elif recommended:
        raise ConfigError(f"--recommend: {source} is a network of one step, without sampling; leave it out")
    made = Checkpoint(
        checkpoint.kind, {name: value.to(dtype) for name, value in checkpoint.tensors.items()}, config=config, facts=facts
    )
    save_checkpoint(target, made, overwrite)
    return made


def default_checkpoint(runs: Path = Path("runs"), shipped: Path = SHIPPED) -> tuple[Path, str]:
    """The model to use if none is given, and why, with its step and validation.

    The newest finished run whose validation beats bicubic, else the model that comes with samdiff.

    Raises:
        CheckpointError: there is neither.
    """
    models = sorted(runs.glob(f"*/{MODEL_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    passed_over = ""
    for model in models:
        reason, what = _worth(model)
        if not reason:
            return model, f"the newest run that is finished and beats bicubic: {what}"
        passed_over = passed_over or f"{model.parent} {reason}"
    if shipped.exists():
        choice = f"; {passed_over}: give it with --checkpoint to use it" if models else f"; {runs}/ holds no trained model"
        return shipped, f"the small model that comes with samdiff: {_describe(load_checkpoint(shipped, 'diffusion'))}{choice}"
    why = f"{passed_over}; train on" if models else f"{runs}/ holds no trained model; train one with `samdiff train STORE`"
    raise CheckpointError(f"no checkpoint: {why}, or give --checkpoint FILE")


def _worth(model: Path) -> tuple[str, str]:
    """(why the model of a run is not a default, "") or ("", its step and PSNR)."""
    try:
        checkpoint = load_checkpoint(model, UPSCALERS)
        if checkpoint.kind == "student":
            return "is a student of another model", ""
        best = model.parent / BEST_FILE
        validation = (load_checkpoint(best, "diffusion") if best.exists() else checkpoint).facts.get("validation")
        steps = config_of(checkpoint.config).train.steps
    except (CheckpointError, ConfigError):
        return "cannot be read", ""
    step = checkpoint.facts.get("step")
    if not whole_number(step) or step < steps:
        return f"is not finished (step {brief(step)} of {steps})", ""
    ours, bicubic = _psnr(validation)
    if ours is None or bicubic is None:
        return "has no validation", ""
    if ours <= bicubic:
        return f"has not beaten bicubic in its validation ({ours:.2f} dB, bicubic {bicubic:.2f})", ""
    return "", f"step {step}, {ours:.2f} dB in its validation (bicubic {bicubic:.2f})"


def _psnr(validation: object) -> tuple[float | None, float | None]:
    """PSNR of the model and of bicubic in the fact `validation`, which is untrusted."""
    values = validation if isinstance(validation, dict) else {}
    ours, bicubic = map(_finite, map(values.get, ("psnr_y", "bicubic_psnr_y")))
    return ours, bicubic


def _finite(value: object) -> float | None:
    """A number of untrusted JSON, which also has NaN, infinity and integers beyond every float; None for those."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def _describe(checkpoint: Checkpoint) -> str:
    """Step and validation of a model."""
    validation = checkpoint.facts.get("validation")
    ours, bicubic = _psnr(validation)
    step = f"step {brief(checkpoint.facts.get('step'))}"
    if ours is None or bicubic is None:
        return step
    where = printable(str(validation.get("validation")))[:40] if isinstance(validation, dict) else ""
    return f"{step}, {ours:.2f} dB on {where} (bicubic {bicubic:.2f})"


def checkpoint_files(given: Path) -> list[Path]:
    """The files of a checkpoint given as a file, a run's folder, or a name of `SHIPPED_MODELS`; none of them may be an output."""
    shipped = shipped_file(given)
    return [shipped] if shipped else files_of(given)
