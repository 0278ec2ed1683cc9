"""Training samples from one or several stores: `ShardDataset`.

Everything random about a sample (tile, crop, flips) is a function of (seed, global position). So a run can be resumed from the position
alone, with any number of workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsIndex

import numpy as np

from ...errors import ConfigError, PositionError, StoreError
from ...runtime import cache_dir
from ..encode.browse import html_table, index_in
from ..scientific.view import viewed
from ..shards.reader import Store, open_store
from ..shards.schema import tiles_per_shard
from ..storage.cache import CACHE_BYTES, CachingStore
from ..storage.once import SharedArray
from .crops import crop_flip, plan_crops, shift_labels
from .order import Order
from .passes import checked_epoch

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

__all__ = ["ShardDataset", "Store", "open_store"]

_COLUMNS = {"mask": 0, "image": 1}  # mean -> column of `masks/codes`
_SEVERAL = "`batch(first, size)`"
_SHOWN = 6  # samples in a notebook


class ShardDataset:
    """Random aligned crops of HR, LR and labels from stores. A sample is a function of the seed and its global position.

    A map-style PyTorch data set: `len(data)` samples per epoch, `data[i]`, and `for sample in data` over one epoch. `data[i]` is the sample
    at position i of the current epoch, which is 0 or set by `set_epoch`; larger indices are in the following epochs.
    `data.batch(first, size)` is a batch by global position. It works after pickling and in forked processes.
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
        labels: str = "masks",
    ) -> None:
        """
        Args:
            stores: one or several stores, or their paths; all of the same scale.
            patch: size of the crop in HR pixels, a multiple of the scale; None: the smallest tile size of the stores.
            seed: seed of the order, the crops and the flips.
            hold_out: number of images at the end of each store to exclude, see `held_out_from`.
            cache: folder that keeps the shards of stores at URLs (see `cache.py`); None: `shards` in samdiff's cache folder.
            cache_bytes: limit of the size of that folder in bytes.
            check_shards: compare each shard with its recorded SHA-256 at its first use, see `open_store`. It has no effect on open stores.
            e_sam: whether samples include E_SAM; True and "mask": mean over the mask; "image": the mean of the official code.
            labels: "masks", or "shuffled": each label map moved to a random place of its crop, see `shift_labels`; a control for studies.

        Raises:
            StoreError: a store cannot be read, the stores differ in scale, or there are no tiles.
            ConfigError: the patch does not fit the tiles, or `e_sam` or `labels` is unknown.
        """
        self._mean = "mask" if e_sam is True else e_sam
        if self._mean is not False and self._mean not in _COLUMNS:
            raise ConfigError(f"e_sam: expected True, False, 'mask' or 'image', got {e_sam!r}")
        if labels not in ("masks", "shuffled"):
            raise ConfigError(f"labels: expected 'masks' or 'shuffled', got {labels!r}")
        self._shuffled = labels == "shuffled"
        self._lookup: tuple[np.ndarray, np.ndarray] | None = None
        self._epoch = SharedArray("q", [0, 0])  # the epoch, and the number of samples read by index in it
        several = stores if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]
        self.stores = [
            store
            if isinstance(store, Store)
            else open_to_stream(store, cache, cache_bytes=cache_bytes, check_shards=check_shards)
            for store in several
        ]
        if not self.stores:
            raise StoreError("expected at least one store, got none")
        first = self.stores[0]
        for store in self.stores[1:]:
            if store.scale != first.scale:
                raise StoreError(
                    f"expected stores of the same scale, got {first.place} with x{first.scale} and {store.place} with x{store.scale}"
                )
            if store.samples != first.samples:
                raise StoreError(
                    f"expected stores of the same samples, got {first.place} with {first.samples.describe()} and {store.place} with "
                    f"{store.samples.describe()}; prepare both with the same --bands, --range and --nodata"
                )
        self.scale, self.seed, self.samples = first.scale, seed, first.samples
        smallest = min(store.tile for store in self.stores)
        self.patch = smallest if patch is None else patch
        if self.patch % self.scale or not 0 < self.patch <= smallest:
            raise ConfigError(f"patch: expected a multiple of {self.scale} up to the tile size {smallest}, got {patch}")
        lengths = tuple(held_out_from(store, hold_out) for store in self.stores)
        self.order = Order(lengths, tuple(tiles_per_shard(s.tile) for s in self.stores), seed)
        if self.order.total == 0:
            raise StoreError(f"{first.place}: the store has no tiles; prepare it from images of at least the tile size")
        counts = [store.n_images for store in self.stores]
        self._first_image = np.cumsum([0, *counts[:-1]])
        self._remote = any(isinstance(store.place, CachingStore) for store in self.stores)
        self._window = (-1, -1)  # the last window whose shards were requested in advance

    def __len__(self) -> int:
        """Samples per epoch: the tiles of all stores, without those of excluded images."""
        return self.order.total

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        """One sample, see `at`; -1 is the epoch's last.

        Raises:
            PositionError: the index is below `-len(self)`; an `IndexError`.
            IndexKindError: the index is a slice or not an integer; a `TypeError`.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[dict[str, np.ndarray]]:
        """Several samples at once, as PyTorch's loader requests them of a map-style data set."""
        total = len(self)
        numbers = [index_in(index, total, several=_SEVERAL, beyond=True) for index in indices]
        batch = self.at(np.array(numbers, np.int64) + self.epoch * total)
        before, now = self._epoch.cells[1], self._epoch.cells[1] + len(numbers)
        self._epoch.cells[1] = now
        if before < 2 * total <= now:  # not earlier, so that a few samples read for inspection give no warning
            log.warning(
                "samples of epoch %d were requested for the second time, with the same crops and flips; call set_epoch before each epoch",
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
        """Set the epoch of `data[i]` and of iteration. Each epoch has its own order, crops and flips.

        Call it between two passes of a `DataLoader` over this data set, like `DistributedSampler.set_epoch`. Running workers (with
        `persistent_workers`) see it too. It has no effect on `batch`, `at`, `ShardLoader` and `ShardStream`, which use global positions.

        Raises:
            ConfigError: the epoch is negative or 2^30 and more.
        """
        self._epoch.cells[0], self._epoch.cells[1] = checked_epoch(epoch), 0

    def __repr__(self) -> str:
        places = ", ".join(repr(str(store.place)) for store in self.stores)
        crops = f"{len(self)} crops of {self.patch} px per epoch"
        return f"ShardDataset({places}: x{self.scale}, {crops}, seed {self.order.seed}, epoch {self.epoch})"

    def _repr_html_(self) -> str:
        """For notebooks: counts, sizes, and a few samples with their masks."""
        facts = {
            "stores": ", ".join(str(store.place) for store in self.stores),
            "scale": f"x{self.scale}",
            "samples per epoch": f"{len(self)} crops of {self.patch} x {self.patch} HR pixels",
            "images, masks": ", ".join(f"{store.n_images}, {store.n_masks}" for store in self.stores),
            "seed, epoch": f"{self.order.seed}, {self.epoch}",
        }
        shown = range(min(_SHOWN, len(self)))
        try:
            return html_table("ShardDataset", facts, {f"sample {k}": viewed(self[k], self.samples) for k in shown})
        except StoreError as error:  # a notebook still shows the object, with the error
            return html_table("ShardDataset", facts, {}, note=str(error))

    def batch(self, first: int, size: int) -> dict[str, np.ndarray]:
        """The samples at the global positions `first` to `first + size - 1`, see `at`."""
        return self.at(np.arange(first, first + size))

    def at(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The samples at global positions, integers [B]; position p is in epoch p // len(self).

        Returns:
            `hr` [B, P, P, C] and `lr` [B, P/s, P/s, C] of the samples' dtype (8-bit RGB: uint8, C = 3), `labels` uint16 [B, P, P], `image`
            int64 [B] (the number of the image over all stores, an index of `codes`' offsets), `position` int64 [B]; where pixels may be
            invalid also `valid` uint8 [B, P, P]; with `e_sam` also `e_sam` float32 [B, P, P].

        Raises:
            PositionError: a position is negative.
            StoreError: a file is missing or damaged.
        """
        positions = np.asarray(positions, np.int64)
        size = len(positions)
        if size and positions.min() < 0:
            raise PositionError(
                f"expected global positions of at least 0, got {positions.min()}; the last sample of an epoch is `data[-1]`"
            )
        if size:
            self._fetch_ahead(int(positions[-1]))
        which, rows = self.order.locate(positions)
        p_hr, p_lr = self.patch, self.patch // self.scale
        out: dict[str, np.ndarray] = {
            "hr": np.empty((size, p_hr, p_hr, self.samples.count), self.samples.dtype),
            "lr": np.empty((size, p_lr, p_lr, self.samples.count), self.samples.dtype),
            "labels": np.empty((size, p_hr, p_hr), np.uint16),
            "image": np.empty(size, np.int64),
            "position": positions,
            **({"valid": np.empty((size, p_hr, p_hr), np.uint8)} if self.samples.masked else {}),
        }
        for index, store in enumerate(self.stores):
            slots = np.flatnonzero(which == index)
            if len(slots) == 0:
                continue
            places = store.rows("tiles/place", rows[slots])
            out["image"][slots] = places[:, 0] + self._first_image[index]
            crops = plan_crops(positions[slots], tile_lr=store.tile // self.scale, patch_lr=p_lr, seed=self.seed)
            for name in store.tile_names:
                factor = 1 if name == "lr" else self.scale
                tile = store.tile_like(name)  # one buffer for all tiles: allocating one takes longer than decoding
                for slot, row, crop in zip(slots, rows[slots], crops, strict=True):
                    pixels = store.read_tile(name, int(row), tile)
                    out[name][slot] = crop_flip(pixels, crop, patch_lr=p_lr, factor=factor)
            store.check_labels(rows[slots], out["labels"][slots].reshape(len(slots), -1).max(axis=1))
        if self._shuffled:
            shift_labels(out["labels"], positions, seed=self.seed)
        if self._mean:
            table, offset = self._lookup = self._lookup or self.codes(self._mean)
            out["e_sam"] = table[offset[out["image"]][:, None, None] + out["labels"]]
        return out

    def _fetch_ahead(self, position: int) -> None:
        """Once per window, download the shards of this window and the next to the caches of remote stores."""
        if not self._remote:
            return
        window, blocks = self.order.ahead(position)
        if window != self._window:
            self._window = window
            for index, store in enumerate(self.stores):
                store.prefetch(blocks[blocks[:, 0] == index, 1])

    def codes(self, mean: str = "mask") -> tuple[np.ndarray, np.ndarray]:
        """A lookup table that turns labels into E_SAM on the training device: `table[offset[image] + labels]`, see `e_sam`.

        Args:
            mean: "mask" or "image", see `__init__`.

        Returns:
            `table`, float32 [images + masks]: for each image a zero (no mask), then the codes of its masks; `offset`, int64 [images]: the
            index of each image's zero.

        Raises:
            ConfigError: the mean is unknown.
        """
        column = _COLUMNS.get(mean)
        if column is None:
            raise ConfigError(f"mean: expected 'mask' or 'image', got {mean!r}")
        tables, offsets, start = [], [], 0
        for store in self.stores:
            counts = store.table("images/n_masks").astype(np.int64)
            zeros = np.cumsum(counts + 1) - (counts + 1)
            table = np.zeros(int(counts.sum()) + len(counts), np.float32)
            is_code = np.ones(len(table), bool)
            is_code[zeros] = False
            table[is_code] = store.table("masks/codes")[:, column]
            tables.append(table)
            offsets.append(zeros + start)
            start += len(table)
        return np.concatenate(tables), np.concatenate(offsets)


def held_out_from(store: Store, images: int) -> int:
    """The row of the first tile to hold out for validation: the last `images` images that have tiles are held out, but at most a tenth of them. `len(store)` if none is."""
    if images == 0:
        return len(store)
    owner = store.rows("tiles/place", np.arange(len(store)))[:, 0]  # not `table`, which would stay in memory
    used = np.unique(owner)
    count = min(images, len(used) // 10)
    return int(np.searchsorted(owner, used[-count])) if count else len(store)


def open_to_stream(
    location: Path | str, cache: Path | None = None, *, cache_bytes: int = CACHE_BYTES, check_shards: bool = True
) -> Store:
    """Open a store for training: a store at a URL is read through a cache of whole shards. Arguments and errors as of `ShardDataset`."""
    remote = "://" in str(location) and not str(location).startswith("file://")
    folder = (cache or cache_dir() / "shards") if remote else None
    return open_store(location, folder, cache_bytes=cache_bytes, check_shards=check_shards)


def e_sam(labels: torch.Tensor, image: torch.Tensor, table: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """E_SAM, float32 [B, 1, P, P], by lookup on the device of the labels.

    Args:
        labels: integers [B, P, P]; 0: no mask, k: the k-th mask of the image.
        image: int64 [B], `image` of the batch.
        table: float32, from `ShardDataset.codes`, on the device of the labels.
        offset: int64, from `ShardDataset.codes`, on the device of the labels.
    """
    return table[labels.long() + offset[image][:, None, None]][:, None]
