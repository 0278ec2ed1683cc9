"""`samdiff info`, `samdiff verify`, `samdiff export`: what can be asked of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from ..common import COMMON, MoreStores, Stores, print_status, required
from ..document import Document, print_table, with_json_lines

_KINDS = ("hdf5", "folder", "masks", "npz")


@with_json_lines("store", items="stores")
def info(document: Document, stores: Stores = None, more_stores: MoreStores = None) -> None:
    """Show what is in a store.

    Prints counts, sizes, mask statistics, segmenter and settings.
    """
    places = [*(stores or []), *(more_stores or [])]
    required("info", STORE=places)
    from ...pipeline.prepare.info import (
        size_rows,
        skipped_rows,
        store_facts,
        store_lines,
        store_rows,
        store_title,
        structure_line,
    )
    from ...pipeline.shards.reader import open_store

    if document.requested:
        facts = []
        for place in places:
            facts.append(store_facts(open_store(place)))
            document.emit(facts[-1])
        document.content["stores"] = facts
        return
    for place in places:
        store = open_store(place)
        rows = [*store_rows(store), ("on disk", ""), *((f"  {name}", text) for name, text in size_rows(store))]
        rows += [("  structure", structure_line(store)), *skipped_rows(store)]
        print_table(store_title(store), (), rows, plain=store_lines(store))


@with_json_lines("store", items="stores")
def verify(
    document: Document,
    stores: Stores = None,
    more_stores: MoreStores = None,
    deep: Annotated[bool, typer.Option(help="Also recompute E_SAM, areas, boxes and labels from the masks.")] = False,
) -> None:
    """Check a store against its digests.

    Compares every file with its digest and checks that the contents are consistent. Lists all problems; the exit status is 1 if there are any.
    """
    places = [*(stores or []), *(more_stores or [])]
    required("verify", STORE=places)
    from ...pipeline.shards.verify import verify_store

    damaged, reports = 0, []
    for place in places:
        problems = verify_store(place, deep)
        end = f"{len(problems)} problems" if problems else f"sound{', masks and codes recomputed' if deep else ''}"
        reports.append({"store": place, "sound": not problems, "deep": deep, "problems": problems})
        document.emit(reports[-1])
        damaged += bool(problems)
        if not document.requested:
            rows = [problem.partition(": ")[::2] for problem in problems]
            print_table(f"{place}: {end}", ("file", "problem"), rows, plain=[*problems, f"{place}: {end}"])
    document.content["stores"] = reports
    if damaged:
        raise typer.Exit(1)


def export(
    store: Annotated[str, typer.Argument(help="A store, a folder or a URL.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="The HDF5 file or the folder to write, as -o.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", rich_help_panel=COMMON, help="The HDF5 file or the folder to write.")
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            rich_help_panel=COMMON,
            metavar=f"[{'|'.join(_KINDS)}]",
            autocompletion=lambda incomplete: [kind for kind in _KINDS if kind.startswith(incomplete)],
            help="hdf5: one file; folder: PNG pairs, E_SAM arrays, mask files, meta_info.txt; masks: COCO RLE as JSON, without pixels; npz: label maps, without pixels.",
        ),
    ] = "",
) -> None:
    """Write a store for other programs."""
    from ...pipeline.export.export import export_folder, export_hdf5
    from ...pipeline.export.mask_export import export_labels, export_masks
    from ...pipeline.shards.reader import open_store

    kinds = dict(zip(_KINDS, (export_hdf5, export_folder, export_masks, export_labels), strict=True))
    if to not in kinds:
        raise typer.BadParameter(f"expected {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, got {to or 'none'!r}", param_hint="--to")
    if (target is None) == (out is None):
        raise ConfigError("export: expected one place to write to; give it with --out")
    place = target if out is None else out
    assert place is not None
    kinds[to](open_store(store), place)
    print_status(f"{place} written")
