"""`samdiff download` and `samdiff weights`: what comes from elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import printable
from ...pipeline.sam.names import SEGMENTERS, SOURCES
from ...runtime import user_path
from ..common import COMMON, RUN, print_result, print_status

if TYPE_CHECKING:
    from ...pipeline.download.datasets import DataSet


def mirrors(given: list[str] | None) -> list[str]:
    """What was given, else those of `SAMDIFF_MIRROR`: one, or several with a line or a blank before each `https://` or `file://`.

    A blank within a path is part of the path: the command line library would split there.
    """
    if given:
        return given
    parts = re.split(r"\n|\s+(?=[A-Za-z][A-Za-z0-9+.-]*://)", os.environ.get("SAMDIFF_MIRROR", ""))
    return [part.strip() for part in parts if part.strip()]


Mirror = Annotated[
    list[str] | None,
    typer.Option(
        callback=mirrors,
        rich_help_panel=RUN,
        help="Folder with files of the same names: https://, file:// or a path; tried first; may be repeated. [env var: SAMDIFF_MIRROR]",
    ),
]
Registry = Annotated[
    Path | None,
    typer.Option(envvar="SAMDIFF_REGISTRY", rich_help_panel=RUN, help="TOML file with more data sets, tables [data.NAME]."),
]


def _at_home(path: Path) -> Path:
    """`~/x` as a shell would have written it."""
    return user_path(path, "--downloads (SAMDIFF_DOWNLOADS)")


Downloads = Annotated[
    Path,
    typer.Option(envvar="SAMDIFF_DOWNLOADS", callback=_at_home, rich_help_panel=COMMON, help="Folder of downloaded archives."),
]
DOWNLOADS = Path("data") / "downloads"


def download(
    name: Annotated[
        str | None, typer.Argument(help="div2k, div2k-valid, div2k-lr-x4, flickr2k, df2k, …; none: list them.")
    ] = None,
    downloads: Downloads = DOWNLOADS,
    mirror: Mirror = None,
    registry: Registry = None,
    extract: Annotated[
        bool, typer.Option(help="Unpack the images too (not needed: prepare reads the archive in place).")
    ] = False,
) -> None:
    """Download a data set.

    Resumed, verified, its images counted. The same command resumes after an interruption.
    """
    from ...pipeline.download import datasets

    known = datasets.load_registry(registry)
    if name is None:
        print_result(*map(_line, known.values()))
        return
    paths = datasets.download_dataset(name, known, downloads, mirrors=mirror or ())
    for path, entry in zip(paths, datasets.archives_of(name, known), strict=True):
        print_status(
            f"{path}: {path.stat().st_size} bytes, {entry.images or 'some'} images; "
            f"licence: {printable(entry.licence)}; cite: {printable(entry.citation)}"
        )
        if extract:
            folder = path.with_suffix("")
            print_status(f"{folder}: {datasets.extract(path, folder, entry.images)} images unpacked")


def _line(entry: DataSet) -> str:
    size = f"{entry.bytes / 1e9:6.2f} GB" if entry.bytes else "   ?   GB"
    what = " + ".join(entry.sets) if entry.sets else size
    return printable(f"{entry.name:20s}{what:20s} {entry.about}")


def weights(
    name: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(SEGMENTERS[:-1])} or {SEGMENTERS[-1]}.",
            autocompletion=lambda incomplete: [each for each in SEGMENTERS if each.startswith(incomplete)],
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            metavar=f"[{'|'.join(SOURCES)}]",
            autocompletion=lambda incomplete: [name for name in SOURCES if name.startswith(incomplete)],
            help="Where the weights may come from.",
        ),
    ] = "auto",
) -> None:
    """Download the weights of a segmenter.

    Into the cache, verified; reports where they are and where they came from.
    """
    from ...pipeline.sam.weights import find_weights

    found = find_weights(name, source=source)
    facts = {"source": f"{found.source}: {found.origin}", "sha256": found.sha256, "bytes": found.bytes}
    print_result(str(found.path), *(f"  {name:7s} {fact}" for name, fact in facts.items()))
