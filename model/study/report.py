"""Writes what a study found so far: results.json, study.md, tradeoff.png and differences.png in its folder.

A file of one of these names that a study did not write is never replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import BusyError, MissingPackageError, StoreError, printable
from ...pipeline.storage.atomic import unreadable, unwritable, write_atomic
from ...pipeline.storage.lock import drop_lock, take_lock
from ...pipeline.storage.regular import open_regular
from ..sheets.study_plots import MARK, Curve, Interval, check_plots, forest, tradeoff
from .checks import Workshop
from .markdown import TITLES, as_markdown
from .queue import DONE, place_of
from .results import ByBudget, Results, as_document, results_of
from .scoring import read_marked, write_marked

RESULTS_FILE, PAGE, TRADEOFF, FOREST = "results.json", "study.md", "tradeoff.png", "differences.png"
_HEAD = f"<!-- {MARK}: made by `samdiff study`, which replaces this file -->\n\n"
_LOOK = 1024  # bytes at the start of a file of ours that hold the mark


def write_report(shop: Workshop, report: Callable[[str], None] = lambda _: None) -> tuple[Results, list[Path]]:
    """Write the report of all runs that are done. Returns the results and the files.

    Args:
        shop: the study.
        report: called with what is left out: the plots without matplotlib, all files while another process writes them.

    Raises:
        StoreError: a file cannot be written, or is not one of a study.
    """
    results = read_results(shop)
    lock = shop.out / "queue" / "report.lock"
    try:
        held = take_lock(lock, shop.out, "samdiff study")
    except BusyError as error:
        report(f"no report: {error}")
        return results, []
    with held:
        write_marked(shop.out / RESULTS_FILE, as_document(results))
        _write_ours(shop.out / PAGE, (_HEAD + as_markdown(results)).encode(errors="backslashreplace"))
        files = [shop.out / RESULTS_FILE, shop.out / PAGE, *_write_plots(shop.out, results, report)]
        drop_lock(held, lock)
    return results, files


def read_results(shop: Workshop) -> Results:
    """The results of the runs that are done; nothing is written."""
    statuses, scores = shop.statuses(), {}
    for status in statuses:
        if status.state == DONE and not status.run.is_rrdb:
            scores[status.run.name] = _scores(place_of(shop.out, status.run).scores)
    return results_of(shop.study, statuses, shop.images, scores=scores)


def curves_of(results: Results, x: str, y: str) -> list[Curve]:
    """One curve per setting and sampler, by number of steps; 0 steps: the RRDB alone. Pure."""
    curves: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for each in results.scores:
        point = (each.budget.steps, each.metrics[x], each.metrics[y])
        curves.setdefault((each.setting, each.budget.sampler), []).append(point)
    samplers = {sampler for _, sampler in curves if sampler != "rrdb"}
    found = []
    for (setting, sampler), points in curves.items():
        steps, xs, ys = zip(*sorted(points), strict=True)
        label = f"{setting}, {sampler}" if sampler == "rrdb" or len(samplers) > 1 else setting
        found.append(Curve(label, steps, x=xs, y=ys))
    return found


def _write_plots(out: Path, results: Results, report: Callable[[str], None]) -> list[Path]:
    metrics = results.study.metrics
    pair = [name for name in ("psnr_y", "lpips") if name in metrics]
    try:
        check_plots()
    except MissingPackageError as error:
        report(f"no plots: {error}")
        return []
    note = "" if results.complete else " (partial)"
    written = []
    if len(pair) == 2:
        curves = curves_of(results, *pair)
        labels = {"x_label": "PSNR on Y, dB (higher is better)", "y_label": "LPIPS, AlexNet (lower is better)"}
        _write_ours(
            out / TRADEOFF,
            tradeoff(curves, **labels, title=f"{results.study.name}{note}: PSNR and LPIPS by number of sampling steps"),
        )
        written.append(out / TRADEOFF)
    panels = [
        (
            TITLES[metric],
            [
                Interval(each.setting, each.found.mean, low=each.found.low, high=each.found.high)
                for each in results.compared
                if each.primary and each.metric == metric
            ],
        )
        for metric in results.study.primary.metrics
    ]
    title = f"{results.study.name}{note}: difference to {results.study.reference}, {results.study.primary.steps} steps, 95 % intervals"
    _write_ours(out / FOREST, forest(panels, title=title))
    return [*written, out / FOREST]


def _scores(file: Path) -> ByBudget:
    found = (read_marked(file) or {}).get("scores")
    if not isinstance(found, dict):
        raise StoreError(f"{printable(file)}: damaged; delete it, and the same command scores the run again")
    return found


def _write_ours(file: Path, data: bytes) -> None:
    """Write a file atomically, unless there is one that we did not write."""
    try:
        if os.path.lexists(file):
            with open_regular(file) as existing:
                if MARK.encode() not in existing.read(_LOOK):
                    raise StoreError(
                        f"{printable(file)}: expected a file that `samdiff study` wrote, got another; move it away"
                    )
    except OSError as error:
        raise unreadable(file, error) from error
    try:
        write_atomic(file, data)
    except OSError as error:
        raise unwritable(file, error) from error
