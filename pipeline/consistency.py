"""Do the contents of a store agree with each other? One sentence for each contradiction; damaged files are left to `verify`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import SamdiffError, StoreError
from ..runtime import progress
from .contract import ARRAYS, tiles_per_shard
from .rle import box, counts_of
from .shards import chunk_key
from .store import Store
from .structure import encode_structure

CODE_TOLERANCE = 1e-6  # codes are float32 of sums in float64: another CPU may round the last bit differently
_RAGGED = (("images/name_offset", "B"), ("images/note_offset", "B2"), ("masks/rle_offset", "R"))


def content_problems(store: Store, whole: bool = False, deep: bool = False) -> Iterator[str]:
    """Contradictions in a store's contents.

    Args:
        store: need not be sound; what cannot be read is named, once, as `KEY: …`.
        whole: also read all pixels, for their checksums.
        deep: recompute codes, areas, boxes and labels from the masks' runs.
    """
    tables: dict[str, np.ndarray] = {}
    wanted = [spec.path for spec in ARRAYS if spec.path not in ("tiles/hr", "tiles/lr", "tiles/labels")]
    for path in wanted:
        try:
            tables[path] = store.table(path)
        except StoreError as error:
            yield _short(store, error)
    if len(tables) < len(wanted):
        yield "contents: not checked further, because the tables above cannot be read"
        return
    problems = list(_tables(store, tables))
    yield from problems
    if not problems:  # rows of masks and tiles can be found
        yield from _tiles(store, tables, ("labels", "hr", "lr") if whole else ("labels",))
        if deep:
            yield from _deep(store, tables)


def _tables(store: Store, t: dict[str, np.ndarray]) -> Iterator[str]:
    sizes = store.sizes
    for path, letter in _RAGGED:
        ends = t[path].astype(np.int64)
        if ends[0] != 0 or (np.diff(ends) < 0).any() or ends[-1] != sizes[letter]:
            yield f"{path}: expected to rise from 0 to {sizes[letter]}, got {ends[0]} to {ends[-1]}"
    for what, letter in (("mask", "M"), ("tile", "N")):
        first, count = t[f"images/first_{what}"], t[f"images/n_{what}s"].astype(np.int64)
        if (count < 0).any() or count.sum() != sizes[letter] or (first != np.cumsum(count) - count).any():
            yield f"images/n_{what}s: the images have {count.sum()} {what}s, the store {sizes[letter]}, or they are out of order"
    counts = store.attrs.get("counts")
    skipped = int((t["images/status"] != 0).sum())
    real = {"images": sizes["I"], "skipped": skipped, "tiles": sizes["N"], "masks": sizes["M"]}
    if counts is not None and counts != real:
        yield f"zarr.json: counts: the root says {counts}, the tables {real}"
    if t["images/status"].max(initial=0) > 1:
        yield f"images/status: expected 0 or 1, got {t['images/status'].max()}"
    image_of_mask = np.repeat(np.arange(sizes["I"]), np.maximum(t["images/n_masks"], 0))
    if len(image_of_mask) == sizes["M"]:
        yield from _masks(t, image_of_mask)
    yield from _places(store, t)


def _masks(t: dict[str, np.ndarray], image: np.ndarray) -> Iterator[str]:
    height, width = t["images/height"].astype(np.int64)[image], t["images/width"].astype(np.int64)[image]
    checks = {
        "masks/codes": ("finite numbers", np.isfinite(t["masks/codes"]).all(axis=1)),
        "masks/area": ("0 to H W pixels", (t["masks/area"] >= 0) & (t["masks/area"] <= height * width)),
        "masks/box_hr": (
            "a box inside the image",
            (t["masks/box_hr"] >= 0).all(axis=1) & (t["masks/box_hr"][:, 2] <= width) & (t["masks/box_hr"][:, 3] <= height),
        ),
    }
    for path, (wanted, good) in checks.items():
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            yield f"{path}: row {row}: expected {wanted}, got {t[path][row].tolist()} ({(~good).sum()} such rows)"


def _places(store: Store, t: dict[str, np.ndarray]) -> Iterator[str]:
    place, counts = t["tiles/place"].astype(np.int64), np.maximum(t["images/n_tiles"], 0)
    image = np.clip(place[:, 0], 0, max(0, store.n_images - 1))
    room = np.stack([t["images/height"][image], t["images/width"][image]], axis=1) - store.tile
    good = ((place[:, 1:] >= 0) & (place[:, 1:] <= room) & (place[:, 1:] % store.scale == 0)).all(axis=1)
    if counts.sum() == len(place):
        good &= place[:, 0] == np.repeat(np.arange(store.n_images), counts)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        yield f"tiles/place: row {row}: {place[row].tolist()} is no place of a tile in its image ({(~good).sum()} such rows)"


def _tiles(store: Store, t: dict[str, np.ndarray], names: tuple[str, ...]) -> Iterator[str]:
    """Labels must name masks that their image has; one shard at a time."""
    slots, most = tiles_per_shard(store.tile), t["images/n_masks"][t["tiles/place"][:, 0]]
    for name in names:
        for shard, first in enumerate(progress(range(0, len(store), slots), desc=name, unit="shard")):
            rows = np.arange(first, min(first + slots, len(store)))
            try:
                tiles = store.read_tiles(name, rows)
            except StoreError as error:
                yield _short(store, error)
                continue
            largest = tiles.reshape(len(rows), -1).max(axis=1) if name == "labels" else most[rows]
            wrong = rows[largest > most[rows]]
            if len(wrong):
                row, key = int(wrong[0]), chunk_key("tiles/labels", shard, 3)
                yield (
                    f"{key}: labels that name no mask: tile {row} has label {largest[row - first]}, "
                    f"{_image(store, t, row)} has {most[row]} masks ({len(wrong)} such tiles)"
                )


def _deep(store: Store, t: dict[str, np.ndarray]) -> Iterator[str]:
    """Everything that follows from the runs, computed again."""
    names = store.names()
    for image in progress(np.flatnonzero(t["images/status"] == 0).tolist(), desc="deep", unit="image"):
        height, width = int(t["images/height"][image]), int(t["images/width"][image])
        first, count = int(t["images/first_mask"][image]), int(t["images/n_masks"][image])
        mine = slice(first, first + count)
        try:
            runs = [counts_of(counts, height, width) for counts in store.masks(image)]
        except SamdiffError as error:
            yield f"masks/rle: {names[image]}: {error}"
            continue
        again = encode_structure(runs, height, width)
        facts: dict[str, Any] = {
            "masks/codes": again.codes,
            "masks/area": np.array([counts[1::2].sum(dtype=np.int64) for counts in runs], np.int64),
            "masks/box_hr": np.array([box(counts, height) for counts in runs], np.int32).reshape(-1, 4),
        }
        for path, expected in facts.items():
            wrong = (
                np.abs(t[path][mine].astype(np.float64) - expected).reshape(count, -1).max(axis=1, initial=0) > CODE_TOLERANCE
            )
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                yield (
                    f"{path}: {names[image]}: mask {row + 1} has {t[path][first + row].tolist()}, "
                    f"its runs say {expected[row].tolist()} ({wrong.sum()} such masks)"
                )
        yield from _labels_again(store, t, image, again.labels)


def _labels_again(store: Store, t: dict[str, np.ndarray], image: int, labels: np.ndarray) -> Iterator[str]:
    first, count, size = int(t["images/first_tile"][image]), int(t["images/n_tiles"][image]), store.tile
    for row in range(first, first + count):
        _, y, x = t["tiles/place"][row]
        try:
            tile = store.read_tiles("labels", [row])[0]
        except StoreError:
            continue  # named by the pass over the shards
        if not np.array_equal(tile, labels[y : y + size, x : x + size]):
            yield f"tiles/labels: tile {row} ({_image(store, t, row)}) differs from the painted masks"


def _image(store: Store, t: dict[str, np.ndarray], row: int) -> str:
    image, y, x = t["tiles/place"][row].tolist()
    return f"image {store.names()[image]} at y {y}, x {x}"


def _short(store: Store, error: StoreError) -> str:
    return str(error).removeprefix(f"{store.place}/")
