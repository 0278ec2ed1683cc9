"""Patches of real images for calibration and for measuring: of a store, or of a folder of HR images."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import numpy as np

from ...errors import ConfigError, ImageError, printable
from ...pipeline.degrade.imresize import imresize
from ...pipeline.images.decode import read_rgb
from ...pipeline.images.listing import list_source
from ...pipeline.shards.reader import open_store
from ...pipeline.shards.writer import ROOT_KEY

PATCHES, LEAST = 12, 4
"""The first half is for calibration, the other for measuring; and the least number of them all."""
Patch = tuple[np.ndarray, np.ndarray]
"""LR uint8 [N, N, 3] and HR uint8 [s N, s N, 3]."""


def read_patches(source: Path, *, scale: int, side: int, count: int = PATCHES) -> list[Patch]:
    """Patches from the middle of tiles or images, evenly spread over the source.

    Args:
        source: a store; or a folder, an archive or `samples`, whose images are HR and are reduced by MATLAB's bicubic.
        scale: s.
        side: N, of the LR patch.
        count: how many, at most.

    Raises:
        ConfigError: the store has another scale, or there are fewer than `LEAST` patches of this size.
        ImageError, StoreError: the source cannot be read.
    """
    is_store = "://" in str(source) or (source / ROOT_KEY).exists()
    found = (
        _of_store(source, scale=scale, side=side, count=count)
        if is_store
        else _of_images(source, scale=scale, side=side, count=count)
    )
    if len(found) < LEAST:
        raise ConfigError(
            f"{printable(source)}: expected at least {LEAST} patches of {side * scale} x {side * scale} HR pixels, found {len(found)}; "
            "give more or larger images, or a smaller --static"
        )
    return found


def _of_store(source: Path, *, scale: int, side: int, count: int) -> list[Patch]:
    store = open_store(source)
    if store.scale != scale:
        raise ConfigError(f"{printable(source)}: holds x{store.scale}, the model is x{scale}; give another --calibrate")
    store.samples.require_rgb8(f"{printable(source)}: --calibrate")
    if store.tile < side * scale or not len(store):
        return []
    rows = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(int))
    tiles = [(store.read_tiles("lr", [int(row)])[0], store.read_tiles("hr", [int(row)])[0]) for row in rows]
    top = (store.tile // scale - side) // 2
    return [(_square(lr, top, side), _square(hr, top * scale, side * scale)) for lr, hr in tiles]


def _of_images(source: Path, *, scale: int, side: int, count: int) -> list[Patch]:
    files = list_source(str(source))
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int))]
    found: list[list[np.ndarray]] = []
    for file in chosen:
        try:
            pixels = read_rgb(file).pixels
        except ImageError:  # another image may do; too few are reported by the caller
            continue
        found.append(_squares(pixels, side * scale, count))
    in_turn = [
        hr for group in zip_longest(*found) for hr in group if hr is not None
    ]  # the first of each image, then the second
    return [(imresize(hr, 1 / scale), hr) for hr in in_turn[:count]]


def _squares(pixels: np.ndarray, side: int, most: int) -> list[np.ndarray]:
    """Up to `most` squares that do not overlap, in reading order from the top left."""
    rows, columns = (length // side for length in pixels.shape[:2])
    places = [(y * side, x * side) for y in range(rows) for x in range(columns)]
    return [np.ascontiguousarray(pixels[y : y + side, x : x + side]) for y, x in places[:most]]


def _square(image: np.ndarray, top: int, side: int) -> np.ndarray:
    return np.ascontiguousarray(image[top : top + side, top : top + side])
