"""Training samples from one or several stores: `ShardDataset`.

Everything random about a sample (which tile, which crop, which flip) is a function of (seed, global position), so a run can
be resumed from the position alone, by any number of workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsIndex

import cv2
import numpy as np

from ...errors import ConfigError, PositionError, StoreError
from ...runtime import cache_dir
from ..encode.browse import html_table, index_in
from ..shards.reader import Store, open_store
from ..shards.schema import tiles_per_shard
from ..storage.cache import CACHE_BYTES, CachingStore
from ..storage.once import SharedArray
from .order import Order, draw
from .passes import checked_epoch

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

__all__ = ["ShardDataset", "Store", "open_store"]

_COLUMNS = {"mask": 0, "image": 1}  # of `masks/codes`
_SEVERAL = "`batch(first, size)`"
_SHOWN = 6  # samples in a notebook


class ShardDataset:
    """Random HR-aligned crops from stores, as uint8; a sample is a function of the seed and its global position alone.

    A map-style PyTorch data set: `len(data)` samples per epoch, `data[i]`, and `for sample in data` over one epoch. `data[i]` is the sample
    at position i of the epoch that `set_epoch` chose, 0 at first; indices from `len(data)` on are in the epochs that follow. Whole batches
    by global position: `data.batch(first, size)`. Pickles and forks: files are opened per read.
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
        *,
        e_sam: bool | Literal["mask", "image"] = False,
    ) -> None:
        """
        Args:
            stores: one or several stores, or their paths; all of one scale.
            patch: size of the crop in HR pixels, a multiple of the scale; None takes whole tiles.
            seed: of the order, the crops and the flips.
            hold_out: images at the end of each store that are left out, see `held_out_from`.
            cache: folder that keeps the shards of stores at URLs (see `cache.py`); by default `shards` in the cache folder.
            cache_bytes: bound of that folder.
            check_shards: compare each shard with its recorded SHA-256 at its first use, see `open_store`. Stores that are open already
                keep their own way.
            e_sam: whether samples hold E_SAM too; True means "mask", the mean over the mask; "image" is the official code's mean.

        Raises:
            StoreError: a store cannot be read, or the stores differ in scale or hold no tile.
            ConfigError: the patch does not fit the tiles, or `e_sam` is unknown.
        """
        self._mean = "mask" if e_sam is True else e_sam
        if self._mean is not False and self._mean not in _COLUMNS:
            raise ConfigError(f"e_sam: expected True, False, 'mask' or 'image', got {e_sam!r}")
        self._lookup: tuple[np.ndarray, np.ndarray] | None = None
        self._epoch = SharedArray("q", [0, 0])  # the epoch, and samples that were indexed in it
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
        """Samples per epoch: the tiles of all stores, without those that are held out."""
        return self.order.total

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        """One sample, see `at`; -1 is the epoch's last.

        Raises:
            PositionError: below `-len(self)`; an `IndexError`.
            IndexKindError: a slice, or no integer; a `TypeError`.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[dict[str, np.ndarray]]:
        """Several samples at once, as PyTorch's loader requests them of a map-style data set."""
        total = len(self)
        numbers = [index_in(index, total, several=_SEVERAL, beyond=True) for index in indices]
        batch = self.at(np.array(numbers, np.int64) + self.epoch * total)
        before, now = self._epoch.cells[1], self._epoch.cells[1] + len(numbers)
        self._epoch.cells[1] = now
        if before < 2 * total <= now:  # twice, so that looking around is no reason
            log.warning(
                "samples of epoch %d were requested for the second time: same crops and flips; call set_epoch before each epoch",
                self.epoch,
            )
        return [{name: values[i] for name, values in batch.items()} for i in range(len(numbers))]

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The samples of one epoch, in its order."""
        first = self.epoch * len(self)
        return (self._sample(position) for position in range(first, first + len(self)))

    def _sample(self, position: int) -> dict[str, np.ndarray]:
        return {name: values[0] for name, values in self.batch(position, 1).items()}

    @property
    def epoch(self) -> int:
        """The epoch of `data[i]` and of iteration."""
        return self._epoch.cells[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of `data[i]` and of iteration: each has an order, crops and flips of its own.

        Call it between two passes of a `DataLoader` over this data set, as `DistributedSampler.set_epoch`; workers that run already (with
        `persistent_workers`) see it too. `batch`, `at`, `ShardLoader` and `ShardStream` take global positions, which it does not change.
        """
        self._epoch.cells[0], self._epoch.cells[1] = checked_epoch(epoch), 0

    def __repr__(self) -> str:
        places = ", ".join(repr(str(store.place)) for store in self.stores)
        crops = f"{len(self)} crops of {self.patch} px per epoch"
        return f"ShardDataset({places}: x{self.scale}, {crops}, seed {self.order.seed}, epoch {self.epoch})"

    def _repr_html_(self) -> str:
        """For notebooks: counts, sizes, and a few samples beside their masks."""
        facts = {
            "stores": ", ".join(str(store.place) for store in self.stores),
            "scale": f"x{self.scale}",
            "samples per epoch": f"{len(self)} crops of {self.patch} x {self.patch} HR pixels",
            "images, masks": ", ".join(f"{store.n_images}, {store.n_masks}" for store in self.stores),
            "seed, epoch": f"{self.order.seed}, {self.epoch}",
        }
        shown = range(min(_SHOWN, len(self)))
        try:
            return html_table("ShardDataset", facts, {f"sample {k}": self[k] for k in shown})
        except StoreError as error:  # a notebook shows the object and what is wrong with it
            return html_table("ShardDataset", facts, {}, note=str(error))

    def batch(self, first: int, size: int) -> dict[str, np.ndarray]:
        """The samples at global positions first .. first + size - 1, see `at`."""
        return self.at(np.arange(first, first + size))

    def at(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The samples at some global positions.

        Returns:
            `hr` uint8 [B, P, P, 3], `lr` uint8 [B, P/s, P/s, 3], `labels` uint16 [B, P, P], `image` int64 [B] (row of `codes`'
            offsets: an image's number over all stores), `position` int64 [B]; with `e_sam`, `e_sam` float32 [B, P, P].

        Raises:
            PositionError: a position below 0.
            StoreError: a shard is missing or damaged.
        """
        positions = np.asarray(positions, np.int64)
        size = len(positions)
        if size and positions.min() < 0:
            raise PositionError(f"global positions begin at 0, got {positions.min()}; `data[-1]` is an epoch's last sample")
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
        if self._mean:
            table, offset = self._lookup = self._lookup or self.codes(self._mean)
            out["e_sam"] = table[offset[out["image"]][:, None, None] + out["labels"]]
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
        column = _COLUMNS.get(mean)
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
    """The first tile of the last `images` images with tiles, at most a tenth of them; `len(store)` if none is held out."""
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
    columns = [draw(0, limit, seed, stream, positions) for stream, limit in ((11, room), (12, room), (13, 2), (14, 2), (15, 2))]
    return np.stack(columns, axis=1)


def crop_flip(tile: np.ndarray, cut: np.ndarray, patch_lr: int, factor: int) -> np.ndarray:
    """One crop of a tile [S, S, …] in the frame `factor` times LR, flipped and transposed as `plan_crops` said."""
    y, x, rows, columns, transpose = (int(value) for value in cut)
    size = patch_lr * factor
    part = tile[y * factor : y * factor + size, x * factor : x * factor + size]
    if rows or columns:  # OpenCV, because NumPy takes 50 times as long to lay pixels of three bytes the other way round
        part = cv2.flip(part, -1 if rows and columns else int(columns))
    return cv2.transpose(part) if transpose else part
