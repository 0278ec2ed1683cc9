"""Images to score: tiles of a store's held-out images with their label maps, and images of benchmarks without."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ConfigError, StoreError, printable
from ...pipeline.shards.reader import Store
from ...pipeline.stream.dataset import held_out_from
from .benchmark import read_benchmark_folder


@dataclass(frozen=True)
class ScoredImage:
    """One image, or one tile of a held-out image."""

    name: str
    """Unique among all that are scored."""
    group: str
    """The whole image: tiles of one image are not independent, and are averaged before any comparison."""
    lr: np.ndarray
    """uint8 [h, w, 3] or [h, w]."""
    hr: np.ndarray
    """uint8, s times larger."""
    labels: np.ndarray | None = None
    """uint16 [H, W], 0: no mask; None for benchmarks, which have no masks."""


def held_out_tiles(store: Store, images: int, *, tiles: int, crop: int = 0) -> list[ScoredImage]:
    """Tiles of the last images of a store, or their centre crops, in a fixed order.

    Args:
        store: the store.
        images: number of held-out images, see `stream.dataset.held_out_from`.
        tiles: largest number of tiles of each, see `chosen_rows`.
        crop: side of the crop in HR pixels, a multiple of the scale; 0: the whole tile.

    Raises:
        ConfigError: no image is held out, or the crop does not fit the tiles.
        StoreError: a tile is damaged.
    """
    first, side = held_out_from(store, images), crop or store.tile
    if first == len(store):
        raise ConfigError(
            f"images: {store.place} holds out none, since at most a tenth of its {store.n_images} images may be; prepare at least 10 images"
        )
    if side % store.scale or side > store.tile:
        raise ConfigError(f"crop: expected 0 or a multiple of {store.scale} up to the tile size {store.tile}, got {crop}")
    places, names = store.table("tiles/place"), store.names()
    rows = chosen_rows(places[:, 0], first, tiles)
    top = (store.tile - side) // 2 // store.scale * store.scale
    of_hr, of_lr = slice(top, top + side), slice(top // store.scale, (top + side) // store.scale)
    hr, lr, labels = (store.read_tiles(name, rows) for name in ("hr", "lr", "labels"))
    return [
        ScoredImage(
            f"{names[places[row, 0]]}, tile {row}",
            names[places[row, 0]],
            lr[k, of_lr, of_lr],
            hr=hr[k, of_hr, of_hr],
            labels=labels[k, of_hr, of_hr] if store.n_masks else None,
        )
        for k, row in enumerate(rows)
    ]


def of_benchmark(folder: Path, scale: int) -> list[ScoredImage]:
    """The images of a benchmark's folder. ConfigError if it cannot be read, or one of its images cannot be scored."""
    read = read_benchmark_folder(folder, scale)
    if read.skipped:
        first, reason = next(iter(read.skipped.items()))
        raise ConfigError(f"benchmarks: {printable(folder)}: {printable(first)} cannot be scored: {reason}; move it away")
    names = [f"{folder.resolve().name}/{pair.name}" for pair in read.pairs]
    return [ScoredImage(name, name, pair.lr, hr=pair.hr) for name, pair in zip(names, read.pairs, strict=True)]


def chosen_rows(owners: np.ndarray, first: int, most: int) -> list[int]:
    """Rows of the tiles to score: of each image from row `first` on, at most `most` tiles, evenly spaced. Pure.

    Args:
        owners: int [N], the image of each tile, ascending.
        first: row of the first held-out tile.
        most: 1 or more.
    """
    rows: list[int] = []
    for image in np.unique(owners[first:]):
        own = np.flatnonzero(owners == image)
        picked = np.linspace(0, len(own) - 1, num=min(most, len(own))).round().astype(int)
        rows += own[picked].tolist()
    return rows


def check_same_images(store: Store, other: Store) -> None:
    """StoreError unless another store has the same tiles of the same images, so that its runs see the same crops in the same order."""
    reason = ""
    if (store.scale, store.tile, len(store)) != (other.scale, other.tile, len(other)):
        reason = f"{len(other)} tiles of {other.tile} px at x{other.scale} instead of {len(store)} of {store.tile} px at x{store.scale}"
    elif store.names() != other.names():
        reason = "other images"
    elif not np.array_equal(store.table("tiles/place"), other.table("tiles/place")):
        reason = "tiles at other places"
    elif not np.array_equal(store.table("images/sha256"), other.table("images/sha256")):
        reason = "images with other content"
    if reason:
        raise StoreError(
            f"{other.place}: expected the images and tiles of {store.place}, got {reason}; prepare it from the same images"
        )


def digest_of(images: Sequence[ScoredImage]) -> str:
    """SHA-256 of names and pixels, to notice that scores are of other images."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr((image.name, image.group, image.lr.shape, image.hr.shape, image.labels is None)).encode())
        for pixels in (image.lr, image.hr, image.labels):
            if pixels is not None:
                digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
