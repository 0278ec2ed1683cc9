"""Weights with everything needed to use them: one safetensors file, the configuration as JSON in its header. No pickles.

A checkpoint of stage `diffusion` holds the U-Net (`unet.…`) and the frozen RRDB (`rrdb.…`), so inference needs one file; a student's holds
`student.…`. A state to resume from is the same kind of file, with the tensors of the optimiser. Each has a digest of its content (`tensorfile.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, ConfigError, printable
from ...pipeline.scientific.sample_format import SampleFormat, format_in
from ...pipeline.storage.atomic import advice, write_atomic
from ...progress import activity
from ..config import RunConfig, config_of
from .expected import Shapes, check_shapes, model_shapes, state_shapes
from .plain import brief, read_object, whole_number
from .tensorfile import DIGEST, read, read_texts, to_bytes

log = logging.getLogger(__name__)

FORMAT = "samdiff-checkpoint"
FORMAT_VERSION = "1"
SHIPPED = Path(__file__).parents[1] / "weights" / "tiny-x4.safetensors"
"""The small model inside the package; see `weights/README.md` for its training data and licence."""
SHIPPED_NAME = "shipped"
"""Its name on the command line, in place of a path."""
SHIPPED_STUDENT = "shipped-student"
SHIPPED_MODELS = {
    SHIPPED_NAME: SHIPPED,
    "shipped-real": SHIPPED.with_name("tiny-x4-real.safetensors"),
    SHIPPED_STUDENT: SHIPPED.with_name("student-x4.safetensors"),
}
"""Name -> file of the models inside the package: for clean images; for blurred, noisy or compressed ones; a student for clean images."""
MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
RRDB_FILE = "rrdb.safetensors"
STAGES = ("rrdb", "diffusion", "student")

_MOST_BESIDE = 1000  # files to search for a similar name
UPSCALERS = ("diffusion", "student")
"""Kinds that can upscale an image."""
_KINDS = (*STAGES, "state")
_TEXTS = {"format", "format_version", "kind", "config", "facts"}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, with their configuration and origin."""

    kind: str
    """`rrdb`, `diffusion`, `student` or `state` (to resume from)."""
    tensors: dict[str, torch.Tensor]
    """On the CPU; prefixes `unet.`, `rrdb.`, `student.`, and in a state `network.`, `ema.`, `adam.…`, `guard.`."""
    config: dict[str, object]
    """The resolved configuration of the run, see `config.py`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Origin: step, sample position, fingerprints of the stores, versions."""

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors below a prefix, without it: a state dict."""
        return {name[len(prefix) + 1 :]: value for name, value in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_checkpoint(path: Path, checkpoint: Checkpoint, overwrite: bool = True) -> None:
    """Write a checkpoint with its digest, atomically and flushed to disk.

    Args:
        path: the file.
        checkpoint: its content.
        overwrite: whether an existing file is replaced.

    Raises:
        CheckpointError: it cannot be written (such as on a full disk), or exists already.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": checkpoint.kind,
        "config": json.dumps(checkpoint.config, sort_keys=True),
        "facts": json.dumps(checkpoint.facts, sort_keys=True),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, to_bytes(header, tensors), replace=overwrite)
    except OSError as error:
        size = sum(value.nbytes for value in tensors.values()) / 1e6
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}), it needs {size:.0f} MB; earlier files are unchanged: "
            f"{advice(error)}, then the same command resumes from there"
        ) from error


def load_checkpoint(path: Path, kind: str | Sequence[str] | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU, as float32. Its declared sizes are compared with its configuration before memory is allocated.

    A file without a digest (samdiff 0.1 wrote none) is read with a warning.

    Args:
        path: the file, a run's folder (its `model.safetensors`), or a name of `SHIPPED_MODELS`: the models that come with samdiff.
        kind: the expected kind, or several; None: any.

    Raises:
        CheckpointError: the file is missing, is not a samdiff checkpoint, is damaged, or has another format version or kind. The
            message says what to do.
    """
    file = _file_of(path)
    kinds = (kind,) if isinstance(kind, str) else kind

    def accept(texts: dict[str, str], shapes: Shapes) -> None:
        _check_format(texts, file)
        declared = _declared(texts, file)
        if kinds is not None and declared.kind not in kinds:
            way = f"; {remedy(file)}" if kind == "state" else ""
            expected = " or ".join(map(repr, kinds))
            raise CheckpointError(f"{file}: expected a checkpoint of kind {expected}, got {declared.kind!r}{way}")
        check_shapes(_implied(declared, file), shapes, str(file), hint=remedy(file))

    try:
        with activity(f"loading {file}"):
            texts, tensors = read(file, accept)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise _refused(file, str(error)) from error
    declared = _declared(texts, file)
    if declared.kind == "state" and any(value.dtype != torch.float32 for value in tensors.values()):
        raise _refused(file, "a state holds float32 only, this one has other tensors")
    if DIGEST not in texts:
        _warn_once(file)
    return Checkpoint(
        declared.kind, {name: value.float() for name, value in tensors.items()}, config=declared.config, facts=declared.facts
    )


def declared_in(file: Path) -> Checkpoint:
    """What a file declares in its header: kind, configuration and facts, without the tensors. The content is not checked.

    Raises:
        CheckpointError: it is not a samdiff checkpoint, or cannot be read.
    """
    try:
        texts = read_texts(file)
    except (OSError, ValueError) as error:
        raise _refused(file, str(error)) from error
    _check_format(texts, file)
    return _declared(texts, file)


def config_in(checkpoint: Checkpoint, name: str) -> RunConfig:
    """The settings that a checkpoint was trained with; a CheckpointError with the name of the file if they are not valid."""
    try:
        return config_of(checkpoint.config)
    except ConfigError as error:
        raise CheckpointError(
            f"{name}: its configuration is not understood ({error}); use the samdiff release that wrote it"
        ) from error


def samples_in(checkpoint: Checkpoint, config: RunConfig, name: str) -> SampleFormat:
    """The samples that a checkpoint was trained on: 8-bit RGB unless it says so; a CheckpointError if they are not valid."""
    try:
        samples = format_in(checkpoint.config)
    except ConfigError as error:
        raise CheckpointError(f"{name}: {error}; take another copy of the file") from error
    if samples.count != config.bands:
        raise CheckpointError(
            f"{name}: has networks for {config.bands} bands and samples of {samples.count}; take another copy of the file"
        )
    return samples


def remedy(file: Path) -> str:
    """What to do about a damaged file. A file that a run can write again may be deleted."""
    if (file.parent / "config.json").is_file():
        again = "delete it, and the same `samdiff train` command"
        if file.name.startswith("state-"):
            return f"{again} resumes from the state before it (from the stage's start if there is none)"
        if file.name in (MODEL_FILE, RRDB_FILE):
            return f"{again} writes it again from what the run has saved"
        if file.name == BEST_FILE:
            return f"delete it; {MODEL_FILE} beside it is the run's newest model"
    if file in SHIPPED_MODELS.values():
        return "install samdiff again"
    return "take another copy of the file, or give another checkpoint that `samdiff train` wrote"


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of weights by name, independent of the file that holds them."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_into(module: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy weights into a module; every name and shape must fit.

    Raises:
        CheckpointError: a name is missing or unexpected, a shape differs, or a value is not finite.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    check_shapes(own, {name: tuple(value.shape) for name, value in state.items()}, where, hint="check preset and scale")
    check_finite(state, where, "take an earlier checkpoint")
    module.load_state_dict(dict(state))


def check_finite(tensors: Mapping[str, torch.Tensor], where: str, hint: str) -> None:
    """CheckpointError if any value is NaN or infinite."""
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(f"{where}: {len(broken)} tensors hold NaN or infinity (such as {broken[0]}); {hint}")


def shipped_file(given: Path) -> Path | None:
    """The file of a model that comes with samdiff, if `given` is its name and there is no file of that name; else None."""
    file = SHIPPED_MODELS.get(str(given))
    return file if file is not None and not given.exists() else None


def _file_of(path: Path) -> Path:
    try:
        path = shipped_file(path) or path
        file = path / MODEL_FILE if path.is_dir() else path
        if not file.exists():
            raise CheckpointError(f"{file}: there is no such checkpoint{_nearest(path) or _runs_hint(path)}")
    except OSError as error:  # such as a name that is too long, or missing permissions
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); give a checkpoint's file") from error
    return file


def _check_format(texts: Mapping[str, str], file: Path) -> None:
    if texts.get("format") != FORMAT:
        raise CheckpointError(f"{file}: weights without samdiff's header; {remedy(file)}")
    if texts.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: expected checkpoint format {FORMAT_VERSION}, got {printable(texts.get('format_version'))[:40]}; "
            f"use the samdiff release that wrote it, or if it is damaged: {remedy(file)}"
        )


def _declared(texts: Mapping[str, str], file: Path) -> Checkpoint:
    """The checkpoint that the header declares, without tensors."""
    wrong = sorted((texts.keys() - {DIGEST}) ^ _TEXTS)
    if wrong:
        raise _refused(file, f"the header is damaged: the entry {brief(wrong[0])} is missing or unknown")
    if texts["kind"] not in _KINDS:
        raise _refused(file, f"the header is damaged: expected kind {', '.join(_KINDS)}, got {brief(texts['kind'])}")
    try:
        return Checkpoint(texts["kind"], {}, config=read_object(texts["config"]), facts=read_object(texts["facts"]))
    except ValueError as error:
        raise _refused(file, f"the header is damaged: {printable(error)}") from error


def _implied(declared: Checkpoint, file: Path) -> Shapes:
    """The shapes that follow from the header."""
    facts = declared.facts
    if "step" in facts and not whole_number(facts["step"]):
        raise _refused(file, f"the header is damaged: expected a number of steps, got {brief(facts['step'])}")
    try:
        config = config_of(declared.config)
        if declared.kind != "state":
            return model_shapes(config, declared.kind)
    except ConfigError as error:
        raise CheckpointError(
            f"{file}: its configuration is not understood ({error}); use the samdiff release that wrote it, "
            f"or if it is damaged: {remedy(file)}"
        ) from error
    if facts.get("stage") not in STAGES:
        raise _refused(file, f"the header is damaged: expected stage {', '.join(STAGES)}, got {brief(facts.get('stage'))}")
    return state_shapes(config, facts["stage"])


@lru_cache(maxsize=1024)
def _warn_once(file: Path) -> None:
    log.warning("%s: carries no digest (samdiff 0.1 wrote none), so damage to its values cannot be detected", printable(file))


def _refused(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{file}: {reason}; {remedy(file)}")


def _nearest(path: Path) -> str:
    """`; did you mean …?` with the most similar name of `shipped`, the files and the runs beside the path; empty if none is similar."""
    beside = list(islice(path.parent.iterdir(), _MOST_BESIDE)) if path.parent.is_dir() else []
    names = {entry.name: str(entry) for entry in beside if entry.suffix == ".safetensors" or (entry / MODEL_FILE).is_file()}
    names |= {name: name for name in SHIPPED_MODELS} if path.parent == Path() else {}
    near = get_close_matches(path.name, names, 1)
    return f"; did you mean {printable(names[near[0]])}?" if near else ""


def _runs_hint(path: Path) -> str:
    if path.is_dir():
        return "; the run has not finished a first checkpoint yet, or it is not a run's folder"
    return "; `samdiff train` writes runs/NAME/model.safetensors"
