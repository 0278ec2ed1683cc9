"""Training samples from one or several stores: `ShardDataset`.

Everything random about a sample (which tile, which crop, which flip) is a function of (seed, global position), so a run can
be resumed from the position alone, by any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ...errors import ConfigError, StoreError
from ...runtime import cache_dir
from ..shards.reader import Store, open_store
from ..shards.schema import tiles_per_shard
from ..storage.cache import CACHE_BYTES, CachingStore
from .order import Order, draw
from .random_streams import Stream

if TYPE_CHECKING:
    import torch

__all__ = ["ShardDataset", "Store", "open_store"]


class ShardDataset:
    """Random HR-aligned crops from stores, as uint8; sample `i` is a function of the seed and `i` alone.

    Usable as a map-style PyTorch data set (`dataset[position]`, `len(dataset)` tiles per epoch; positions go on beyond it, into the
    next epoch) or by whole batches (`dataset.batch(first, size)`). Pickles and forks: files are opened per read.
    """

    def __init__(
        self,
        stores: Sequence[Path | str | Store] | Path | str | Store,
        patch: int | None = None,
        seed: int = 0,
        hold_out: int = 0,
        cache: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
        check_shards: bool = True,
    ) -> None:
        """
        Args:
            stores: one or several stores, or their paths; all of one scale.
            patch: size of the crop in HR pixels, a multiple of the scale; None takes whole tiles.
            seed: of the order, the crops and the flips.
            hold_out: photographs at the end of each store that are left out, see `held_out_from`.
            cache: folder that keeps the shards of stores at URLs (see `cache.py`); by default `shards` in the cache folder.
            cache_bytes: bound of that folder.
            check_shards: compare each shard with its recorded SHA-256 at its first use, see `open_store`. Stores that are open already
                keep their own way.

        Raises:
            StoreError: a store cannot be read, or the stores differ in scale or hold no tile.
            ConfigError: the patch does not fit the tiles.
        """
        several = stores if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]
        self.stores = [
            store if isinstance(store, Store) else open_to_stream(store, cache, cache_bytes, check_shards) for store in several
        ]
        if not self.stores:
            raise StoreError("expected at least one store, got none")
        first = self.stores[0]
        for store in self.stores[1:]:
            if store.scale != first.scale:
                raise StoreError(
                    f"stores of one scale are needed: {first.place} is x{first.scale}, {store.place} is x{store.scale}"
                )
        self.scale, self.seed = first.scale, seed
        smallest = min(store.tile for store in self.stores)
        self.patch = smallest if patch is None else patch
        if self.patch % self.scale or not 0 < self.patch <= smallest:
            raise ConfigError(f"patch: expected a multiple of {self.scale} up to the tile size {smallest}, got {patch}")
        lengths = tuple(held_out_from(store, hold_out) for store in self.stores)
        self.order = Order(lengths, tuple(tiles_per_shard(s.tile) for s in self.stores), seed)
        if self.order.total == 0:
            raise StoreError(f"{first.place}: the store holds no tile; prepare it from images of at least one tile")
        counts = [store.n_images for store in self.stores]
        self._first_image = np.cumsum([0, *counts[:-1]])
        self._far = any(isinstance(store.place, CachingStore) for store in self.stores)
        self._window = (-1, -1)  # whose shards were asked for in advance

    def __len__(self) -> int:
        return self.order.total

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {name: values[0] for name, values in self.batch(position, 1).items()}

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples at once, as PyTorch's loader asks a map-style data set for them."""
        batch = self.at(np.asarray(positions, np.int64))
        return [{name: values[i] for name, values in batch.items()} for i in range(len(positions))]

    def batch(self, first: int, size: int) -> dict[str, np.ndarray]:
        """The samples at global positions first .. first + size - 1, see `at`."""
        return self.at(np.arange(first, first + size))

    def at(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The samples at some global positions.

        Returns:
            `hr` uint8 [B, P, P, 3], `lr` uint8 [B, P/s, P/s, 3], `labels` uint16 [B, P, P], `image` int64 [B] (row of `codes`'
            offsets: an image's number over all stores), `position` int64 [B].
        """
        size = len(positions)
        if size:
            self._fetch_ahead(int(positions[-1]))
        which, rows = self.order.locate(positions)
        p_hr, p_lr = self.patch, self.patch // self.scale
        out: dict[str, np.ndarray] = {
            "hr": np.empty((size, p_hr, p_hr, 3), np.uint8),
            "lr": np.empty((size, p_lr, p_lr, 3), np.uint8),
            "labels": np.empty((size, p_hr, p_hr), np.uint16),
            "image": np.empty(size, np.int64),
            "position": positions,
        }
        for index, store in enumerate(self.stores):
            mine = np.flatnonzero(which == index)
            if len(mine) == 0:
                continue
            places = store.rows("tiles/place", rows[mine])
            out["image"][mine] = places[:, 0] + self._first_image[index]
            cuts = plan_crops(positions[mine], store.tile // self.scale, p_lr, self.seed)
            for name, factor in (("hr", self.scale), ("lr", 1), ("labels", self.scale)):
                tile = store.tile_like(name)  # one for all: fresh memory costs more than decoding
                for slot, row, cut in zip(mine, rows[mine], cuts, strict=True):
                    out[name][slot] = crop_flip(store.read_tile(name, int(row), tile), cut, p_lr, factor)
            store.check_labels(rows[mine], out["labels"][mine].reshape(len(mine), -1).max(axis=1))
        return out

    def _fetch_ahead(self, position: int) -> None:
        """Stores with a cache fetch the shards of this window and the next; asked once per window."""
        if not self._far:
            return
        window, blocks = self.order.ahead(position)
        if window != self._window:
            self._window = window
            for index, store in enumerate(self.stores):
                store.prefetch(blocks[blocks[:, 0] == index, 1])

    def codes(self, mean: str = "mask") -> tuple[np.ndarray, np.ndarray]:
        """What turns labels into E_SAM on the training device: `table[offset[image] + labels]`, see `e_sam`.

        Returns:
            table float32: for each image a zero (no mask), then its codes; offset int64: where each image starts.
        """
        column = {"mask": 0, "image": 1}.get(mean)
        if column is None:
            raise ConfigError(f"mean: expected 'mask' or 'image', got {mean!r}")
        tables, offsets, start = [], [], 0
        for store in self.stores:
            counts = store.table("images/n_masks").astype(np.int64)
            begins = np.cumsum(counts + 1) - (counts + 1)  # one zero row per image
            table = np.zeros(int(counts.sum()) + len(counts), np.float32)
            is_code = np.ones(len(table), bool)
            is_code[begins] = False
            table[is_code] = store.table("masks/codes")[:, column]
            tables.append(table)
            offsets.append(begins + start)
            start += len(table)
        return np.concatenate(tables), np.concatenate(offsets)


def held_out_from(store: Store, images: int) -> int:
    """The first tile of the last `images` photographs with tiles, at most a tenth of them; `len(store)` if none is held out."""
    if images == 0:
        return len(store)
    owner = store.rows("tiles/place", np.arange(len(store)))[:, 0]  # for once, and not kept
    used = np.unique(owner)
    count = min(images, len(used) // 10)
    return int(np.searchsorted(owner, used[-count])) if count else len(store)


def open_to_stream(
    location: Path | str, cache: Path | None = None, cache_bytes: int = CACHE_BYTES, check_shards: bool = True
) -> Store:
    """A store to train from: one at a URL is read through a cache of whole shards, any other directly; see `ShardDataset`."""
    far = "://" in str(location) and not str(location).startswith("file://")
    folder = (cache or cache_dir() / "shards") if far else None
    return open_store(location, folder, cache_bytes, check_shards)


def e_sam(labels: torch.Tensor, image: torch.Tensor, table: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """E_SAM float32 [B, 1, P, P] of integer labels [B, P, P], by lookup on their device.

    Args:
        labels: integers; 0 no mask, k the k-th mask of the image.
        image: int64 [B], from the batch.
        table: float32, from `ShardDataset.codes`, on the same device.
        offset: int64, from `ShardDataset.codes`, on the same device.
    """
    return table[labels.long() + offset[image][:, None, None]][:, None]


def plan_crops(positions: np.ndarray, tile_lr: int, patch_lr: int, seed: int) -> np.ndarray:
    """int64 [B, 5]: y_lr, x_lr of the crop's corner, flip rows, flip columns, transpose; a function of seed and position."""
    room = tile_lr - patch_lr + 1
    limits = (
        (Stream.CROP_Y, room),
        (Stream.CROP_X, room),
        (Stream.FLIP_ROWS, 2),
        (Stream.FLIP_COLUMNS, 2),
        (Stream.TRANSPOSE, 2),
    )
    columns = [draw(0, limit, seed, stream, positions) for stream, limit in limits]
    return np.stack(columns, axis=1)


def crop_flip(tile: np.ndarray, cut: np.ndarray, patch_lr: int, factor: int) -> np.ndarray:
    """One crop of a tile [S, S, …] in the frame `factor` times LR, flipped and transposed as `plan_crops` said."""
    y, x, rows, columns, transpose = (int(value) for value in cut)
    size = patch_lr * factor
    part = tile[y * factor : y * factor + size, x * factor : x * factor + size]
    if rows or columns:  # OpenCV, because NumPy takes 50 times as long to lay pixels of three bytes the other way round
        part = cv2.flip(part, -1 if rows and columns else int(columns))
    return cv2.transpose(part) if transpose else part
