"""`samdiff study`: many trainings of the same data, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common import COMMON, Device, Threads, print_error, print_status
from ..document import Document, print_table, with_json

if TYPE_CHECKING:
    from ...model.study.checks import Workshop
    from ...model.study.queue import RunStatus


@with_json
def study(
    document: Document,
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="What is compared (docs/study.md).")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", rich_help_panel=COMMON, show_default="studies/NAME", help="The study's folder."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, max=1024, rich_help_panel=COMMON, help="Processes; with 2 or more each has one compute thread."),
    ] = 1,
    report: Annotated[
        bool,
        typer.Option("--report", rich_help_panel=COMMON, help="Write the report of what is done so far, and train nothing."),
    ] = False,
    list_runs: Annotated[
        bool, typer.Option("--list", rich_help_panel=COMMON, help="Show the queue, and train nothing.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Compare settings of training.

    Trains every setting with several seeds on the same data, samples and scores the models, and tests the differences. The same
    command resumes; started on another machine or GPU with the same folder, it takes the next runs of the queue.
    """
    from ...errors import ConfigError
    from ...model.study.config import read_study

    if threads is not None and workers > 1:
        raise ConfigError(
            f"--threads {threads}: each of {workers} workers has one compute thread; leave out --threads or --workers"
        )
    settings = read_study(file)

    from ...model.study.checks import open_study
    from ...model.study.queue import claim_folder, forget_failures
    from ...model.study.work import work
    from ...runtime import pick_device, setup_process, user_path

    target = Path("studies") / settings.name if out is None else user_path(out, "--out")
    setup_process(threads)
    shop = open_study(settings, target, pick_device(device), report=print_status)
    claim_folder(target, settings.name, make=not list_runs)
    if list_runs:
        _show_queue(shop.statuses())
        _fill(document, shop)
        return
    if not report:
        again = forget_failures(target, shop.runs)
        if again:
            print_status(f"failed runs that are tried again: {again}")
        if workers == 1:
            work(shop, report=print_status)
        else:
            _work_in_processes(file, shop, workers, device=device)
    _finish(document, shop)


def _work_in_processes(file: Path, shop: Workshop, workers: int, *, device: str) -> None:
    from ...model.study.processes import run_workers
    from ...model.study.queue import summary
    from ...progress import duration

    print_status(f"{workers} processes; their output: {shop.out / 'logs'}")
    shown: list[str] = []

    def look() -> None:
        statuses = shop.statuses()
        states = [each.state for each in statuses]
        if states != shown:
            shown[:] = states
            left = _left(statuses, workers)
            print_status(summary(statuses, duration(left) if left else ""))

    run_workers(file, shop.out, count=workers, device=device, on_look=look)


def _finish(document: Document, shop: Workshop) -> None:
    """Write the report; exit status 1 if runs failed."""
    from ...model.study.queue import FAILED, summary
    from ...model.study.report import write_report

    results, files = write_report(shop, report=print_status)
    _fill(document, shop, files)
    print_status(summary(results.statuses, ""), *map(str, files))
    failed = [each for each in results.statuses if each.state == FAILED]
    for each in failed:
        print_error(f"samdiff: run {each.run.name} failed: {each.reason}")
    if failed:
        print_error("samdiff: the same command tries failed runs again")
        raise typer.Exit(1)


def _fill(document: Document, shop: Workshop, files: list[Path] | None = None) -> None:
    from ...model.study.report import read_results
    from ...model.study.results import as_document

    if document.requested:
        document.content.update(as_document(read_results(shop)), files=files or [], queue=_queue(shop.statuses()))


def _queue(statuses: list[RunStatus]) -> list[dict[str, object]]:
    return [
        {"name": each.run.name, "state": each.state, "steps": each.steps, "of": each.run.steps, "samples_per_s": each.rate}
        for each in statuses
    ]


def _show_queue(statuses: list[RunStatus]) -> None:
    from ...model.study.queue import queue_rows, summary
    from ...progress import duration

    rows = queue_rows(statuses)
    left = _left(statuses, 1)
    columns = ["place", "run", "state", "steps", "note"]
    plain = ["  ".join(cell for cell in (f"{row[0]:>5}", f"{row[1]:<32}", f"{row[2]:<8}", *row[3:])).rstrip() for row in rows]
    print_table("queue", columns, rows, plain=plain)
    print_status(summary(statuses, duration(left) if left else ""))


def _left(statuses: list[RunStatus], workers: int) -> float | None:
    from ...model.study.queue import seconds_left

    return seconds_left(statuses, workers)
