"""`samdiff prepare`: makes a store from images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import ConfigError
from ...pipeline.masks.settings import MaskConfig, MaskSourceConfig
from ...pipeline.prepare.settings import PrepareConfig
from ...settings import section
from ..common import COMMON, RUN, Device, default_store, finish, print_result, print_status
from ..document import Document, with_json
from ..options import Chosen, configured, renamed
from .confirm import confirm_download, confirm_weights
from .fetch import DOWNLOADS, Downloads, Mirror, Registry

if TYPE_CHECKING:
    from ...pipeline.prepare.run import Report


@dataclass(frozen=True)
class PrepareSettings:
    """All settings of `samdiff prepare`."""

    prepare: PrepareConfig = section(PrepareConfig, panel="Tiles")
    segmenter: MaskSourceConfig = section(MaskSourceConfig, panel="Masks")
    masks: MaskConfig = section(MaskConfig, panel="Masks")


_MOST_NOTES = 5  # lines about what reading changed
DEFAULT_SOURCE = "div2k"
"""What `samdiff prepare` takes where no source is given."""


@renamed("--lr")
@configured(PrepareSettings)
@with_json
def prepare(
    chosen: Chosen[PrepareSettings],
    document: Document,
    source: Annotated[
        str | None,
        typer.Argument(
            show_default=f"{DEFAULT_SOURCE}, after a question",
            help="A folder, an image, a zip or tar archive, samples, or a data set of samdiff download (div2k, df2k, flickr2k, …).",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            rich_help_panel=COMMON,
            show_default="data/SOURCE.zarr",
            help="The store: a folder or a URL (s3://…).",
        ),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(
            "--lr-dir",
            "--lr",
            rich_help_panel="Degradation",
            help="Folder, archive or data set of existing LR images: NAME.png, NAMEx4.png and similar names.",
        ),
    ] = None,
    reuse: Annotated[
        list[str] | None,
        typer.Option(
            "--reuse",
            metavar="STORE",
            rich_help_panel="Masks",
            help="Take masks from this finished store for images with equal pixels; its segmenter must be the requested one; may be repeated.",
        ),
    ] = None,
    downloads: Downloads = DOWNLOADS,
    mirror: Mirror = None,
    registry: Registry = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", rich_help_panel=COMMON, help="Download the default source and large weights without asking."),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, rich_help_panel=COMMON, help="Use only the first N images.")] = None,
    strict: Annotated[
        bool, typer.Option(rich_help_panel=RUN, help="Stop at the first image that cannot be used, instead of skipping it.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            rich_help_panel=COMMON,
            help="Only report what each stage reads and writes, and which images are done, stale or missing.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=RUN, help="Make masks in N local processes, each with its own segmenter."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=RUN,
            help="Make masks on a running Dask cluster: the address of its scheduler (docs/cluster.md).",
        ),
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            rich_help_panel=RUN,
            help="CPU threads of each segmenter. Another number may change the last bits of E_SAM.",
        ),
    ] = 1,
) -> None:
    """Make a store of training tiles from images.

    Segments each image, encodes its masks, and cuts tiles of HR, LR and masks. The same command resumes an interrupted run.
    """
    config = chosen.config({"prepare": {"degradation": "given"}} if lr is not None else None)
    settings, segmenter = config.prepare, config.segmenter
    import_masks = segmenter.import_masks
    from ...pipeline.download.datasets import archives_of, load_registry, missing_archives, source_of
    from ...pipeline.embeddings.file_format import file_bytes
    from ...pipeline.embeddings.folder import embedding_root
    from ...pipeline.mask_files.imported import ImportedMasks
    from ...pipeline.prepare.estimate import embeddings_line
    from ...pipeline.prepare.info import plan_lines
    from ...pipeline.prepare.mask_stage import images_per_task, make_generator, plan_generator
    from ...pipeline.prepare.reuse import plan_reuse
    from ...pipeline.prepare.run import MaskSource, plan_prepare
    from ...pipeline.prepare.run import prepare as run
    from ...pipeline.prepare.scan import samples_of, scan
    from ...pipeline.prepare.targets import check_target
    from ...pipeline.sam.names import family_of
    from ...runtime import pick_device, setup_process

    known = load_registry(registry)
    setup_process(threads)
    kind = pick_device(device).type
    name = segmenter.sam or ("vit_h" if kind == "cuda" else "mobile_sam")
    _check_combinations(config, lr, reuse)
    if workers is not None and dask is not None:
        raise ConfigError("--workers starts local processes, --dask uses a running cluster; leave one of them out")
    if workers is not None or dask is not None:
        from ...pipeline.workers.dask_cluster import DaskWorkers  # before weights are downloaded: its packages may be missing
    if not dry_run:  # after all errors that can be known
        if source is None:
            confirm_download(DEFAULT_SOURCE, archives_of(DEFAULT_SOURCE, known), downloads, yes=yes)
        if import_masks is None:
            confirm_weights(name, file=segmenter.sam_weights, source=segmenter.weights_source, yes=yes)
    source = DEFAULT_SOURCE if source is None else source
    if segmenter.sam is None and import_masks is None:
        print_status(f"--sam {name} (the default on {kind})")
    target = default_store(source) if out is None else out
    if dry_run and (absent := missing_archives((source, lr), known, downloads)):
        print_result(target, f"download missing: {', '.join(map(str, absent))}; the other stages are unknown until then")
        return
    images = source_of(source, known, downloads, mirrors=mirror or ())
    lr_images = None if lr is None else source_of(lr, known, downloads, mirrors=mirror or ())
    lr_scale = settings.scale if segmenter.masks_from == "lr" else None
    kept = None if segmenter.keep_embeddings is None else embedding_root(segmenter.keep_embeddings)
    more: dict[str, Any] = {"weights": segmenter.sam_weights, "source": segmenter.weights_source, "settings": config.masks}
    more["keep_embeddings"] = kept
    make: Callable[[], MaskSource]
    if import_masks is not None:
        make = partial(ImportedMasks, import_masks.resolve(), settings.scale)
    else:
        make = partial(make_generator, name, device, lr_scale=lr_scale, **more)
    if dry_run:
        by_name, reads = import_masks is not None, f"imported masks (here: {import_masks})"
        if import_masks is not None:
            facts = make().describe()
        else:
            facts, where = plan_generator(name, device, lr_scale=lr_scale, **more)
            reads = f"weights of {name} ({where})"
        check_target(target, sources=(images, lr_images), masks=import_masks, embeddings=kept)
        scanned = scan(
            images,
            limit,
            lr=lr_images,
            by_name=by_name,
            scale=settings.scale,
            limits=settings.limits,
            slice_axis=settings.pixels.slice_axis,
        )
        samples = samples_of(scanned, settings.pixels, settings.limits)
        settings.check_samples(samples)
        attributes = settings.as_attributes(facts, samples)
        plan, reusable = plan_prepare(scanned, target, attributes), plan_reuse(reuse or (), attributes, scanned)
        if kept is not None:
            each = file_bytes(family_of(name)) * config.masks.crops_per_image
            reusable.append(embeddings_line(kept, most_bytes=len(plan.missing) * each, images=len(plan.missing)))
        print_result(target, *plan_lines(plan, reads), *reusable)
        document.content.update(store=target, dry_run=True, images=len(plan.images), missing=len(plan.missing))
        document.content.update(complete=plan.committed is not None, changed=plan.changed)
        return
    generator = make()
    with ExitStack() as stack:
        mask_stage = None
        if workers is not None or dask is not None:
            group = images_per_task(generator)
            dask_workers = DaskWorkers(
                make, generator.describe(), address=dask, workers=workers or 1, threads=threads, group=group
            )
            mask_stage = stack.enter_context(dask_workers)
        report = run(
            images,
            target,
            generator,
            settings=settings,
            lr=lr_images,
            limit=limit,
            strict=strict,
            mask_stage=mask_stage,
            reuse=reuse or (),
            report=print_status,
        )
    _describe(document, report)
    reused = f", masks of {sum(report.reused.values())} reused" if report.reused else ""
    done = (
        "is already complete: nothing to do"
        if report.already_complete
        else f"written, {report.segmented} images segmented{reused}"
    )
    print_status(f"{target} {done}: {report.images - len(report.skipped)} images, {report.tiles} tiles, {report.masks} masks")
    for note, count in list(report.notes.items())[:_MOST_NOTES]:
        print_status(f"note on {count} image{'s' * (count != 1)}: {note}")
    reported = {} if report.already_complete else report.skipped  # already reported as warnings
    finish(report.skipped, reported if logging.getLogger().isEnabledFor(logging.WARNING) else {})


def _describe(document: Document, report: Report) -> None:
    """What `--json` reports of a store."""
    document.content.update(
        store=str(report.out),
        complete=report.already_complete,
        images=report.images,
        tiles=report.tiles,
        masks=report.masks,
        segmented=report.segmented,
        reused=report.reused,
        estimate=None if report.estimate is None else asdict(report.estimate),
        skipped=report.skipped,
        notes=report.notes,
    )


def _check_combinations(config: PrepareSettings, lr: str | None, reuse: list[str] | None) -> None:
    """ConfigError for settings that exclude each other."""
    segmenter, degradation = config.segmenter, config.prepare.degradation
    if segmenter.import_masks is not None and reuse:
        raise ConfigError("--import-masks takes masks of files, --reuse those of a segmenter; leave one of them out")
    if segmenter.masks_from == "lr" and degradation != "bicubic":
        raise ConfigError("--masks-from lr segments the bicubic LR image, so it needs --degradation bicubic")
    if segmenter.import_masks is not None and (segmenter.sam or segmenter.sam_weights or segmenter.masks_from == "lr"):
        raise ConfigError("--import-masks cannot be combined with --sam, --sam-weights or --masks-from lr")
    if segmenter.import_masks is not None and segmenter.keep_embeddings is not None:
        raise ConfigError(
            "--keep-embeddings keeps what the segmenter computes; --import-masks runs none; leave one of them out"
        )
    if lr is not None and degradation != "given":
        raise ConfigError(f"--lr-dir gives the LR images, so --degradation {degradation} has no effect; leave one of them out")
    if lr is None and degradation == "given":
        raise ConfigError("--degradation given: needs LR images; give --lr-dir")
