"""`samdiff.prepare` and `samdiff.train`: the two commands as functions with the same defaults."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import ConfigError

if TYPE_CHECKING:
    import torch

    from .model.config import RunConfig
    from .pipeline.images.sources import Source
    from .pipeline.masks.settings import MaskConfig
    from .pipeline.prepare.run import MaskSource, PrepareConfig
    from .pipeline.shards.reader import Store
    from .pipeline.storage.local import Location

log = logging.getLogger(__name__)


def prepare(
    source: Source,
    out: Location | None = None,
    *,
    sam: str | None = None,
    masks: MaskSource | Path | str | None = None,
    masks_from: Literal["hr", "lr"] = "hr",
    weights: Path | str | None = None,
    config: PrepareConfig | None = None,
    mask_config: MaskConfig | None = None,
    lr: Source | None = None,
    device: str | torch.device = "auto",
    threads: int = 1,
    workers: int | None = None,
    limit: int | None = None,
    strict: bool = False,
    reuse: Sequence[Location] = (),
    keep_embeddings: Path | str | None = None,
    **changes: Any,
) -> Store:
    """Make a store of training tiles from images, or resume an interrupted run: `samdiff prepare` as a function.

        store = samdiff.prepare("photos", "data/photos.zarr", sam="mobile_sam", scale=4, points_per_side=16)

    Args:
        source: a folder, an image, a zip or tar archive, a list of these, `samples`, or a data set that `samdiff download` lists.
        out: the store, a folder or a URL; None: `data/NAME.zarr` with the name of the source.
        sam: the segmenter: `vit_h`, `vit_l`, `vit_b` or `mobile_sam`; None: `vit_h` on CUDA, `mobile_sam` elsewhere.
        masks: instead of `sam`: your own segmenter (`describe()` and `generate_batch(images)`), or masks in files: a COCO
            file, or a folder with one JSON file or label map per image (`--import-masks`).
        masks_from: segment the HR images, or their bicubic LR images.
        weights: file with the weights of the segmenter; None: from the cache, else downloaded.
        config: scale, tile, stride, degradation, limits; None: the defaults.
        mask_config: parameters of the automatic mask generation; None: the defaults.
        lr: existing LR images, matched by name; None: LR is made from HR.
        device: of the segmenter: `auto`, `cpu`, `cuda`, `cuda:N` or a torch device.
        threads: CPU threads of the segmenter. Another number may change the last bits of the codes.
        workers: number of local processes that make masks; None: this process makes them.
        limit: use only the first `limit` images.
        strict: stop at the first image that cannot be used; otherwise each is skipped, logged as a warning and listed in `store.skipped()`.
        reuse: finished stores; masks of images with equal pixels and an equal segmenter are taken from them, so that only other images
            are segmented.
        keep_embeddings: a folder: embeddings of images in it are used, others are added (`--keep-embeddings`).
        changes: fields of `config`, its `pixels` and `mask_config`, such as `scale=2, range="0,10000", points_per_side=16`.

    Returns:
        The finished store, opened.

    Raises:
        ConfigError: unknown, invalid or incompatible settings.
        ImageError: no image can be used, or, with `strict`, one image cannot.
        StoreError: `out` holds something else, or a store with other settings, or cannot be written.
        WeightsError: the weights of the segmenter are missing and cannot be downloaded.
        BusyError: another process is writing the store.
    """
    from .pipeline.download.datasets import FOLDER, load_registry, source_of
    from .pipeline.embeddings.folder import embedding_root
    from .pipeline.mask_files.imported import ImportedMasks
    from .pipeline.masks.settings import MaskConfig
    from .pipeline.prepare.mask_stage import images_per_task, make_generator
    from .pipeline.prepare.run import PrepareConfig
    from .pipeline.prepare.run import prepare as run
    from .pipeline.shards.reader import open_store
    from .runtime import compute_threads, pick_device, user_path

    where = pick_device(device)
    config, mask_config = _with_changes(config or PrepareConfig(), mask_config or MaskConfig(), changes)
    if lr is not None and config.degradation == "bicubic":
        config = replace(config, degradation="given")
    given = sam or weights or masks_from == "lr" or keep_embeddings is not None or mask_config != MaskConfig()
    if masks is not None and given:
        raise ConfigError(
            "masks: cannot be combined with sam, weights, masks_from, keep_embeddings or settings of the mask generation"
        )
    if masks_from == "lr" and config.degradation != "bicubic":
        raise ConfigError(
            f"masks_from='lr' segments the bicubic LR image, so it cannot be combined with degradation {config.degradation!r}"
        )
    if out is None:
        out = _default_store(source)
    registry = load_registry()
    images = source_of(source, registry, FOLDER) if isinstance(source, str) else source
    small = source_of(lr, registry, FOLDER) if isinstance(lr, str) else lr
    make: Callable[[], MaskSource]
    if masks is None:
        name = sam or ("vit_h" if where.type == "cuda" else "mobile_sam")
        lr_scale = config.scale if masks_from == "lr" else None
        parameters = {field.name: getattr(mask_config, field.name) for field in fields(mask_config)}
        kept = None if keep_embeddings is None else embedding_root(keep_embeddings)
        make = partial(make_generator, name, str(where), lr_scale=lr_scale, weights=weights, keep_embeddings=kept, **parameters)
    elif isinstance(masks, str | Path):
        make = partial(ImportedMasks, user_path(masks, "masks").resolve(), config.scale)
    else:
        make = partial(_itself, masks)
    with ExitStack() as stack:
        stack.enter_context(compute_threads(threads))
        generator, stage = make(), None
        if workers is not None:
            from .pipeline.workers.dask_cluster import DaskWorkers

            facts, group = generator.describe(), images_per_task(generator)
            stage = stack.enter_context(DaskWorkers(make, facts, workers=workers, threads=threads, group=group))
        run(images, out, generator, settings=config, lr=small, limit=limit, strict=strict, mask_stage=stage, reuse=reuse)
    return open_store(out)


def train(
    stores: Store | Path | str | Sequence[Store | Path | str],
    out: Path | str | None = None,
    *,
    preset: str | None = None,
    steps: int | None = None,
    rrdb_steps: int | None = None,
    settings: Mapping[str, object] | None = None,
    config: RunConfig | Path | str | None = None,
    rrdb: Path | str | None = None,
    init_from: Path | str | None = None,
    benchmarks: Sequence[Path | str] = (),
    device: str | torch.device = "auto",
    check_shards: bool = True,
    report: Callable[[str], None] = log.info,
) -> Path:
    """Train a model on stores, or resume a run: `samdiff train` as a function.

        model = samdiff.train("data/photos.zarr", "runs/photos", preset="tiny", steps=2000, settings={"train.lr": 4e-4})

    Args:
        stores: one or several stores, or their paths or URLs; all of one scale.
        out: the run's folder; None: `runs/STORE-PRESET`.
        preset: `tiny`, `small` or `paper`: network sizes and training steps; None: that of `config`, else of `init_from` together with its
            networks, process and loss, else `paper`.
        steps: training steps of stage two, the diffusion model; None: those of the preset.
        rrdb_steps: training steps of stage one, the RRDB; None: those of the preset.
        settings: settings that override the preset, such as `{"train.lr": 1e-4, "diffusion.modulation": "none"}`.
        config: a TOML file, which overrides the preset and is overridden by `settings`; or a RunConfig with all settings.
        rrdb: checkpoint whose RRDB replaces stage one.
        init_from: model to fine-tune: a file, a run, or `shipped`; None: random weights.
        benchmarks: folders of images for validation.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or a torch device.
        check_shards: compare each shard with its recorded SHA-256 when it is first read.
        report: called with each status line.

    Returns:
        `out/model.safetensors`, for `samdiff.load_model`.

    Raises:
        ConfigError: unknown or invalid settings, or the folder holds a run with other settings.
        StoreError: a store cannot be read.
        BusyError: another process is training into the folder.
        CheckpointError: `rrdb` or `init_from` does not fit, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state is saved, and the same call resumes.
    """
    from .model.checkpoints.format import config_in, load_checkpoint
    from .model.config import RunConfig, load_config, taken_from
    from .model.training.distributed import join
    from .model.training.run import train as run
    from .model.training.validation import read_benchmark
    from .pipeline.shards.reader import Store
    from .pipeline.stream.dataset import open_to_stream
    from .runtime import pick_device, user_path
    from .settings import read_toml_file

    several = stores if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]
    if not several:
        raise ConfigError("stores: expected at least one store, got none")
    opened = [store if isinstance(store, Store) else open_to_stream(store, check_shards=check_shards) for store in several]
    changes = {
        **(settings or {}),
        **{f"train.{k}": v for k, v in (("steps", steps), ("rrdb_steps", rrdb_steps)) if v is not None},
    }
    if rrdb is not None and "train.rrdb_steps" in changes:
        raise ConfigError("rrdb: replaces stage one, so rrdb_steps has no effect; leave one out")
    if isinstance(config, RunConfig):
        if changes:
            raise ConfigError(f"config: a RunConfig holds all settings, so set {sorted(changes)[0]} in it")
        resolved = config
    else:
        file = {} if config is None else read_toml_file(user_path(config, "config"))
        sets = [_as_set(name, value) for name, value in changes.items()]
        tuned = None
        if init_from is not None and not (preset or file.get("preset")):
            tuned = config_in(load_checkpoint(user_path(init_from, "init_from")), str(init_from))
        resolved = load_config(
            preset,
            file,
            sets,
            scale=opened[0].scale,
            bands=opened[0].samples.count,
            rgb8=opened[0].samples.is_rgb8,
            model=tuned,
        )
        if tuned is not None:
            report(f"as in {init_from}: preset {resolved.preset}, {taken_from(tuned, resolved)}")
    name = str(opened[0].place).rstrip("/").split("/")[-1].removesuffix(".zarr")
    folder = Path("runs") / f"{name}-{resolved.preset}" if out is None else user_path(out, "out")
    scored = [read_benchmark(user_path(path, "benchmarks"), resolved.scale) for path in benchmarks]
    with join(pick_device(device)) as ranks:
        return run(
            opened,
            folder,
            resolved,
            device=ranks.device,
            rrdb=None if rrdb is None else user_path(rrdb, "rrdb"),
            start=None if init_from is None else user_path(init_from, "init_from"),
            report=report,
            benchmarks=scored,
            ranks=ranks,
        )


def _with_changes(config: PrepareConfig, masks: MaskConfig, changes: Mapping[str, Any]) -> tuple[PrepareConfig, MaskConfig]:
    """Both configurations with fields changed. ConfigError for an unknown field."""
    from .errors import nearest

    ours, theirs, samples = ([field.name for field in fields(each)] for each in (config, masks, config.pixels))
    known = [*ours, *theirs, *samples]
    for name in changes:
        if name not in known:
            raise ConfigError(f"prepare: unknown setting {name}{nearest(name, known)}; known: {', '.join(known)}")
    pixels = replace(config.pixels, **{name: value for name, value in changes.items() if name in samples})
    config = replace(config, pixels=pixels)
    config = replace(config, **{name: value for name, value in changes.items() if name in ours})
    return config, replace(masks, **{name: value for name, value in changes.items() if name in theirs})


def _as_set(name: str, value: object) -> str:
    """A setting in the form of `--set`. Numbers, strings, lists and booleans of JSON are valid TOML."""
    if isinstance(value, Path):
        value = str(value)
    try:
        return f"{name}={json.dumps(value)}"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: expected a number, a string, a list or a boolean, got {type(value).__name__}") from error


def _default_store(source: Source) -> str:
    if not isinstance(source, str | Path):
        raise ConfigError("out: needed with several sources; give a folder such as data/NAME.zarr")
    return f"data/{Path(source).resolve().name.split('.')[0]}.zarr"


def _itself(masks: MaskSource) -> MaskSource:
    return masks
