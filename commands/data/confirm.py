"""Large downloads that the user did not name: what would be downloaded is reported, and the user asked, before it begins."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ...errors import ConfigError
from ..common import print_error

if TYPE_CHECKING:
    from ...pipeline.download.datasets import DataSet

_RATE = 10e6  # bytes per second of an ordinary connection, for the estimate
LARGE = 1e9
"""Weights with more bytes than this are not downloaded without a question."""
_UNPUBLISHED = {"vit_l": 1.25e9}
"""Sizes that the registry lacks, about: parameters in float32."""


def confirm_download(name: str, archives: Sequence[DataSet], downloads: Path, *, yes: bool) -> None:
    """Ask whether a data set that the user did not name may be downloaded; what is there already is not counted.

    Args:
        name: of the data set.
        archives: its archives.
        downloads: where they go.
        yes: the answer, given by `--yes`.

    Raises:
        ConfigError: no terminal to ask on.
        typer.Abort: the user said no.
    """
    absent = [archive for archive in archives if not (downloads / archive.file).exists()]
    if not absent:
        return
    size: float = sum(archive.bytes or 0 for archive in absent)
    _ask(
        f"no source was given: {name} would be downloaded, {_cost(size, downloads)}; the store and its masks take hours on a CPU",
        instead=f"give a folder of images, `samdiff prepare {name}`, or --yes",
        yes=yes,
    )


def confirm_weights(name: str, *, file: Path | None, source: str, yes: bool) -> None:
    """Ask on a terminal whether weights of more than 1 GB may be downloaded; elsewhere, as in a batch job, report it and continue.

    Nothing is asked or reported for weights that are in the cache, or smaller.

    Args:
        name: of the segmenter.
        file: `--sam-weights`.
        source: `--weights-source`.
        yes: the answer, given by `--yes`.

    Raises:
        WeightsError: there is no file of that name.
        typer.Abort: the user said no.
    """
    from ...pipeline.sam.names import SEGMENTERS
    from ...pipeline.sam.weights import download_bytes
    from ...runtime import cache_dir

    if name not in SEGMENTERS:  # of Hugging Face's hub, whose client reports its downloads, or a class
        return
    published = download_bytes(name, file=file, source=source)
    size = _UNPUBLISHED.get(name, 0.0) if published is None else float(published)
    if size > LARGE:
        _ask(
            f"--sam {name}: its weights would be downloaded, {_cost(size, cache_dir())}",
            yes=yes or not _on_terminal(),
        )


def _cost(size: float, folder: Path) -> str:
    """Size, place and time of a download."""
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    return f"{size / 1e9:.1f} GB to {folder} ({free / 1e9:.0f} GB free), about {size / _RATE / 60:.0f} min at 10 MB/s"


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()  # None: pythonw and some launchers


def _ask(what: str, *, instead: str = "give --yes", yes: bool) -> None:
    """The question, or its answer by `--yes`; the line is printed to stderr even with `-q`, like a warning: it is about gigabytes."""
    if yes:
        print_error(what)
        return
    if not _on_terminal():
        raise ConfigError(f"{what}; {instead}")
    typer.confirm(f"{what}. Continue?", abort=True, err=True)
