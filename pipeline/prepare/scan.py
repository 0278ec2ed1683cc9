"""Stage `scan`: the images of a source with their hashes and LR files; and reading one of them for later stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ...errors import ImageError, printable
from ...runtime import progress
from ..images.decode import Decoded, Limits
from ..images.pairs import pair_names, why_not_lr
from ..images.sources import ImageFile, Source, SourceReader, check_archives, hash_images, list_source, with_slices
from ..images.unchanged import read_unchanged
from ..scientific.choose import choose_format
from ..scientific.sample_format import RGB8, SampleFormat
from ..scientific.settings import PixelConfig
from ..shards.writer import canonical, digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceImage:
    """One image of the source."""

    image_file: ImageFile
    sha256: str
    """SHA-256 of the file's content, hexadecimal; see `hash_images`."""
    problem: str = ""
    """Why it has no LR file although LR files are given; empty for a usable image."""
    lr: ImageFile | None = None
    """Its LR file, if LR files are given."""
    lr_sha256: str = ""
    """SHA-256 of the LR file's content."""
    by_name: bool = False
    """Whether its masks depend on its name, so that another image of equal content may have other masks."""

    @property
    def key(self) -> str:
        """Identifies its masks in the staging folder: a hash of its content, its LR file's content and, with `by_name`, its name."""
        more = [*([self.lr_sha256] if self.lr else []), *([self.image_file.name] if self.by_name else [])]
        return digest(canonical([self.sha256, *more])) if more else self.sha256


def scan(
    source: Source,
    limit: int | None = None,
    *,
    lr: Source | None = None,
    scale: int = 1,
    by_name: bool = False,
    limits: Limits | None = None,
    slice_axis: str = "auto",
) -> list[SourceImage]:
    """Stage `scan`: list the source's images in order and hash each file.

    Args:
        source: see `list_source`.
        limit: use only the first `limit` images.
        lr: existing LR files, see `list_source`; they are matched with images by name, see `pair_names`.
        scale: HR pixels per LR pixel, which may be part of an LR file's name.
        by_name: see `SourceImage`.
        limits: limits on the sizes of images and archives; None: the defaults.
        slice_axis: see `PixelConfig.slice_axis`; each slice of a volume is an image.

    Raises:
        ImageError: a source does not exist, cannot be read or holds no image, no LR file matches an image, or an archive is larger
            than the limits when unpacked.
    """
    limits = limits or Limits()
    image_files = list_source(source, limits)[:limit]
    check_archives(image_files, limits)
    image_files = with_slices(image_files, axis=slice_axis, limits=limits)[:limit]
    pairs, without = _lr_files(image_files, lr, scale=scale, limits=limits, slice_axis=slice_axis)
    hashes = hash_images(progress(image_files, desc="scan", unit="file"), limits.max_bytes)
    images = [
        SourceImage(
            image_file,
            sha256,
            problem=without.get(image_file.name, ""),
            lr=pairs.get(image_file.name),
            by_name=by_name,
        )
        for image_file, sha256 in zip(image_files, hashes, strict=True)
    ]
    if lr is None:
        return images
    lr_files = [item.lr for item in images if item.lr]
    check_archives(lr_files, limits)
    lr_hashes = hash_images(progress(lr_files, desc="scan LR", unit="file"), limits.max_bytes)
    return [replace(item, lr_sha256=next(lr_hashes)) if item.lr else item for item in images]


def _lr_files(
    image_files: list[ImageFile], lr: Source | None, *, scale: int, limits: Limits, slice_axis: str
) -> tuple[Mapping[str, ImageFile], Mapping[str, str]]:
    """(name of an image -> its LR file, name of an image -> why it has no LR file)."""
    if lr is None:
        return {}, {}
    lr_files = with_slices(list_source(lr, limits), axis=slice_axis, limits=limits)
    usable = [image_file.name for image_file in image_files if not image_file.problem]
    pairs, without = pair_names(usable, [file.name for file in lr_files if not file.problem], scale)
    # An LR file that cannot be read is paired too: the image is then skipped with the reason, when the LR file is read.
    unreadable, _ = pair_names(list(without), [file.name for file in lr_files if file.problem], scale)
    for file in lr_files:
        if file.problem and file.name not in unreadable.values():
            log.warning("%s: LR %s: %s", printable(lr), printable(file.name), file.problem)
    pairs, without = pairs | unreadable, {name: reason for name, reason in without.items() if name not in unreadable}
    if not pairs and without:
        name, reason = next(iter(without.items()))
        raise ImageError(f"{lr}: holds no LR file for any of {len(image_files)} images, such as {name} ({reason})")
    by_name = {file.name: file for file in lr_files}
    return {name: by_name[lr_name] for name, lr_name in pairs.items()}, without


def samples_of(images: Sequence[SourceImage], config: PixelConfig, limits: Limits) -> SampleFormat:
    """The samples of a store of these images, see `choose_format` for errors. Photographs are not read for it."""
    with SourceReader() as source_reader:
        files = [
            (item.image_file.name, partial(source_reader.read, item.image_file, limits.max_bytes))
            for item in images
            if not item.image_file.problem
        ]
        return choose_format(files, config, max_pixels=limits.max_megapixels * 1e6)


def crop_to_scale(pixels: np.ndarray, scale: int) -> np.ndarray:
    """The top-left part [H', W', ...] of an image, contiguous; H' and W' are the largest multiples of the scale."""
    height, width = (side // scale * scale for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])


def read_usable(
    item: SourceImage, source_reader: SourceReader, *, scale: int, tile: int, limits: Limits, samples: SampleFormat = RGB8
) -> Decoded | ImageError:
    """An image cropped to the scale, or why it cannot be used: unreadable, smaller than a tile, or the LR file does not fit.

    Args:
        item: from `scan`.
        source_reader: opens files and archive members.
        scale: HR pixels per LR pixel.
        tile: tile size in HR pixels.
        limits: limits on image sizes.
        samples: of the store.

    Raises:
        ChangedError: the image or its LR file changed since `scan`.
    """
    try:
        decoded = read_unchanged(item.image_file, item.sha256, limits=limits, source_reader=source_reader, samples=samples)
        height, width = decoded.pixels.shape[:2]
        if min(height, width) < tile:  # the tile is a multiple of the scale, so cropping cannot make an image too small
            raise ImageError(f"smaller than a tile: {width} x {height} pixels, a tile has {tile} x {tile} (--tile)")
        if item.lr is not None:
            small = _read_lr(item.lr, item.lr_sha256, source_reader=source_reader, limits=limits, samples=samples)
            problem = why_not_lr(small.shape[:2], (height, width), scale)
            if problem is not None:
                raise ImageError(problem)
    except ImageError as error:
        return error
    pixels = crop_to_scale(decoded.pixels, scale)
    kept = None if decoded.kept is None else decoded.kept.cropped(*pixels.shape[:2])
    return replace(decoded, pixels=pixels, kept=kept)


def _read_lr(lr: ImageFile, sha256: str, *, source_reader: SourceReader, limits: Limits, samples: SampleFormat) -> np.ndarray:
    try:
        return read_unchanged(lr, sha256, limits=limits, source_reader=source_reader, samples=samples).pixels
    except ImageError as error:
        raise ImageError(f"its LR file {lr.name}: {error}") from error
