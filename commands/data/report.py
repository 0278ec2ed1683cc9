"""`samdiff report`: stores, runs and evaluations as a page to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from ...report.config import ReportConfig
from ...settings import section
from ..common import finish, print_status, required
from ..document import Document, with_json
from ..options import Chosen, configured


@dataclass(frozen=True)
class ReportSettings:
    """All settings of `samdiff report`."""

    report: ReportConfig = section(ReportConfig, panel="Images")


@configured(ReportSettings)
@with_json
def report(
    chosen: Chosen[ReportSettings],
    document: Document,
    subjects: Annotated[
        list[str] | None,
        typer.Argument(metavar="STORE|RUN|EVALUATION", help="Stores (folders or URLs), run folders, and folders of evaluate."),
    ] = None,
) -> None:
    """Write a page to look at.

    Shows the masks and tiles of stores, the curves and validation images of runs, and the results of evaluations side by side. The page needs no network.
    """
    config = chosen.config().report
    required("report", **{"STORE, RUN or EVALUATION": subjects})
    assert subjects is not None
    from ...pipeline.prepare.info import bytes_text
    from ...report.write import write_report

    written = write_report(subjects, config)
    document.content.update(page=written.page, bytes=written.page_bytes, folder=written.folder, image_bytes=written.image_bytes)
    document.content["skipped"] = written.skipped
    beside = f"; images in {written.folder}, {bytes_text(written.image_bytes)}" if written.folder else ""
    print_status(f"{written.page}, {bytes_text(written.page_bytes)}{beside}")
    finish(written.skipped)
