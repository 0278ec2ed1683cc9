"""The offline stages in order: images -> masks and codes -> shards.

`prepare` may be killed at any time and run again. The masks of each finished image are kept in the staging folder. The store is written
from them in the order of the source, and it is valid only once its root document is written, which is last.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Protocol

import numpy as np

from ...errors import BusyError, ConfigError, ImageError, StoreError
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask
from ..images.sources import Source
from ..shards.reader import Store, open_store
from ..shards.schema import BANDS_VERSION, FORMAT_VERSION, Document
from ..shards.writer import ROOT_KEY, canonical, digest
from ..storage.local import KeyStore, Location, key_store_at
from .estimate import Estimate, Forecast, embeddings_line
from .info import note_counts
from .mask_stage import MaskStage, kept_embeddings, local_masks, save_masks, warn_unmatched
from .reuse import check_donors, open_reused, reuse_masks
from .scan import SourceImage, read_usable, samples_of, scan
from .settings import UNCOMPARED as UNCOMPARED
from .settings import PrepareConfig as PrepareConfig
from .staging import Staging, differences
from .targets import check_target
from .tile_stage import Grid, summarise, write_store

log = logging.getLogger(__name__)


class MaskSource(Protocol):
    """The interface of a segmenter for `prepare`; `MaskGenerator` has it."""

    def describe(self) -> Document:
        """Everything that determines the masks, as JSON values: name, hash of the weights, every parameter.

        `versions` and `uncompared` hold what does not determine them: it is recorded in the store, but not compared by a rerun.
        """

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable | list[CocoMask]]:
        """Masks of uint8 RGB images [H, W, 3], in order: for each a `MaskTable`, or segment-anything's records with COCO RLE.

        A source whose masks depend on the image's name also has `expect(name, height, width)`. It is called before each image and
        returns None, or the reason why there are no masks; such images are skipped and listed. Images of equal content but different
        names are then separate images. With `unmatched(names)` it lists what belongs to none of these images, which is a warning.

        A source with `preprocess_ahead(image)` gets its results here instead of images. It is called in other threads, while the masks of
        earlier images are made. A result's `nbytes` is what it holds besides the image.
        """


@dataclass(frozen=True)
class Report:
    """The result of a run of `prepare`."""

    out: KeyStore
    images: int
    tiles: int
    masks: int
    segmented: int
    """Images that were segmented in this run; the others were finished before."""
    skipped: dict[str, str] = field(default_factory=dict)
    """name -> reason."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """What reading changed or left out -> number of images."""
    reused: Mapping[str, int] = field(default_factory=dict)
    """Store of `reuse` -> number of images whose masks this run took from it."""
    estimate: Estimate | None = None
    """What this run was expected to take, if that was measured."""
    already_complete: bool = False


@dataclass(frozen=True)
class Plan:
    """The images of a run and their state. Making a plan writes nothing."""

    images: list[SourceImage]
    """Every image of the source, in order."""
    missing: list[SourceImage]
    """Images that still need masks, one per key."""
    committed: Store | None
    """The finished store, if it exists."""
    changed: list[str]
    """Settings and images in which an existing store, finished or not, differs from the request."""
    fingerprint: str


def plan_prepare(images: list[SourceImage], out: Location, settings: Document) -> Plan:
    """Compare the requested images and settings with what exists at `out`.

    Args:
        images: from `scan`.
        out: the store, which need not exist.
        settings: from `PrepareConfig.as_attributes`. If the segmenter's weights are None (not downloaded yet), they are taken to be the
            same as those of `out`.

    Raises:
        StoreError: the store or its staging folder is damaged or not ours.
    """
    store = open_store(out) if key_store_at(out).get(ROOT_KEY) is not None else None
    staging = Staging(out)
    previous = store.attrs if store else staging.settings()
    settings = _with_weights_of(previous, settings)
    listed = [[item.image_file.name, item.sha256, *([item.lr_sha256] if item.lr else [])] for item in images]
    version = BANDS_VERSION if "pixels" in settings else FORMAT_VERSION
    fingerprint = digest(canonical({"format_version": version, "settings": settings, "images": listed}))
    if store is not None:
        changed = [] if store.fingerprint == fingerprint else _store_differences(store, settings, images)
        return Plan(images=images, missing=[], committed=store, changed=changed, fingerprint=fingerprint)
    changed = differences(previous, settings) if previous is not None else []
    done = staging.finished() if previous is not None else set()
    first = {item.key: item for item in reversed(images) if not item.problem}
    missing = [item for item in images if item is first.get(item.key) and item.key not in done]
    return Plan(images=images, missing=missing, committed=None, changed=changed, fingerprint=fingerprint)


def _with_weights_of(previous: Document | None, settings: Document) -> Document:
    """The settings, with the previous hash of the weights where the current one is not known yet."""
    if previous is None or settings["segmenter"].get("weights", "") is not None:
        return settings
    return {**settings, "segmenter": {**settings["segmenter"], "weights": previous["segmenter"].get("weights")}}


def prepare(
    source: Source,
    out: Location,
    masks: MaskSource,
    settings: PrepareConfig | None = None,
    *,
    lr: Source | None = None,
    limit: int | None = None,
    strict: bool = False,
    mask_stage: MaskStage | None = None,
    reuse: Sequence[Location] = (),
    report: Callable[[str], None] = log.info,
) -> Report:
    """Make a store of a source's images, or resume an unfinished one.

    Args:
        source: a folder, an archive, `samples`, or several of these.
        out: the store, a folder such as `data/photos.zarr` or a URL. Work in progress is in `photos.zarr.staging`, in the same folder.
        masks: the segmenter.
        settings: scale, tile, degradation, limits on image sizes; None: the defaults.
        lr: existing LR files; required with `degradation="given"`, and allowed only then.
        limit: use only the first `limit` images.
        strict: raise an error at the first image that cannot be used, instead of skipping it.
        mask_stage: computes the masks elsewhere, such as `DaskWorkers`; only `describe` of `masks` is then used. None: `masks`
            computes them in this process.
        reuse: finished stores; masks of images with equal pixels are taken from them, see `reuse.py`.
        report: called with each status line.

    Raises:
        ImageError: no image can be used; with `strict`, one cannot be used.
        ChangedError: a source file changed during the run.
        ConfigError: `lr` without `degradation="given"` or the reverse, or one of `out` and a source lies in the other; a store of `reuse`
            was made by another segmenter.
        StoreError: `out` holds another store, an unfinished one with other settings or files that are not ours, or cannot be written;
            a store of `reuse` cannot be read, or no store of `reuse` has any of the images.
        BusyError: another `prepare` is running for this store.
    """
    settings = settings or PrepareConfig()
    if (lr is not None) != (settings.degradation == "given"):
        raise ConfigError(
            f"degradation: {settings.degradation!r} does not go with lr={lr!r}; LR files need degradation 'given', and 'given' needs LR files"
        )
    out = key_store_at(out)
    kept = kept_embeddings(masks)
    root = None if kept is None else kept.root
    check_target(out, sources=(source, lr), masks=getattr(masks, "folder", None), embeddings=root)
    segmenter = masks.describe()
    by_name = hasattr(masks, "expect")
    if reuse and by_name:
        raise ConfigError("--reuse: takes masks of a segmenter, so it cannot be combined with masks from files")
    # before the scan, which may take minutes
    donors = open_reused(reuse, settings.as_attributes(segmenter)) if out.size(ROOT_KEY) is None else []
    images = scan(
        source,
        limit,
        lr=lr,
        by_name=by_name,
        scale=settings.scale,
        limits=settings.limits,
        slice_axis=settings.pixels.slice_axis,
    )
    samples = samples_of(images, settings.pixels, settings.limits)
    settings.check_samples(samples)
    check_donors(donors, samples)
    attributes = settings.as_attributes(segmenter, samples)
    if limit is None:
        warn_unmatched(masks, images)
    if out.size(ROOT_KEY) is not None:  # a finished store never changes, so it can be compared without the lock
        return _finished(plan_prepare(images, out, attributes), out)
    with Staging(out).open() as staging:
        plan = plan_prepare(images, out, attributes)
        if plan.changed or plan.committed is not None:
            return _finished(plan, out, staging)
        fresh = not staging.finished()
        staging.begin(attributes)
        read = partial(read_usable, scale=settings.scale, tile=settings.tile_hr, limits=settings.limits, samples=samples)
        try:
            reused = reuse_masks(
                plan.missing, donors, staging, read=read, images=Counter(item.key for item in images), report=report
            )
        except StoreError:  # such as a damaged store
            if fresh and not staging.finished():
                staging.remove()
            raise
        if fresh and donors and not reused.keys:
            staging.remove()
            raise reused.nothing(len(plan.images))
        plan = replace(plan, missing=[item for item in plan.missing if item.key not in reused.keys])
        local, group = mask_stage is None, getattr(mask_stage, "group", 1)
        forecast = Forecast(plan.images, staging, settings, local=local, group=group, report=report, samples=samples)
        if kept is not None and plan.missing:
            n_missing = len(plan.missing)
            report(embeddings_line(kept.root, most_bytes=kept.most_bytes(n_missing), images=n_missing))
        stage = mask_stage or partial(local_masks, masks)
        skipped = save_masks(
            plan.images, plan.missing, staging, results=stage(plan.missing, read), strict=strict, forecast=forecast
        )
        if kept is not None and mask_stage is None:
            report(f"embeddings: {kept.n_read} read, {kept.n_computed} computed")
        if len(skipped) == len(plan.images):
            staging.remove()
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
            raise ImageError(f"{source}: none of {len(skipped)} images can be used ({reasons})")
        uncompared = {"software": _versions(segmenter), "uncompared": segmenter.get("uncompared", {})}
        facts = {**attributes, **uncompared, "fingerprint": plan.fingerprint}
        grid = Grid(tile=settings.tile_hr, scale=settings.scale, stride=settings.stride)
        summaries = summarise(plan.images, skipped, staging, grid=grid)
        write_store(summaries, staging, out, facts=facts, limits=settings.limits)
        staging.remove()
    segmented = sum(item.image_file.name not in skipped for item in plan.missing)
    return _report(open_store(out), out, segmented=segmented, reused=reused.images, estimate=forecast.estimate)


def _finished(plan: Plan, out: KeyStore, held: Staging | None = None) -> Report:
    """The report of a store that was finished before.

    Args:
        plan: made after the store was finished, or under the lock.
        out: the store.
        held: its staging folder, if this process has the lock.

    Raises:
        StoreError: the store, finished or not, has other settings or images.
    """
    if plan.changed:
        segmenter = plan.committed.attrs.get("segmenter") if plan.committed is not None else None
        imported = isinstance(segmenter, Mapping) and "masks_sha256" in segmenter  # masks in files
        way = (
            "make a new store with --out NEW.zarr and the same --import-masks; nothing is segmented"
            if imported
            else f"make a new store with these masks: --out NEW.zarr --reuse {out}; only images that are not in {out} are segmented"
        )
        raise StoreError(
            f"{out}: made with other settings or images ({'; '.join(plan.changed[:6])}); give the same settings and source, or another --out. "
            f"For more images, or another tile, stride or degradation, {way}. Deleting {out} loses its masks"
        )
    assert plan.committed is not None
    try:
        if held is not None:
            held.remove()
        elif Staging(out).exists():  # the last run was killed after the commit, before it removed the folder
            with Staging(out).open() as left:
                left.remove()
    except (StoreError, BusyError) as error:  # the store itself is complete
        log.warning("the staging folder of %s is kept: %s", out, error)
    return _report(plan.committed, out, complete=True)


def _store_differences(store: Store, settings: Document, images: list[SourceImage]) -> list[str]:
    """One sentence per setting and per kind of image in which a finished store differs."""
    changed = differences({key: store.attrs.get(key) for key in settings}, settings)
    before, now = set(store.names()), {item.image_file.name for item in images}
    for what, names in (("no longer in the source", before - now), ("new in the source", now - before)):
        if names:
            changed.append(f"images {what}: {len(names)}, such as {min(names)}")
    return changed or ["the content of some images changed"]


def _versions(segmenter: Document) -> dict[str, str]:
    """Versions of libraries. They are not compared: an update does not make finished images invalid."""
    ours = {name: version(name) for name in ("samdiff", "numpy", "numcodecs", "opencv-python-headless")}
    return {**ours, **segmenter.get("versions", {})}


def _report(
    store: Store,
    out: KeyStore,
    *,
    segmented: int = 0,
    reused: Mapping[str, int] | None = None,
    estimate: Estimate | None = None,
    complete: bool = False,
) -> Report:
    return Report(
        out=out,
        images=store.n_images,
        tiles=len(store),
        masks=store.n_masks,
        segmented=segmented,
        skipped=store.skipped(),
        notes=note_counts(store),
        reused=reused or {},
        estimate=estimate,
        already_complete=complete,
    )
