"""Writes a report: reads its subjects, draws their images, writes the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, SamdiffError, printable
from ..pipeline.prepare.targets import inside_a_store
from ..pipeline.storage.outputs import NOTHING, claim_outputs, look, write_output
from ..pipeline.storage.regular import open_regular
from ..progress import progress
from .config import ReportConfig
from .evaluations import read_evaluation
from .files import ImageFiles, claim_folder
from .page import MARK, load_packages, render
from .parts import Part
from .recognise import RUN, STORE, Subject, recognise
from .runs import read_run
from .stores import open_for_report, read_store

_HEAD = 4096  # bytes; the mark is among the first elements


@dataclass(frozen=True)
class Written:
    """A written report."""

    page: Path
    page_bytes: int
    folder: Path | None
    """Of its images; None: they are in the page."""
    image_bytes: int
    skipped: dict[str, str]
    """Subject -> reason, if there were several and some could not be read."""


def write_report(given: Sequence[str], config: ReportConfig) -> Written:
    """Write the page of some stores, runs and evaluations.

    One of several subjects that cannot be read is left out, with its reason in the result.

    Raises:
        ConfigError: an argument is neither a store nor a run nor an evaluation, or an output exists.
        MissingPackageError: jinja2 or plotly is not installed.
        SamdiffError: the only subject, or all, cannot be read.
    """
    load_packages()  # an error before any work
    subjects, skipped = _recognised(given)
    claim(config, subjects)
    files = ImageFiles(config.folder, inline_bytes=int(config.inline_mb * 1e6))
    parts: list[Part] = []
    for subject in subjects:
        bar = progress(desc=f"{subject.kind} {printable(subject.place)}", total=config.images, unit="image")
        try:
            parts.append(read_part(subject, config, files=files, advance=bar.update))
        except SamdiffError as error:
            if len(given) == 1:
                raise
            skipped[subject.place] = _reason(subject.place, error)
        finally:
            bar.close()
    if not parts:
        raise SamdiffError(f"report: none of the arguments can be shown; the first: {_first(skipped)}")
    title = ", ".join(part.title.rstrip("/").rpartition("/")[2] for part in parts)
    page = render(parts, title=title, inline=files.urls(), folder=config.folder.name if files.in_folder else "").encode()
    write_output(config.out, page, config.overwrite)
    files.remove_old()
    folder = config.folder if files.in_folder else None
    return Written(page=config.out, page_bytes=len(page), folder=folder, image_bytes=files.size, skipped=skipped)


def claim(config: ReportConfig, subjects: Sequence[Subject]) -> None:
    """Check before any work that the page and its folder may be written.

    Raises:
        ConfigError: they may not; the message says why.
    """
    page_exists = look(config.out).kind != NOTHING
    claim_outputs([("--out", config.out)], [file for subject in subjects for file in subject.files()], config.overwrite)
    if store := inside_a_store(config.out):
        raise ConfigError(
            f"{printable(config.out)}: lies in the store {printable(store)}, where nothing else may lie; give another --out"
        )
    claim_folder(config.folder, page_exists=page_exists, overwrite=config.overwrite)


def read_part(subject: Subject, config: ReportConfig, *, files: ImageFiles, advance: Callable[[], object]) -> Part:
    """A subject as a part of the page; its images go to `files`.

    Raises:
        SamdiffError: it cannot be read.
    """
    if subject.kind == STORE:
        store = open_for_report(subject.place)
        return read_store(store, files, images=config.images, side=config.side, advance=advance)
    folder = Path(subject.place)
    if subject.kind == RUN:
        return read_run(folder, files, images=config.images, side=config.side, advance=advance)
    return read_evaluation(folder, files, images=config.images, side=config.result_side, advance=advance)


def is_report(file: Path) -> bool:
    """Whether a file is a page that samdiff wrote."""
    try:
        with open_regular(file) as page:
            return MARK.encode() in page.read(_HEAD)
    except OSError:
        return False


def _reason(place: str, error: SamdiffError) -> str:
    """An error without the name of its argument, which is printed before it."""
    return str(error).removeprefix("report: ").removeprefix(f"{printable(place)}: ")


def _first(skipped: Mapping[str, str]) -> str:
    return next((f"{printable(place)}: {reason}" for place, reason in skipped.items()), "none was given")


def _recognised(given: Sequence[str]) -> tuple[list[Subject], dict[str, str]]:
    """The subjects, each once, and the reasons of those that are none, if there are several."""
    subjects: dict[Subject, None] = {}
    skipped: dict[str, str] = {}
    for each in given:
        try:
            subjects[recognise(each)] = None
        except ConfigError as error:
            if len(given) == 1:
                raise
            skipped[each] = _reason(each, error)
    if not subjects:
        raise ConfigError(f"report: none of the arguments can be shown; the first: {_first(skipped)}")
    return list(subjects), skipped
