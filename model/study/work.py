"""One process at work on a study: it takes the first waiting run of the queue, trains it, scores it, and takes the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from ...errors import BusyError
from ...pipeline.storage.lock import drop_lock, take_lock
from ...runtime import progress, sigterm_as_interrupt
from ..checkpoints.format import RRDB_FILE
from ..evaluation.held_out import digest_of
from ..inference.upscaler import load_diffusion
from ..training.run import train
from .checks import Workshop, scored_with
from .plan import PlannedRun
from .queue import DONE, FAILED, RUNNING, WAITING, RunStatus, place_of, record_failure, status_of
from .scoring import Scores, score

log = logging.getLogger(__name__)

_PAUSE = 2.0  # seconds between two looks at a queue whose next run is not ready


def work(shop: Workshop, report: Callable[[str], None] = log.info) -> None:
    """Work on the queue until no run is waiting. Other processes may work on it at the same time.

    A run that fails is recorded with its reason, and the next one is taken.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; training state and scores are saved.
        StoreError: the study's folder cannot be written.
    """
    with sigterm_as_interrupt():
        while True:
            statuses = shop.statuses()
            ready = [each for each in statuses if each.state == WAITING and _is_ready(each.run, statuses)]
            if any(_attempt(shop, each, statuses, report=report) for each in ready):
                continue
            if not any(each.state == WAITING and _may_become_ready(each.run, statuses) for each in statuses):
                return
            time.sleep(_PAUSE)


def _attempt(shop: Workshop, chosen: RunStatus, statuses: list[RunStatus], *, report: Callable[[str], None]) -> bool:
    """Work on a run; False if another process has it."""
    run, place = chosen.run, place_of(shop.out, chosen.run)
    try:
        lock = take_lock(place.lock, place.folder, "samdiff study")
    except BusyError:
        return False
    try:
        with lock:
            now = _status_while_locked(shop, run)
            if now in (DONE, FAILED):  # another process was faster
                return True
            number = sum(each.state == DONE for each in statuses) + 1
            report(
                f"run {run.name}: {number} of {len(statuses)}, {sum(each.state == WAITING for each in statuses) - 1} waiting"
            )
            _train_and_score(shop, run, report)
            drop_lock(lock, place.lock)
    except BusyError as error:  # `samdiff train` was started by hand in the run's folder
        report(f"run {run.name}: {error}")
        time.sleep(_PAUSE)
        return False
    except Exception as error:  # noqa: BLE001 - any exception of a run is its reason, and must not stop the other runs
        log.debug("run %s failed", run.name, exc_info=True)
        record_failure(place, error)
        report(f"run {run.name}: failed, {type(error).__name__}: {error}")
    return True


def _status_while_locked(shop: Workshop, run: PlannedRun) -> str:
    state = status_of(shop.out, run, shop.keys[run.name]).state
    if state != RUNNING:
        return state
    return FAILED if place_of(shop.out, run).failure.exists() else WAITING  # running is what we are ourselves


def _train_and_score(shop: Workshop, run: PlannedRun, report: Callable[[str], None]) -> None:
    place = place_of(shop.out, run)
    rrdb = None if run.own_rrdb or run.is_rrdb else Path(run.rrdb) if run.rrdb else shop.out / "rrdb" / RRDB_FILE
    file = train([shop.stores[run.store]], place.folder, run.config, shop.device, rrdb=rrdb, report=report)
    if run.is_rrdb:
        return
    model = load_diffusion(file, shop.device)
    decides = {"model": model.sha256, "images": digest_of(shop.images), **scored_with(shop.study)}
    scores = Scores(place.scores, decides)
    bar = progress(desc=f"scores of {run.name}", total=len(run.budgets) * len(shop.images), unit="image")
    score(
        model,
        shop.images,
        run.budgets,
        study=shop.study,
        networks=shop.networks,
        scores=scores,
        on_image=bar.update,
    )
    bar.close()
    scores.write(finished=shop.keys[run.name])


def _is_ready(run: PlannedRun, statuses: list[RunStatus]) -> bool:
    """Whether its RRDB is there: a file, its own, or the shared one, trained."""
    if run.rrdb or run.own_rrdb or run.is_rrdb:
        return True
    return any(each.run.is_rrdb and each.state == DONE for each in statuses)


def _may_become_ready(run: PlannedRun, statuses: list[RunStatus]) -> bool:
    """Whether a waiting run is ready, or the shared RRDB is still to come."""
    return _is_ready(run, statuses) or any(each.run.is_rrdb and each.state in (RUNNING, WAITING) for each in statuses)
