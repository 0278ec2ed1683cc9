"""The offline stages wired together: images -> masks and codes -> shards.

`prepare` may be killed anywhere and run again: finished images are records in the staging folder, the store is written from them
in the order of the source, and nothing counts until the root document is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from ...errors import BusyError, ConfigError, ImageError, StoreError
from ...runtime import progress
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask
from ..images.sources import Source
from ..shards.reader import Store, open_store
from ..shards.schema import FORMAT_VERSION
from ..shards.writer import ROOT_KEY, canonical, digest
from ..storage.local import KeyStore, Location, key_store_at
from .mask_stage import MaskStage, local_masks, one_each
from .scan import SourceImage, read_usable, scan
from .settings import UNCOMPARED as UNCOMPARED
from .settings import PrepareConfig as PrepareConfig
from .staging import Staging, differences
from .targets import check_target
from .tile_stage import summarise, write_store

log = logging.getLogger(__name__)


class MaskSource(Protocol):
    """What `prepare` needs of a segmenter; `MaskGenerator` is one, and so is any class with these two methods."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that decide the masks: name, weights' hash, every parameter.

        What does not decide them, and is kept all the same: versions under `versions`, parameters under `uncompared`.
        """

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable | list[CocoMask]]:
        """Masks of uint8 [H, W, 3] images, in order: a `MaskTable`, or segment-anything's records (`segmentation` = COCO RLE), for each.

        A class that knows images by name has `expect(name, height, width)` too: told of each image before it comes, it returns
        None, or the reason why it has no masks; such images are skipped and listed. Two names of one content are then two images.
        """


@dataclass(frozen=True)
class Report:
    """What a run of `prepare` did."""

    out: KeyStore
    images: int
    tiles: int
    masks: int
    segmented: int
    """Images that went through the segmenter in this run; the others had been finished before."""
    skipped: dict[str, str] = field(default_factory=dict)
    """name -> reason."""
    already_complete: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would find and do; nothing was written to make it."""

    found: list[SourceImage]
    """Every image of the source, in order."""
    missing: list[SourceImage]
    """Images that no committed record covers, each content once."""
    committed: Store | None
    """The finished store, if there is one."""
    changed: list[str]
    """How a finished or begun store differs from what is asked for."""
    fingerprint: str


def plan_prepare(found: list[SourceImage], out: Location, settings: Mapping[str, Any]) -> Plan:
    """Compare what is asked for with what lies at `out`.

    Weights that are not here yet (None in `settings`) are taken to be those that `out` was begun with.
    """
    store = open_store(out) if key_store_at(out).get(ROOT_KEY) is not None else None
    staging = Staging(out)
    begun = store.attrs if store else staging.settings()
    settings = _with_weights_of(begun, settings)
    images = [[item.image_file.name, item.sha256, *([item.lr_sha256] if item.lr else [])] for item in found]
    fingerprint = digest(canonical({"format_version": FORMAT_VERSION, "settings": settings, "images": images}))
    if store is not None:
        changed = [] if store.fingerprint == fingerprint else _store_differences(store, settings, found)
        return Plan(found, [], store, changed, fingerprint)
    changed = differences(begun, settings) if begun is not None else []
    done = staging.finished() if begun is not None else set()
    first = {item.key: item for item in reversed(found) if not item.problem}
    missing = [item for item in found if item is first.get(item.key) and item.key not in done]
    return Plan(found, missing, None, changed, fingerprint)


def _with_weights_of(begun: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    if begun is None or settings["segmenter"].get("weights", "") is not None:
        return settings
    return {**settings, "segmenter": {**settings["segmenter"], "weights": begun["segmenter"].get("weights")}}


def prepare(
    source: Source,
    out: Location,
    masks: MaskSource,
    settings: PrepareConfig | None = None,
    *,
    lr: Source | None = None,
    limit: int | None = None,
    strict: bool = False,
    maker: MaskStage | None = None,
) -> Report:
    """Make a store of a source's images, or go on with one that was begun.

    Args:
        source: a folder, an archive, `samples`, or several of these.
        out: the store, a folder such as `data/photos.zarr` or a URL; `photos.zarr.staging` beside it holds the work in progress.
        masks: the segmenter.
        settings: scale, tile, degradation, bounds on image sizes.
        lr: where LR files lie already, with `degradation="given"` and only then.
        limit: take only the first so many images.
        strict: stop at the first image that cannot be used, instead of listing it.
        maker: makes the records in place of `masks`, such as `cluster.DaskWorkers.records`; `masks` then only says what decides them.

    Raises:
        ImageError: no image can be used, or (strict) one cannot.
        ConfigError: LR files without `degradation="given"`, or the other way round.
            Or `out` and a source lie in each other.
        StoreError: `out` holds another store or anything that is not ours, or other settings began it, or it cannot be written.
        BusyError: another `prepare` is at work on it.
    """
    settings = settings or PrepareConfig()
    if (lr is not None) != (settings.degradation == "given"):
        raise ConfigError(
            f"degradation: {settings.degradation!r} does not go with lr={lr!r}; LR files mean 'given', and it needs them"
        )
    out = key_store_at(out)
    check_target(out, source, lr, masks=getattr(masks, "folder", None))
    segmenter = masks.describe()
    attributes = settings.as_attributes(segmenter)
    by_name = hasattr(masks, "expect")
    found = scan(source, limit, lr=lr, scale=settings.scale, by_name=by_name, limits=settings.limits)
    if out.size(ROOT_KEY) is not None:  # finished, so it will not change any more: no lock is needed to compare
        return _finished(plan_prepare(found, out, attributes), out)
    with Staging(out).open() as staging:
        plan = plan_prepare(found, out, attributes)
        if plan.changed or plan.committed is not None:
            return _finished(plan, out, staging)
        staging.begin(attributes)
        skipped = _make_masks(plan, staging, maker or partial(local_masks, masks), settings, strict)
        if len(skipped) == len(plan.found):
            staging.remove()
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
            raise ImageError(f"{source}: none of {len(skipped)} images can be used ({reasons})")
        beside = {"software": _versions(segmenter), "uncompared": segmenter.get("uncompared", {})}
        facts = {**attributes, **beside, "fingerprint": plan.fingerprint}
        write_store(
            summarise(plan.found, skipped, staging, settings.tile_hr, settings.scale, settings.stride),
            staging,
            out,
            facts,
            settings.limits,
        )
        staging.remove()
    segmented = sum(item.image_file.name not in skipped for item in plan.missing)
    return _report(open_store(out), out, segmented)


def _finished(plan: Plan, out: KeyStore, held: Staging | None = None) -> Report:
    """The report of a store that is finished already; StoreError if something else was begun or finished there.

    Args:
        plan: made when there was a root document, or under the lock.
        out: the store.
        held: its staging place, if the lock is taken.
    """
    if plan.changed:
        raise StoreError(
            f"{out}: made with something else ({'; '.join(plan.changed[:6])}); "
            "give the same settings and source, or another --out. To add images and keep these masks, prepare the new images alone with "
            f"another --out, and train on both stores (--shards {out} --shards NEW.zarr); deleting {out} loses its masks"
        )
    assert plan.committed is not None
    try:
        if held is not None:
            held.remove()
        elif Staging(out).is_there():  # left over if the last run was killed between its commit and its end
            with Staging(out).open() as left:
                left.remove()
    except (StoreError, BusyError) as error:  # the store is whole all the same
        log.warning("what lies beside %s stays: %s", out, error)
    return _report(plan.committed, out, segmented=0, complete=True)


def _make_masks(plan: Plan, staging: Staging, make: MaskStage, settings: PrepareConfig, strict: bool) -> dict[str, str]:
    """Stage `masks`: commit a record for each image that can be used; returns name -> reason for the others, each told at once."""
    skipped: dict[str, str] = {}

    def skip(name: str, reason: str) -> None:
        if strict:
            raise ImageError(f"{name}: {reason}; leave out --strict to skip and list such images")
        log.warning("skipped %s: %s", name, reason)
        skipped[name] = reason

    names: dict[str, list[str]] = {}
    for item in plan.found:
        if item.problem:
            skip(item.image_file.name, item.problem)
        else:
            names.setdefault(item.key, []).append(item.image_file.name)
    read = partial(read_usable, scale=settings.scale, tile=settings.tile_hr, limits=settings.limits)
    with progress(desc="masks", total=len(plan.missing), unit="image") as bar:
        for item, result in one_each(plan.missing, make(plan.missing, read)):
            bar.update()
            if isinstance(result, ImageError):
                for name in names[item.key]:
                    skip(name, str(result))
            else:
                staging.save(item.key, result)
                bar.set_postfix(masks=result.n_masks)
    return skipped


def _store_differences(store: Store, settings: Mapping[str, Any], found: list[SourceImage]) -> list[str]:
    changed = differences({key: store.attrs.get(key) for key in settings}, settings)
    before, now = set(store.names()), {item.image_file.name for item in found}
    for what, names in (("no longer in the source", before - now), ("new in the source", now - before)):
        if names:
            changed.append(f"{len(names)} images {what}, such as {min(names)}")
    return changed or ["the content of some images changed"]


def _versions(segmenter: Mapping[str, Any]) -> dict[str, str]:
    """Recorded, never compared: a finished image is not segmented again because a library was updated."""
    ours = {name: version(name) for name in ("samdiff", "numpy", "numcodecs", "opencv-python-headless")}
    return {**ours, **segmenter.get("versions", {})}


def _report(store: Store, out: KeyStore, segmented: int, complete: bool = False) -> Report:
    return Report(out, store.n_images, len(store), store.n_masks, segmented, store.skipped(), complete)
