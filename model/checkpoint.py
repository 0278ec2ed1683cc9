"""Weights with everything needed to use them: one safetensors file, the configuration as JSON in its header. No pickles.

A checkpoint of stage `diffusion` holds the U-Net (`unet.…`) and the frozen RRDB (`rrdb.…`), so inference needs one file. A resume state is
the same kind of file with the optimiser's tensors beside the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import CheckpointError
from ..pipeline.keystore import advice, write_atomic

FORMAT = "samdiff-checkpoint"
FORMAT_VERSION = "1"
SHIPPED = Path(__file__).parent / "weights" / "tiny-x4.safetensors"
"""The small model inside the package; `weights/README.md` says what it was trained on and under which licence it is."""
SHIPPED_NAME = "shipped"
"""What users type for it in place of a path."""
MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what they belong to."""

    kind: str
    """`rrdb`, `diffusion` or `state` (to resume from)."""
    tensors: dict[str, torch.Tensor]
    """On the CPU; prefixes `unet.`, `rrdb.`, and in a state `ema.`, `adam.…`."""
    config: dict[str, Any]
    """The resolved configuration of the run, see `config.py`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Where it came from: step, sample position, stores' fingerprints, versions."""

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors below a prefix, without it: a state dict."""
        return {name[len(prefix) + 1 :]: value for name, value in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_checkpoint(path: Path, checkpoint: Checkpoint, overwrite: bool = True) -> None:
    """Write a checkpoint: whole and flushed to the disk, or not at all; an older file stays until then.

    Args:
        path: the file.
        checkpoint: what goes into it.
        overwrite: whether a file that is there already is replaced.

    Raises:
        CheckpointError: it cannot be written, such as on a full disk, or is there already.
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
        write_atomic(path, save(tensors, header), replace=overwrite)
    except OSError as error:
        size = sum(value.nbytes for value in tensors.values()) / 1e6
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}), it needs {size:.0f} MB; what was saved before is untouched: "
            f"{advice(error)}, then the same command goes on from there"
        ) from error


def load_checkpoint(path: Path, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Args:
        path: the file, a run's folder (its `model.safetensors`), or the word `shipped`: the model that comes with samdiff.
        kind: what it has to be; None takes any.

    Raises:
        CheckpointError: there is no file, it is not one of ours, is cut short, of another format version, or of another kind.
    """
    if str(path) == SHIPPED_NAME and not path.exists():
        path = SHIPPED
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.exists():
        raise CheckpointError(f"{file}: there is no such checkpoint{_runs_hint(path)}")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            header = opened.metadata() or {}
            tensors = {name: _single(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: not a readable safetensors file ({error}); give a checkpoint that `samdiff train` wrote"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{file}: weights without samdiff's header; give a checkpoint that `samdiff train` wrote")
    if header.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: expected checkpoint format {FORMAT_VERSION}, got {header.get('format_version')}; use the samdiff release that wrote it"
        )
    try:
        found = Checkpoint(header["kind"], tensors, json.loads(header["config"]), json.loads(header["facts"]))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file}: the header is damaged ({error!r}); take another copy of the file") from error
    if kind is not None and found.kind != kind:
        raise CheckpointError(f"{file}: expected a checkpoint of kind {kind!r}, got {found.kind!r}")
    return found


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of weights by name, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_into(module: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy weights into a module; every name and shape must fit.

    Raises:
        CheckpointError: names are missing or too many, a shape differs, or a value is not finite.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshaped = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra or misshaped:
        parts = [f"{len(names)} {what} (such as {names[0]})" for what, names in _named(missing, extra, misshaped) if names]
        raise CheckpointError(
            f"{where}: the weights do not fit the configured network: {', '.join(parts)}; check preset and scale"
        )
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(
            f"{where}: {len(broken)} tensors hold NaN or infinity (such as {broken[0]}); take an earlier checkpoint"
        )
    module.load_state_dict(dict(state))


def newest_run(runs: Path = Path("runs")) -> Path:
    """The run whose model was written last.

    Raises:
        CheckpointError: there is none.
    """
    models = sorted(runs.glob(f"*/{MODEL_FILE}"), key=lambda file: file.stat().st_mtime)
    if not models:
        raise CheckpointError(
            f"no checkpoint: {runs}/ holds no trained model; train one with `samdiff train --shards STORE`, or give --checkpoint FILE"
        )
    return models[-1]


def _single(value: torch.Tensor) -> torch.Tensor:
    """Half precision is for storage only: as float32."""
    return value.float() if value.dtype == torch.float16 else value


def _named(missing: list[str], extra: list[str], misshaped: list[str]) -> list[tuple[str, list[str]]]:
    return [("missing", missing), ("unexpected", extra), ("of another shape", misshaped)]


def _runs_hint(path: Path) -> str:
    if path.is_dir():
        return "; the run has not finished a first checkpoint yet, or it is not a run's folder"
    return "; `samdiff train` writes runs/NAME/model.safetensors"
