"""The run's folder: locked for one process, with the settings that the run was started with."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...errors import CheckpointError, ConfigError, printable
from ...pipeline.prepare.staging import differences
from ...pipeline.prepare.targets import inside_a_store
from ...pipeline.shards.reader import Store
from ...pipeline.shards.writer import ROOT_KEY
from ...pipeline.storage.atomic import sweep_partial
from ...pipeline.storage.foreign import is_plain_file
from ...pipeline.storage.local import LocalStore
from ...pipeline.storage.lock import take_lock
from ...runtime import usable_cores
from ..checkpoints.format import (
    BEST_FILE,
    MODEL_FILE,
    RRDB_FILE,
    Checkpoint,
    declared_in,
    load_checkpoint,
    weights_digest,
)
from ..checkpoints.plain import read_object_file, whole_number
from ..config import BESIDE, RunConfig, config_of
from .logger import LOG_FILE, repair_log

FREE = {
    "rrdb_steps",
    "steps",
    "log_every",
    "checkpoint_every",
    "keep",
    "grad_accum",
    "gradient_checkpointing",
    "compile",
    "tensorboard",
    "num_workers",
    "rrdb_from.file",
    "start_from.file",
    "teacher.file",
}
"""Settings of [train], and names of files, that may change when a run is resumed."""
REPORTED = {"lr", "lr_schedule", "halve_every", "warmup", "grad_clip", "amp"}
REPORTED |= {"student.teacher_weight", "student.teacher_share", "student.samples"}
"""Settings that may change and are reported, like those of [loss]: what one tries when the loss is not finite."""
FIXED_LOSSES = {"loss.auxiliary"}
"""Settings of [loss] that determine which tensors a state has, so they may not change."""

_UNCOMPARED = ("versions", "threads")
"""Facts about the machine, which may change."""
_MOST_THREADS = 4096

_OURS = (ROOT_KEY, LOG_FILE, "*.safetensors")
"""Files that show that a folder was used by a run or is a store."""
_LONGEST = 300  # characters of a reported difference


def versions() -> dict[str, str]:
    """Versions of samdiff, PyTorch and Python; recorded, not compared."""
    return {"samdiff": __version__, "torch": torch.__version__, "python": platform.python_version()}


def requested_settings(
    config: RunConfig, stores: Sequence[Store], rrdb: Path | None, start: Path | None, teacher: Path | None = None
) -> dict[str, object]:
    """What is saved with the run and every checkpoint: settings, fingerprints of the stores, the initial weights, and a student's teacher."""
    fingerprints = [store.fingerprint for store in stores]
    return {
        **config.as_dict(),
        **stores[0].samples.attributes(),
        "stores": fingerprints,
        "rrdb_from": _weights_origin(rrdb, "rrdb"),
        "start_from": _weights_origin(start),
        "teacher": _weights_origin(teacher),
    }


def _weights_origin(path: Path | None, part: str = "") -> dict[str, str] | None:
    """Name of a checkpoint, and the SHA-256 of its weights."""
    if path is None:
        return None
    checkpoint = load_checkpoint(path)
    return {"file": path.name, "sha256": weights_digest(checkpoint.part(part) if part else checkpoint.tensors)}


def acquire_run_dir(out: Path, requested: dict[str, Any], held: ExitStack) -> list[str]:
    """Lock the folder for this process until `held` is closed, and write `config.json`. Returns lines to report.

    `config.json` of a finished run is left as it is: no step is taken with the settings that were requested now.

    Raises:
        BusyError: another process is training into it.
        ConfigError: it is a file, is not a run's folder, or holds a run with other settings, a damaged `config.json`, a foreign log,
            or weights that another program or run wrote.
        StoreError: it cannot be written.
    """
    file = out / "config.json"
    check_run_folder(out)
    foreign = [] if file.exists() else [path.name for name in _OURS for path in sorted(out.glob(name))]
    if foreign:
        raise ConfigError(
            f"{out}: holds {', '.join(foreign[:3])} and no {file.name}, so it is not a run's folder; give another --out"
        )
    command, last = ("samdiff distill", "student") if has_student(requested) else ("samdiff train", "diffusion")
    held.enter_context(take_lock(out / "lock", out, command))
    check_run_folder(out)  # another run may have been here
    reported: list[str] = []
    threads = recorded_threads(out)
    before = file.exists()
    if before:
        reported, refused = changes(_read_settings(file), requested)
        if refused:
            raise ConfigError(
                f"{out}: holds a run with other settings ({'; '.join(refused[:6])}); use the same settings to resume, or another --out"
            )
    check_own_files(out, requested)
    sweep_partial(out, below=False, ours=is_run_file)
    mended = repair_log(out / LOG_FILE)
    if before and (out / MODEL_FILE).exists() and steps_done(out, last) >= requested["train"]["steps"] > 0:
        return [*mended, *(f"not changed, since the run is finished: {line}" for line in reported)]
    machine = {"versions": versions(), "threads": torch.get_num_threads()}
    LocalStore(out).set(file.name, json.dumps({**requested, **machine}, indent=1, sort_keys=True).encode())
    return [*mended, *(f"changed in this run: {line}" for line in reported), *(_thread_notes(threads) if before else [])]


def state_name(stage: str, step: int) -> str:
    """Name of the file with a stage's state after so many steps."""
    return f"state-{stage}-{step:08d}.safetensors"


def state_steps(out: Path, stage: str) -> list[int]:
    """Steps of a stage's saved states, ascending; files with other spellings of the same number do not count."""
    matches = (re.fullmatch(rf"state-{stage}-([0-9]{{8,18}})\.safetensors", path.name) for path in out.glob("state-*"))
    steps = sorted(int(match[1]) for match in matches if match)
    return [step for step in steps if (out / state_name(stage, step)).exists()]


def steps_done(out: Path, stage: str) -> int:
    """Steps of a stage's newest saved state."""
    return max(state_steps(out, stage), default=0)


def has_student(requested: Mapping[str, Any]) -> bool:
    """Whether the settings of `requested_settings` are those of a student."""
    return bool(requested["student"]["layers"])


def recorded_threads(out: Path) -> int | None:
    """CPU threads that a run was last trained with; another number may change the last bits of results. None if unknown."""
    try:
        threads = read_object_file(out / "config.json").get("threads")
    except (ValueError, OSError):  # no run, or a damaged one, which `acquire_run_dir` reports
        return None
    return threads if whole_number(threads) and 1 <= threads <= _MOST_THREADS else None


def threads_to_resume(out: Path, usable: int, environment: Mapping[str, str] = os.environ) -> int | None:
    """CPU threads to resume a run with, unless given: those it was started with, if this machine has as many cores.

    Args:
        out: the run's folder, which may not exist yet.
        usable: cores of this machine. More threads than cores would be very slow.
        environment: `OMP_NUM_THREADS` takes precedence; `torchrun` sets it.

    Returns:
        None: choose as for a new run. `acquire_run_dir` reports a change.
    """
    threads = None if environment.get("OMP_NUM_THREADS") else recorded_threads(out)
    return threads if threads is not None and threads <= usable else None


def _thread_notes(before: int | None) -> list[str]:
    """Lines to report about the compute threads of a resumed run."""
    now, usable = torch.get_num_threads(), usable_cores()
    if before is not None and before != now:
        return [
            f"changed in this run: compute threads: was {before}, now {now}; the last bits may differ from an uninterrupted run's"
        ]
    return [f"{now} of {usable} compute threads, as before (--threads N decides otherwise)"] if now < usable // 2 else []


def changes(before: Mapping[str, object], requested: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Differing settings as `train.lr: was 1, now 2`: (those that may change and are reported, those that may not change)."""
    reported, refused = [], []
    for line in map(printable, differences(before, requested)):
        line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
        name = line.split(":")[0].removeprefix("train.")
        if (
            name in REPORTED
            or (name.startswith("loss.") and name not in FIXED_LOSSES)
            or (name == "steps" and requested["train"]["lr_schedule"] == "cosine")
        ):
            reported.append(line)
        elif name not in FREE and (not name.startswith("validate.") or name == "validate.images"):
            refused.append(line)
    return reported, refused


def saved_settings(saved: Mapping[str, object]) -> dict[str, object]:
    """The result of `requested_settings` as saved in a `config.json` or a checkpoint. ConfigError for invalid settings."""
    return {**config_of(saved).as_dict(), **{key: saved.get(key) for key in BESIDE if key not in _UNCOMPARED}}


def _read_settings(file: Path) -> dict[str, object]:
    try:
        return saved_settings(read_object_file(file))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file}: damaged ({printable(error)}); restore it, or give another --out") from error


_KIND_OF = {RRDB_FILE: "rrdb", MODEL_FILE: "diffusion", BEST_FILE: "diffusion"}
"""Weights that a run writes -> the kind of checkpoint."""
_STATE = re.compile(r"state-[a-z]+-[0-9]{8,}\.safetensors")


def check_own_files(out: Path, requested: Mapping[str, Any]) -> None:
    """ConfigError if weights in the folder are not this run's, so that it would replace, use or delete a file of the user. Only headers are read.

    A state that cannot be read is left to `state.resume`, whose error says how to resume.
    """
    of_run = {name: "student" if has_student(requested) and name != RRDB_FILE else kind for name, kind in _KIND_OF.items()}
    found = {out / name: kind for name, kind in of_run.items() if (out / name).is_file()}
    found |= {path: "state" for path in sorted(out.glob("state-*")) if _STATE.fullmatch(path.name) and path.is_file()}
    for file, kind in found.items():
        try:
            declared = declared_in(file)
        except CheckpointError as error:
            got = "" if kind == "state" else str(error).removeprefix(f"{file}: ").rpartition("; ")[0]
        else:
            got = f"a checkpoint of kind {declared.kind!r}" if declared.kind != kind else _another_run(declared, requested)
        if got:
            way = " (a new run takes it with --rrdb FILE)" if kind == "rrdb" else ""
            raise ConfigError(
                f"{printable(file)}: expected a file that this run wrote or nothing, got {got}; move it away{way}, or give another --out"
            )


def _another_run(declared: Checkpoint, requested: Mapping[str, Any]) -> str:
    """How the settings of a checkpoint differ from those of the run; empty if it may be the run's."""
    try:
        before = saved_settings(declared.config)
    except ConfigError as error:
        return f"a checkpoint whose configuration is not understood ({error})"
    if not requested["diffusion"]["residual_scale"]:  # measured by the run, and saved with its weights only
        before = {**before, "diffusion": {**config_of(declared.config).as_dict()["diffusion"], "residual_scale": 0.0}}  # type: ignore[dict-item]
    refused = changes(before, requested)[1]
    return f"one of a run with other settings ({'; '.join(refused[:3])})" if refused else ""


_REWRITTEN = ("config.json", "log.jsonl", "rrdb.safetensors", "model.safetensors", "best.safetensors")
"""Files that a run rewrites, so they must not be links."""


_RUN_FILE = re.compile(r"config\.json|(rrdb|model|best|state-[a-z]+-[0-9]{8,})\.safetensors")


def is_run_file(key: str) -> bool:
    """Whether a run writes files of this name atomically, so that a partial file of it comes from a killed run."""
    return _RUN_FILE.fullmatch(key) is not None


def check_run_folder(out: Path) -> None:
    """Raise an error for a path that cannot be a run's folder. Nothing is changed.

    Raises:
        ConfigError: it is the root of a disk, a file, a broken link, a store or a folder in one, or one of the run's files is a link, a
            folder or a device.
    """
    if not Path(os.path.realpath(out)).name:
        raise ConfigError(f"{printable(out)}: expected a run's folder, got the root of a disk; give another --out")
    if os.path.lexists(out) and not out.is_dir():
        what = "a link to nowhere" if out.is_symlink() else "a file"
        raise ConfigError(f"{printable(out)}: expected a folder or nothing, got {what}; give another --out")
    store = out if os.path.lexists(out / ROOT_KEY) and (out / _REWRITTEN[0]).exists() else inside_a_store(out)
    if store is not None:
        raise ConfigError(
            f"{printable(out)}: lies in the store {printable(store)}, where nothing else may lie; give another --out"
        )
    for name in _REWRITTEN:
        if os.path.lexists(out / name) and not is_plain_file(out / name):
            raise ConfigError(
                f"{printable(out / name)}: expected a file of a run or nothing, got a link, a folder or a device; move it away, or give another --out"
            )
