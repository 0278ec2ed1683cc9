"""The queue of a study, derived from its folder: which runs are done, running, failed or waiting. There is no other record.

OUT/study.json               the study's name
OUT/rrdb/, OUT/runs/RUN/     the runs, as `samdiff train` makes them
OUT/queue/RUN.lock           held by the process that works on the run; RUN.failed.json: why it failed
OUT/scores/RUN.json          its scores
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError, printable
from ...pipeline.prepare.targets import inside_a_store
from ...pipeline.storage.atomic import hold
from ..checkpoints.format import RRDB_FILE
from ..training.logger import LOG_FILE
from .plan import PlannedRun
from .scoring import read_marked, write_marked

DONE, RUNNING, FAILED, WAITING = "done", "running", "failed", "waiting"
STUDY_FILE = "study.json"
_TAIL = 1 << 16  # bytes at the end of a log


@dataclass(frozen=True)
class Place:
    """The files of one run."""

    folder: Path
    lock: Path
    failure: Path
    scores: Path


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands."""

    run: PlannedRun
    state: str
    """DONE, RUNNING, FAILED or WAITING (not begun, or interrupted)."""
    steps: int
    """Training steps that its log shows, of `run.steps`."""
    rate: float
    """Training samples per second by the end of its log; 0: not known."""
    reason: str = ""
    """Why it failed."""

    @property
    def left(self) -> int:
        """Training samples to go."""
        return 0 if self.state in (DONE, FAILED) else max(0, self.run.steps - self.steps) * self.run.config.train.batch


def place_of(out: Path, run: PlannedRun) -> Place:
    """The files of a run in the study's folder."""
    folder = out / run.name if run.is_rrdb else out / "runs" / run.name
    return Place(
        folder,
        out / "queue" / f"{run.name}.lock",
        out / "queue" / f"{run.name}.failed.json",
        out / "scores" / f"{run.name}.json",
    )


def claim_folder(out: Path, name: str, *, make: bool = True) -> None:
    """Make the study's folder, or check that it is this study's.

    Args:
        out: the folder.
        name: of the study.
        make: whether a missing folder is made.

    Raises:
        ConfigError: it lies in a store, holds files of others, or another study.
        StoreError: it cannot be written.
    """
    store = inside_a_store(out)
    if store is not None:
        raise ConfigError(
            f"{printable(out)}: lies in the store {printable(store)}, where nothing else may lie; give another --out"
        )
    if os.path.lexists(out) and not out.is_dir():
        raise ConfigError(f"{printable(out)}: expected a folder or nothing, got a file; give another --out")
    found = read_marked(out / STUDY_FILE)
    if found is None and out.is_dir() and any(out.iterdir()):
        raise ConfigError(
            f"{printable(out)}: holds files and no {STUDY_FILE}, so it is not a study's folder; give another --out"
        )
    if found is not None and found.get("name") != name:
        raise ConfigError(
            f"{printable(out)}: holds the study {printable(found.get('name'))!r}, not {name!r}; give another --out"
        )
    if found is None and make:
        write_marked(out / STUDY_FILE, {"name": name})


def status_of(out: Path, run: PlannedRun, key: str) -> RunStatus:
    """Where a run stands.

    Args:
        out: the study's folder.
        run: the run.
        key: identifies settings, data and images; scores with another key are not of this run. Not used for the shared RRDB.
    """
    place = place_of(out, run)
    steps, rate = _progress(place.folder / LOG_FILE, run)
    if run.is_rrdb:
        done = (place.folder / RRDB_FILE).exists()
    else:
        found = read_marked(place.scores)
        done = found is not None and found.get("finished") == key
    if done:
        return RunStatus(run, DONE, run.steps, rate)
    if is_locked(place.lock):
        return RunStatus(run, RUNNING, steps, rate)
    failed = read_marked(place.failure)
    if failed is not None:
        return RunStatus(run, FAILED, steps, rate, reason=str(failed.get("reason", "unknown")))
    return RunStatus(run, WAITING, steps, rate)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; False where the file or the system's locks are missing."""
    try:
        with open(path, "r+b") as file:  # network file systems lock files open for writing only
            return hold(file) is False
    except OSError:
        return False


def record_failure(place: Place, error: BaseException) -> None:
    """Write down why a run failed."""
    write_marked(place.failure, {"reason": printable(f"{type(error).__name__}: {error}")[:2000]})


def forget_failures(out: Path, runs: Sequence[PlannedRun]) -> int:
    """Failed runs wait again: the command that is started again tries them again. Returns their number."""
    found = [place_of(out, run).failure for run in runs if read_marked(place_of(out, run).failure) is not None]
    for file in found:
        file.unlink(missing_ok=True)
    return len(found)


def seconds_left(statuses: Sequence[RunStatus], workers: int) -> float | None:
    """Estimated seconds of training until all runs are done, without scoring; None before a rate is known. Pure.

    A run without a rate is expected to train as fast as the mean of the others.
    """
    known = [each.rate for each in statuses if each.rate > 0]
    if not known:
        return None
    usual = sum(known) / len(known)
    busy = max(1, workers, sum(each.state == RUNNING for each in statuses))
    return sum(each.left / (each.rate or usual) for each in statuses) / busy


def queue_rows(statuses: Sequence[RunStatus]) -> list[list[str]]:
    """The queue as a table: place, run, state, training steps, note. Pure. Places count the waiting runs; a running one has none."""
    rows, waiting = [], 0
    for each in statuses:
        waiting += each.state == WAITING
        place = str(waiting) if each.state == WAITING else ""
        rows.append([place, each.run.name, each.state, f"{each.steps}/{each.run.steps}", each.reason])
    return rows


def summary(statuses: Sequence[RunStatus], left: str) -> str:
    """One line, such as `12 of 21 runs done, 2 running, 7 waiting; about 5 h of training left`. Pure."""
    counts = {state: sum(each.state == state for each in statuses) for state in (DONE, RUNNING, WAITING, FAILED)}
    parts = [f"{counts[DONE]} of {len(statuses)} runs done"]
    parts += [f"{counts[state]} {state}" for state in (RUNNING, WAITING, FAILED) if counts[state]]
    return ", ".join(parts) + (f"; about {left} of training left" if left else "")


def _progress(log_file: Path, run: PlannedRun) -> tuple[int, float]:
    """(training steps, samples per second) by the last lines of a run's log; (0, 0.0) without one."""
    try:
        with open(log_file, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0, 0.0
    before = 0 if run.is_rrdb or not run.own_rrdb else run.config.train.rrdb_steps
    for line in reversed(lines):
        try:
            values = json.loads(line)
            if "samples_per_s" in values:
                done = int(values["step"]) + (before if values["stage"] == "diffusion" else 0)
                return done, float(values["samples_per_s"])
        except (ValueError, TypeError, KeyError):  # the first line of the tail, or one being written
            continue
    return 0, 0.0
