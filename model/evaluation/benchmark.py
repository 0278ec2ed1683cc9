"""Benchmark folders read as pairs of LR and HR. Which files are which: see `benchmark_layout`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from ...errors import ConfigError, ImageError, printable
from ...pipeline.degrade.imresize import imresize
from ...pipeline.degrade.invalid import BICUBIC_MARGIN, margin_of, usable_pixels
from ...pipeline.degrade.recipes import degrade
from ...pipeline.images.listing import ImageFile, list_source
from ...pipeline.images.pairs import hr_stem, on_common_grid, pair_names, why_not_lr
from ...pipeline.scientific.sample_format import RGB8, SampleFormat
from ..inference.image_io import open_opaque
from ..samples.raster_file import read_sample_file
from .benchmark_layout import Layout, benchmark_layout, inside, may_be_lr

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """One image of a benchmark."""

    name: str
    """The HR file's name without its suffix, unique in the benchmark."""
    lr: np.ndarray
    """uint8 [h, w] or [h, w, 3]; of other samples [h, w, C]."""
    hr: np.ndarray
    """Likewise, s times larger, cropped at the bottom and the right to the area that LR covers."""
    valid: np.ndarray | None = None
    """bool [H, W]: the pixels that are scored; None: all."""


@dataclass(frozen=True)
class LrRecipe:
    """How LR is made from HR, whatever LR images there are; see `degrade`."""

    kind: str
    """blind, mtf or kspace."""
    seed: int = 0
    """Of `blind`."""
    gains: tuple[float, ...] = ()
    """Of `mtf`: one per band, or one for all."""

    def describe(self) -> str:
        """Where LR comes from, for tables."""
        more = {
            "blind": f"blind degradation with seed {self.seed}",
            "mtf": f"a sensor's blur (mtf, gains {', '.join(f'{gain:g}' for gain in self.gains)})",
            "kspace": "the central part of k-space (kspace)",
        }
        return f"made from HR by {'the ' * (self.kind == 'blind')}{more[self.kind]}"


@dataclass(frozen=True)
class BenchmarkImages:
    """The images of a benchmark folder."""

    pairs: list[Pair]
    """In the order of their names."""
    lr_from: str
    """Where LR comes from: the folder, or `BICUBIC`."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Image -> why it is not scored."""


def read_benchmark_folder(
    folder: Path, scale: int, *, recipe: LrRecipe | None = None, samples: SampleFormat = RGB8
) -> BenchmarkImages:
    """Read the images of a benchmark with their LR.

    Args:
        folder: in one of the layouts of `benchmark_layout`.
        scale: s.
        recipe: how LR is made from HR, whatever LR images there are; None: see `BenchmarkImages.lr_from`.
        samples: of the model that is evaluated.

    Raises:
        ConfigError: no folder, no images, several benchmarks, an HR image without LR although others have one, or LR of a wrong size.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"--benchmark {folder}: there is no such folder; give one of HR images, or with HR/ and LRx{scale}/, or fetch one: samdiff download set5"
        )
    try:
        files = {image.name: image for image in list_source(folder)}
    except ImageError as error:
        raise ConfigError(
            f"--benchmark {folder}: expected a folder of images, or one with HR/ and LRx{scale}/ in it; found none ({error})"
        ) from error
    skipped = {name: image.problem for name, image in files.items() if image.problem}
    for name, reason in skipped.items():
        if may_be_lr(name):  # else LR would be made from HR, which is another task
            raise ConfigError(f"--benchmark {folder}: {printable(name)}: {reason}; make it readable, or move it away")
    layout = benchmark_layout([name for name in files if name not in skipped], scale, str(printable(folder)))
    if layout.unread:
        log.warning("%s: %s", printable(folder), layout.unread)
    lows = {} if recipe is not None else _lows(layout, scale, folder)
    names = _short_names(layout.hr)
    pairs = []
    for name in layout.hr:
        try:
            low = files[lows[name]] if lows else None
            pairs.append(_pair(names[name], files[name], low, scale=scale, recipe=recipe, samples=samples))
        except ImageError as error:
            skipped[name] = str(error).removeprefix(f"{printable(files[name].path)}: ")  # the list names the image
    if not pairs:
        reasons = "; ".join(f"{printable(name)}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ImageError(f"--benchmark {folder}: none of its images can be used ({reasons})")
    lr_from = layout.lr_from if recipe is None else recipe.describe()
    return BenchmarkImages(pairs, lr_from, skipped)


def read_pairs(folder: Path, scale: int, *, recipe: LrRecipe | None = None) -> list[Pair]:
    """The pairs of `read_benchmark_folder`; an image that cannot be used is an error.

    Raises:
        ConfigError: as there.
        ImageError: an image cannot be used.
    """
    benchmark = read_benchmark_folder(folder, scale, recipe=recipe)
    for name, reason in benchmark.skipped.items():
        raise ImageError(f"--benchmark {folder}: {printable(name)}: {reason}")
    return benchmark.pairs


def benchmark_files(folder: Path) -> list[Path]:
    """All images of a benchmark, of any scale; none of them may be an output."""
    try:
        return [Path(image.path) for image in list_source(folder)] if folder.is_dir() else []
    except ImageError:  # reported when the benchmark is read
        return []


def _lows(layout: Layout, scale: int, folder: Path) -> dict[str, str]:
    """HR name -> LR name; empty if LR is made from HR."""
    if not layout.lr:
        return {}
    short = {inside(name): name for name in layout.hr}, {inside(name): name for name in layout.lr}
    inner = len(short[0]) == len(layout.hr) and len(short[1]) == len(layout.lr)
    highs, lows = short if inner else ({name: name for name in layout.hr}, {name: name for name in layout.lr})
    pairs, without = pair_names(list(highs), list(lows), scale)
    if without:
        first, reason = next(iter(without.items()))
        raise ConfigError(
            f"--benchmark {folder}: {layout.lr_from} has no LR for {printable(first)} ({reason}; {len(without)} in all); "
            "add them, or move the folder of LR away"
        )
    return {highs[high]: lows[low] for high, low in pairs.items()}


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """HR name -> its name in tables: the stem without `_HR` if that is unique."""
    for short in (hr_stem, lambda name: PurePosixPath(name).name, lambda name: name.replace("/", "_")):
        if len(set(map(short, names))) == len(names):
            return {name: short(name) for name in names}
    return {name: f"{number}_{PurePosixPath(name).stem}" for number, name in enumerate(names)}


def _pair(
    name: str, high: ImageFile, low: ImageFile | None, *, scale: int, recipe: LrRecipe | None, samples: SampleFormat
) -> Pair:
    if not samples.is_rgb8:
        return _sample_pair(name, high, low, scale=scale, recipe=recipe, samples=samples)
    whole = open_opaque(Path(high.path))
    shape = whole.shape[:2]
    if min(shape) < scale:
        raise ImageError(f"smaller than the scale: {shape[1]} x {shape[0]} pixels, expected at least {scale} x {scale}")
    of_hr, of_lr = on_common_grid(shape, scale)
    hr = np.ascontiguousarray(whole[of_hr])
    if recipe is not None and recipe.kind == "blind":
        rgb = np.ascontiguousarray(np.broadcast_to(np.atleast_3d(hr), (*hr.shape[:2], 3)))
        content = hashlib.sha256(rgb.tobytes()).hexdigest()  # of the pixels: the same for every file format
        return Pair(name, degrade(rgb, "blind", scale, seed=recipe.seed, content=content), rgb)
    if recipe is not None:
        return Pair(
            name, degrade(np.atleast_3d(hr), recipe.kind, scale, gains=recipe.gains).reshape(_reduced(hr.shape, scale)), hr
        )
    if low is None:
        return Pair(name, imresize(hr, 1 / scale), hr)
    lr = open_opaque(Path(low.path))
    if hr.ndim == 2 and lr.ndim == 3:
        lr = lr[..., 0]
    if lr.ndim == 2 and hr.ndim == 3:
        lr = np.repeat(lr[..., None], 3, axis=2)
    if problem := why_not_lr(lr.shape[:2], shape, scale):
        raise ConfigError(
            f"{printable(low.path)}: expected {printable(os.path.basename(high.path))} reduced {scale} times: {problem}; "
            "with a wrong size the result would be shifted against HR"
        )
    return Pair(name, np.ascontiguousarray(lr[of_lr]), hr)


def _reduced(shape: tuple[int, ...], scale: int) -> tuple[int, ...]:
    """The shape of LR: [h, w] or [h, w, C]."""
    return shape[0] // scale, shape[1] // scale, *shape[2:]


def _sample_pair(
    name: str, high: ImageFile, low: ImageFile | None, *, scale: int, recipe: LrRecipe | None, samples: SampleFormat
) -> Pair:
    """A pair of measured values; pixels that are not `usable_pixels` are not scored."""
    whole = read_sample_file(Path(high.path), samples).samples
    shape = whole.values.shape[:2]
    of_hr, of_lr = on_common_grid(shape, scale)
    if min(shape) < scale:
        raise ImageError(f"smaller than the scale: {shape[1]} x {shape[0]} pixels, expected at least {scale} x {scale}")
    hr = np.ascontiguousarray(whole.values[of_hr])
    margin = BICUBIC_MARGIN if recipe is None else margin_of(recipe.kind, scale, recipe.gains)
    valid = None if whole.valid is None else usable_pixels(whole.valid[of_hr], scale, margin)
    if recipe is not None:
        return Pair(name, degrade(hr, recipe.kind, scale, gains=recipe.gains, offset=samples.offset), hr, valid)
    if low is None:
        return Pair(name, imresize(hr, 1 / scale), hr, valid)
    given = read_sample_file(Path(low.path), samples).samples
    if problem := why_not_lr(given.values.shape[:2], shape, scale):
        raise ConfigError(f"{printable(low.path)}: {problem}; with a wrong size the result would be shifted against HR")
    if given.valid is not None:
        own = given.valid[of_lr].repeat(scale, axis=0).repeat(scale, axis=1)
        valid = own if valid is None else valid & own
    return Pair(name, np.ascontiguousarray(given.values[of_lr]), hr, valid)
