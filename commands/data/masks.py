"""`samdiff masks`: what the segmenter sees in one image, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from ...pipeline.masks.settings import MaskConfig, SegmenterConfig
from ...settings import section
from ..common import COMMON, Device, Threads, print_status, required
from ..options import Chosen, configured


@dataclass(frozen=True)
class MasksSettings:
    """All settings of `samdiff masks`."""

    segmenter: SegmenterConfig = section(SegmenterConfig, panel="Masks")
    masks: MaskConfig = section(MaskConfig, panel="Masks")


@configured(MasksSettings)
def masks(
    chosen: Chosen[MasksSettings],
    image: Annotated[Path | None, typer.Argument(help="An image.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", rich_help_panel=COMMON, show_default="NAME_masks.png in this folder", help="The drawing's file."
        ),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--json", rich_help_panel=COMMON, help="Also write the records, in amg.py's format (COCO RLE), to this file."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(rich_help_panel=COMMON, help="Replace files that exist.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Draw the masks of an image.

    The masks in colour, beside the structure map E_SAM that training sees.
    """
    settings = chosen.config()
    required("masks", IMAGE=image)
    assert image is not None
    import json
    import time

    import numpy as np

    from ...model.inference.image_io import FORMATS, save_image
    from ...model.sheets.contact_sheet import contact_sheet
    from ...model.sheets.overlay import mask_overlay, structure_panel
    from ...pipeline.encode.structure import encode_structure
    from ...pipeline.images.decode import read_rgb
    from ...pipeline.images.sources import list_source
    from ...pipeline.masks.generator import MaskGenerator
    from ...pipeline.storage.outputs import claim_outputs, write_output
    from ...runtime import pick_device, setup_process

    if image.is_dir():
        raise ConfigError(f"{image}: expected one image, got a folder; `samdiff prepare` takes folders")
    target = out or Path(f"{image.stem}_masks.png")
    if target.suffix.lower() not in FORMATS:  # reported before the work, not after it
        raise ConfigError(f"--out {target}: expected a file ending in {', '.join(FORMATS)}")
    image_file = list_source(image)[0]
    segmenter, mode = settings.segmenter, settings.masks.mode
    outputs = [("--out", target), *([("--json", records)] if records is not None else [])]
    inputs: list[str | Path] = [image, image_file.path, *([segmenter.sam_weights] if segmenter.sam_weights is not None else [])]
    claim_outputs(outputs, inputs, overwrite)
    setup_process(threads)
    where = pick_device(device)
    decoded = read_rgb(image_file)
    pixels = decoded.pixels
    for note in decoded.notes:
        print_status(f"{image_file.name}: {note}")
    generator = MaskGenerator(
        segmenter.sam or ("vit_h" if where.type == "cuda" else "mobile_sam"),
        device=where,
        weights=segmenter.sam_weights,
        source=segmenter.weights_source,
        settings=settings.masks,
    )
    start = time.perf_counter()
    table = generator.masks(pixels)
    seconds = time.perf_counter() - start
    structure = encode_structure(table.counts, table.height, table.width)
    covered = float((structure.labels > 0).mean())
    e_sam = structure.e_sam()
    name = generator.describe()["name"]
    panels = [
        (f"{image.name}\n{table.width} x {table.height}", pixels),
        (
            f"{len(table)} masks over {covered:.0%} of the image\n{name}, {mode}, {seconds:.1f} s",
            mask_overlay(structure.labels, pixels),
        ),
        (
            f"E_SAM, {e_sam.min():.2f} to {e_sam.max():.2f}\nmean of x_RoPE over each mask",
            structure_panel(e_sam, structure.labels),
        ),
    ]
    save_image(contact_sheet(panels, columns=3, width=640), target, overwrite=overwrite)
    if records is not None:
        write_output(records, json.dumps(table.records()).encode(), overwrite)
    sizes = f", {int(np.median(table.area))} pixels in the median" if len(table) else ": an image without structure has none"
    print_status(f"{target}: {len(table)} masks{sizes}, {covered:.0%} covered, {seconds:.1f} s ({name}, {mode}, {where})")
