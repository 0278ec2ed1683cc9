"""`samdiff prepare` without a source downloads gigabytes: what it would take is reported, and the user asked, before it begins."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ...errors import ConfigError
from ..common import print_status

if TYPE_CHECKING:
    from ...pipeline.download.datasets import DataSet

_RATE = 10e6  # bytes per second of an ordinary connection, for the estimate


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
    size = sum(archive.bytes or 0 for archive in absent)
    free = shutil.disk_usage(next(folder for folder in (downloads, *downloads.absolute().parents) if folder.exists())).free
    what = (
        f"no source was given: {name} would be downloaded, {size / 1e9:.1f} GB to {downloads} ({free / 1e9:.0f} GB free), "
        f"about {size / _RATE / 60:.0f} min at 10 MB/s; the store and its masks take hours on a CPU"
    )
    if yes:
        print_status(what)
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{what}; give a folder of images, `samdiff prepare {name}`, or --yes")
    typer.confirm(f"{what}. Continue?", abort=True, err=True)
