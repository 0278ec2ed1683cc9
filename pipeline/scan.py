"""Stage `scan`: the pictures of a source with their hashes and LR files; and reading one for the stages that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import ImageError
from ..runtime import progress
from .images import Decoded, Limits, read_picture
from .pairs import pair_names, why_not_lr
from .sources import Picture, Shelf, Source, list_source

UNREADABLE = "0" * 64  # stands for the digest of a file that cannot be read


@dataclass(frozen=True)
class Found:
    """One picture of the source."""

    picture: Picture
    sha256: str
    """Of the file's content, hexadecimal."""
    problem: str = ""
    """Why the file could not even be hashed, or has no LR file; empty for most."""
    lr: Picture | None = None
    """The LR file that belongs to it, where LR is given and not made."""
    lr_sha256: str = ""
    """Of the LR file's content."""

    @property
    def content(self) -> tuple[str, str]:
        """What tells it from other pictures, whatever its name."""
        return self.sha256, self.lr_sha256


def scan(source: Source, limit: int | None = None, *, lr: Source | None = None, scale: int = 1) -> list[Found]:
    """Stage `scan`: list the source's pictures in order and hash each file.

    Args:
        source: as of `list_source`.
        limit: take only the first so many.
        lr: where LR files lie already, likewise; each is matched with a picture by name (see `pair_names`).
        scale: HR pixels per LR pixel, for the names of LR files.

    Raises:
        ImageError: a source does not exist, cannot be read or holds no picture, or no LR file has the name of a picture.
    """
    pictures = list_source(source)[:limit]
    if lr is None:
        return [_hashed(picture) for picture in progress(pictures, desc="scan", unit="file")]
    of_name = {picture.name: picture for picture in list_source(lr)}
    pairs, without = pair_names([picture.name for picture in pictures], list(of_name), scale)
    if not pairs:
        name, reason = next(iter(without.items()))
        raise ImageError(f"{lr}: holds no LR file for any of {len(pictures)} pictures, such as {name} ({reason})")
    found = []
    for picture in progress(pictures, desc="scan", unit="file"):
        other = of_name.get(pairs.get(picture.name, ""))
        if other is None:
            found.append(Found(picture, UNREADABLE, without[picture.name]))
            continue
        found.append(replace(_hashed(picture), lr=other, lr_sha256=other.sha256()))
    return found


def _hashed(picture: Picture) -> Found:
    try:
        return Found(picture, picture.sha256())
    except ImageError as error:
        return Found(picture, UNREADABLE, str(error))


def crop_to_scale(pixels: np.ndarray, scale: int) -> np.ndarray:
    """The top-left part whose sides are multiples of the scale."""
    height, width = (side // scale * scale for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])


def read_usable(item: Found, shelf: Shelf, scale: int, tile: int, limits: Limits) -> Decoded | ImageError:
    """A picture cropped to the scale, or the reason why it cannot be used: unreadable, too small, or its LR file does not fit."""
    try:
        decoded = read_picture(item.picture, limits, shelf)
        height, width = decoded.pixels.shape[:2]
        if min(height, width) < tile:  # a multiple of the scale, so the crop to the scale does not matter
            raise ImageError(f"smaller than a tile: {width} x {height} pixels, a tile has {tile} x {tile} (--tile)")
        if item.lr is not None:
            _check_lr(item.lr, decoded.pixels.shape, shelf, scale, limits)
    except ImageError as error:
        return error
    return replace(decoded, pixels=crop_to_scale(decoded.pixels, scale))


def _check_lr(lr: Picture, shape_hr: tuple[int, ...], shelf: Shelf, scale: int, limits: Limits) -> None:
    try:
        small = read_picture(lr, limits, shelf).pixels
    except ImageError as error:
        raise ImageError(f"its LR file {lr.name}: {error}") from error
    problem = why_not_lr(small.shape[:2], shape_hr[:2], scale)
    if problem is not None:
        raise ImageError(problem)
