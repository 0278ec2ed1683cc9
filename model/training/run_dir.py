"""The run's folder: one process at a time, and the settings that it was begun with."""

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
from ...errors import ConfigError, printable
from ...pipeline.prepare.staging import differences
from ...pipeline.prepare.targets import inside_a_store
from ...pipeline.shards.reader import Store
from ...pipeline.shards.writer import ROOT_KEY
from ...pipeline.storage.atomic import sweep_partial
from ...pipeline.storage.foreign import is_plain_file
from ...pipeline.storage.local import LocalStore
from ...pipeline.storage.lock import take_lock
from ...runtime import usable_cores
from ..checkpoints.format import load_checkpoint, weights_digest
from ..checkpoints.plain import read_object_file, whole_number
from ..config import BESIDE, RunConfig, config_of
from .logger import LOG_FILE, mend_log

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
}
"""Settings of [train], and names of files, that may change between two parts of a run without a word."""
TOLD = {"lr", "lr_schedule", "halve_every", "warmup", "grad_clip", "amp"}
"""Those that may change, and are reported, as the section [loss]: what one tries when a loss is not finite."""

_UNCOMPARED = ("versions", "threads")
"""What is recorded of the machine, and may change."""
_MOST_THREADS = 4096

_OURS = (ROOT_KEY, LOG_FILE, "*.safetensors")
"""What a run would write into or over: never in a store, never without the settings that it was made with."""
_LONGEST = 300  # characters of a difference that are shown


def versions() -> dict[str, str]:
    """Of what computes; recorded, never compared."""
    return {"samdiff": __version__, "torch": torch.__version__, "python": platform.python_version()}


def asked_of(config: RunConfig, stores: Sequence[Store], rrdb: Path | None, start: Path | None) -> dict[str, Any]:
    """What is saved with the run and with every checkpoint: the settings, and what was trained on and begun from."""
    fingerprints = [store.fingerprint for store in stores]
    return {
        **config.as_dict(),
        "stores": fingerprints,
        "rrdb_from": _begun_from(rrdb, "rrdb"),
        "start_from": _begun_from(start),
    }


def _begun_from(path: Path | None, part: str = "") -> dict[str, str] | None:
    """A checkpoint's name, and what tells its weights from others wherever the file lies."""
    if path is None:
        return None
    found = load_checkpoint(path)
    return {"file": path.name, "sha256": weights_digest(found.part(part) if part else found.tensors)}


def acquire_run_dir(out: Path, asked: dict[str, Any], held: ExitStack) -> list[str]:
    """Take the folder for this process until `held` is closed, and write `config.json`; returns what to tell the user.

    Raises:
        BusyError: another process trains into it.
        ConfigError: it is a file, belongs to something else, or holds a run of other settings, a damaged `config.json` or another's log.
        StoreError: it cannot be written.
    """
    file = out / "config.json"
    check_run_folder(out)
    foreign = [] if file.exists() else [path.name for name in _OURS for path in sorted(out.glob(name))]
    if foreign:
        raise ConfigError(
            f"{out}: holds {', '.join(foreign[:3])} and no {file.name}, so it is no run's folder; give another --out"
        )
    held.enter_context(take_lock(out / "lock", out, "samdiff train"))
    check_run_folder(out)  # another run may have been here
    told: list[str] = []
    threads = recorded_threads(out)
    before = file.exists()
    if before:
        told, refused = changes(_read_settings(file), asked)
        if refused:
            raise ConfigError(
                f"{out}: holds a run of other settings ({'; '.join(refused[:6])}); use the same ones to resume, or another --out"
            )
    sweep_partial(out, below=False, ours=is_run_file)
    mended = mend_log(out / LOG_FILE)
    machine = {"versions": versions(), "threads": torch.get_num_threads()}
    LocalStore(out).set(file.name, json.dumps({**asked, **machine}, indent=1, sort_keys=True).encode())
    return [*mended, *(f"changed in this run: {line}" for line in told), *(_told_threads(threads) if before else [])]


def recorded_threads(out: Path) -> int | None:
    """The CPU threads that a run was last trained with: another number splits sums differently, and the last bits with them. None if unknown."""
    try:
        threads: Any = read_object_file(out / "config.json").get("threads")
    except (ValueError, OSError):  # no run, or a damaged one: `acquire_run_dir` says so
        return None
    return threads if whole_number(threads) and 1 <= threads <= _MOST_THREADS else None


def threads_to_resume(out: Path, usable: int, environment: Mapping[str, str] = os.environ) -> int | None:
    """The threads that a run is resumed with, unless they are requested: those it was begun with, if this machine has the cores.

    Args:
        out: the run's folder, which may not exist yet.
        usable: cores of this machine. A run from a larger one would crawl with all of its threads here.
        environment: `OMP_NUM_THREADS` is a request, of the user or of `torchrun`, which starts several processes on one machine.

    Returns:
        None: to be chosen as for a new run. `acquire_run_dir` reports what has changed.
    """
    threads = None if environment.get("OMP_NUM_THREADS") else recorded_threads(out)
    return threads if threads is not None and threads <= usable else None


def _told_threads(before: int | None) -> list[str]:
    """What to tell about the compute threads of a resumed run."""
    now, usable = torch.get_num_threads(), usable_cores()
    if before is not None and before != now:
        return [
            f"changed in this run: compute threads: was {before}, now {now}; the last bits may differ from an uninterrupted run's"
        ]
    return [f"{now} of {usable} compute threads, as before (--threads N decides otherwise)"] if now < usable // 2 else []


def changes(before: dict[str, Any], asked: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Settings that differ, as `train.lr: was 1, now 2`: those that may and are told, and those that may not."""
    told, refused = [], []
    for line in map(printable, differences(before, asked)):
        line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
        name = line.split(":")[0].removeprefix("train.")
        if name in TOLD or name.startswith("loss.") or (name == "steps" and asked["train"]["lr_schedule"] == "cosine"):
            told.append(line)
        elif name not in FREE and (not name.startswith("validate.") or name == "validate.images"):
            refused.append(line)
    return told, refused


def begun_with(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What `asked_of` gave when the settings were saved, in a `config.json` or a checkpoint. ConfigError if they are none."""
    return {**config_of(saved).as_dict(), **{key: saved.get(key) for key in BESIDE if key not in _UNCOMPARED}}


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        return begun_with(read_object_file(file))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file}: damaged ({printable(error)}); restore it, or give another --out") from error


_REWRITTEN = ("config.json", "log.jsonl", "rrdb.safetensors", "model.safetensors", "best.safetensors")
"""What a run writes again and again, so a link of that name would be followed or lost."""


_RUN_FILE = re.compile(r"config\.json|(rrdb|model|best|state-[a-z]+-[0-9]{8,})\.safetensors")


def is_run_file(key: str) -> bool:
    """Whether a run writes a file of that name whole, so that a partial file of it may be a killed run's."""
    return _RUN_FILE.fullmatch(key) is not None


def check_run_folder(out: Path) -> None:
    """Refuse what cannot be a run's folder; nothing is changed.

    Raises:
        ConfigError: it is the root of a disk, a file, a link to nowhere, a store or a folder in one, or a link, a folder or a device has
            the name of one of the run's files.
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
