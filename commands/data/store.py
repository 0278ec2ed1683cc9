"""`samdiff info`, `samdiff verify`, `samdiff export`: what can be asked of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import print_result, print_status


def info(store: Annotated[str, typer.Argument(help="A store that `samdiff prepare` wrote.")]) -> None:
    """What is in a store: counts, sizes, mask statistics, segmenter and settings."""
    from ...pipeline.prepare.info import store_lines
    from ...pipeline.shards.reader import open_store

    print_result(*store_lines(open_store(store)))


def verify(
    store: Annotated[str, typer.Argument(help="A store, a folder or a URL.")],
    deep: Annotated[bool, typer.Option(help="Also recompute codes, areas, boxes and labels from the masks.")] = False,
) -> None:
    """Every file against its digest, and the contents against each other; lists all problems, status 1 if there are any."""
    from ...pipeline.shards.verify import verify_store

    problems = verify_store(store, deep)
    for problem in problems:
        print_result(problem)
    if problems:
        print_result(f"{store}: {len(problems)} problems")
        raise typer.Exit(1)
    print_result(f"{store}: sound{', masks and codes recomputed' if deep else ''}")


def export(
    store: Annotated[str, typer.Argument(help="A store, a folder or a URL.")],
    target: Annotated[Path, typer.Argument(help="The HDF5 file or the folder to write.")],
    to: Annotated[str, typer.Option(help="hdf5: one file; folder: PNG pairs, E_SAM arrays, mask files, meta_info.txt.")],
) -> None:
    """A store for other programs."""
    from ...pipeline.export.export import export_folder, export_hdf5
    from ...pipeline.shards.reader import open_store

    kinds = {"hdf5": export_hdf5, "folder": export_folder}
    if to not in kinds:
        raise typer.BadParameter(f"expected {' or '.join(kinds)}, got {to!r}", param_hint="--to")
    kinds[to](open_store(store), target)
    print_status(f"{target} written")
