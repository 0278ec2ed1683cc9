"""Stage `scan`: the images of a source with their hashes and LR files; and reading one for the stages that follow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...errors import ImageError, printable
from ...runtime import progress
from ..images.decode import Decoded, Limits
from ..images.pairs import pair_names, why_not_lr
from ..images.sources import ImageFile, Source, SourceReader, check_archives, hash_images, list_source
from ..images.unchanged import read_unchanged
from ..shards.writer import canonical, digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceImage:
    """One image of the source."""

    image_file: ImageFile
    sha256: str
    """Of the file's content, hexadecimal; see `hash_images`."""
    problem: str = ""
    """Why it has no LR file, where LR is given; empty for all others."""
    lr: ImageFile | None = None
    """The LR file that belongs to it, where LR is given and not made."""
    lr_sha256: str = ""
    """Of the LR file's content."""
    by_name: bool = False
    """Its masks belong to its name, so that another image of the same content may have other ones."""

    @property
    def key(self) -> str:
        """What its record is found by: its content, and what else decides whether and how it is used."""
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
) -> list[SourceImage]:
    """Stage `scan`: list the source's images in order and hash each file.

    Args:
        source: as of `list_source`.
        limit: take only the first so many.
        lr: where LR files lie already, likewise; each is matched with an image by name (see `pair_names`).
        scale: HR pixels per LR pixel, for the names of LR files.
        by_name: whether masks belong to names, see `SourceImage`.
        limits: bounds; None takes the defaults.

    Raises:
        ImageError: a source does not exist, cannot be read or holds no image, no LR file has the name of an image, or an archive
            unpacks to more than the limits allow.
    """
    limits = limits or Limits()
    image_files = list_source(source, limits)[:limit]
    check_archives(image_files, limits)
    pairs, without = _lr_files(image_files, lr, scale, limits)
    hashes = hash_images(progress(image_files, desc="scan", unit="file"), limits.max_bytes)
    found = [
        SourceImage(image_file, sha256, without.get(image_file.name, ""), pairs.get(image_file.name), by_name=by_name)
        for image_file, sha256 in zip(image_files, hashes, strict=True)
    ]
    if lr is None:
        return found
    chosen = [item.lr for item in found if item.lr]
    check_archives(chosen, limits)
    lr_hashes = hash_images(progress(chosen, desc="scan LR", unit="file"), limits.max_bytes)
    return [replace(item, lr_sha256=next(lr_hashes)) if item.lr else item for item in found]


def _lr_files(
    image_files: list[ImageFile], lr: Source | None, scale: int, limits: Limits
) -> tuple[Mapping[str, ImageFile], Mapping[str, str]]:
    """Name of an image -> its LR file, and for the others -> why there is none."""
    if lr is None:
        return {}, {}
    found = list_source(lr, limits)
    usable = [image_file.name for image_file in image_files if not image_file.problem]
    pairs, without = pair_names(usable, [image.name for image in found if not image.problem], scale)
    lost, _ = pair_names(
        list(without), [image.name for image in found if image.problem], scale
    )  # each has its reason when it is read
    for image in found:
        if image.problem and image.name not in lost.values():
            log.warning("%s: LR %s: %s", printable(lr), printable(image.name), image.problem)
    pairs, without = pairs | lost, {name: reason for name, reason in without.items() if name not in lost}
    if not pairs and without:
        name, reason = next(iter(without.items()))
        raise ImageError(f"{lr}: holds no LR file for any of {len(image_files)} images, such as {name} ({reason})")
    of_name = {image.name: image for image in found}
    return {name: of_name[other] for name, other in pairs.items()}, without


def crop_to_scale(pixels: np.ndarray, scale: int) -> np.ndarray:
    """The top-left part whose sides are multiples of the scale."""
    height, width = (side // scale * scale for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])


def read_usable(item: SourceImage, source_reader: SourceReader, scale: int, tile: int, limits: Limits) -> Decoded | ImageError:
    """An image cropped to the scale, or the reason why it cannot be used: unreadable, too small, or its LR file does not fit.

    Raises:
        ChangedError: it, or its LR file, is not what was scanned.
    """
    try:
        decoded = read_unchanged(item.image_file, item.sha256, limits, source_reader)
        height, width = decoded.pixels.shape[:2]
        if min(height, width) < tile:  # a multiple of the scale, so the crop to the scale does not matter
            raise ImageError(f"smaller than a tile: {width} x {height} pixels, a tile has {tile} x {tile} (--tile)")
        if item.lr is not None:
            _check_lr(item.lr, item.lr_sha256, decoded.pixels.shape, source_reader, scale, limits)
    except ImageError as error:
        return error
    return replace(decoded, pixels=crop_to_scale(decoded.pixels, scale))


def _check_lr(
    lr: ImageFile, sha256: str, shape_hr: tuple[int, ...], source_reader: SourceReader, scale: int, limits: Limits
) -> None:
    try:
        small = read_unchanged(lr, sha256, limits, source_reader).pixels
    except ImageError as error:
        raise ImageError(f"its LR file {lr.name}: {error}") from error
    problem = why_not_lr(small.shape[:2], shape_hr[:2], scale)
    if problem is not None:
        raise ImageError(problem)
