"""Contradictions between the contents of a store, one sentence each. Damaged files are reported by `verify`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import SamdiffError, StoreError, printable
from ...runtime import progress
from ..encode.rle import box, counts_of
from ..encode.structure import encode_structure
from .reader import Store
from .schema import tiles_per_shard
from .tables import Tables, code_problems, image_problems, offsets_problems, place_problems, text_problems
from .writer import chunk_key

CODE_TOLERANCE = 1e-6  # codes are float64 sums rounded to float32; the last bit may differ between CPUs


def content_problems(store: Store, whole: bool = False, deep: bool = False) -> Iterator[str]:
    """Contradictions in a store's contents.

    Args:
        store: may be damaged. A file that cannot be read is reported once, as `KEY: …`.
        whole: also read all pixels, to check their checksums.
        deep: also recompute codes, areas, boxes and labels from the masks' runs.
    """
    tables: dict[str, np.ndarray] = {}
    paths = [path for path, spec in store.arrays.items() if spec.rows != 1]
    for path in paths:
        try:
            tables[path] = store.table(path)
        except StoreError as error:
            yield _short(store, error)
    if len(tables) < len(paths):
        yield "contents: not checked further, because the tables above cannot be read"
        return
    problems = list(_tables(store, tables))
    yield from problems
    if not problems:  # otherwise the rows of an image's masks and tiles are not known
        yield from _tiles(store, tables, ("labels", *(n for n in store.tile_names if n != "labels")) if whole else ("labels",))
        if deep:
            yield from _deep(store, tables)


def _tables(store: Store, t: Tables) -> Iterator[str]:
    sizes = store.sizes
    for text in ("images/name", "images/note"):
        yield from text_problems(text, t[f"{text}_offset"], t[text])
    yield from offsets_problems("masks/rle_offset", t["masks/rle_offset"], sizes["R"])
    problems = list(image_problems(t, sizes))
    yield from problems
    counts = store.attrs.get("counts")
    skipped = int((t["images/status"] != 0).sum())
    actual = {"images": sizes["I"], "skipped": skipped, "tiles": sizes["N"], "masks": sizes["M"]}
    if counts is not None and counts != actual:
        yield f"zarr.json: counts: expected {actual} as in the tables, got {printable(counts):.200}"
    if problems:
        return  # it is not known which image masks and tiles belong to
    height, width = t["images/height"].astype(np.int64), t["images/width"].astype(np.int64)
    uncovered = (t["images/status"] == 0) & (height * width > t["images/n_tiles"].astype(np.int64) * store.tile**2)
    if uncovered.any():
        row = int(np.flatnonzero(uncovered)[0])
        yield f"images/n_tiles: row {row}: {t['images/n_tiles'][row]} tiles do not cover {height[row]} x {width[row]} pixels"
    yield from _places(store, t)
    yield from _masks(t, np.repeat(np.arange(sizes["I"]), t["images/n_masks"]))
    yield from place_problems(t["tiles/place"], 0, t, tile=store.tile, scale=store.scale)


def _places(store: Store, t: Tables) -> Iterator[str]:
    """Each image's coordinate reference system must be one of the root's."""
    index, known = t.get("images/crs"), store.attrs.get("crs", [])
    if index is not None and (not isinstance(known, list) or not ((index >= -1) & (index < len(known))).all()):
        yield f"images/crs: expected -1 or an index of the attribute `crs`, got {index.min()} to {index.max()}"


def _masks(t: Tables, image: np.ndarray) -> Iterator[str]:
    """Areas and boxes must fit their image, and codes must be finite; `image` is int [M], each mask's image."""
    height, width = t["images/height"].astype(np.int64)[image], t["images/width"].astype(np.int64)[image]
    yield from code_problems(t["masks/codes"])
    checks = {
        "masks/area": ("0 to H W pixels", (t["masks/area"] >= 0) & (t["masks/area"] <= height * width)),
        "masks/box_hr": (
            "a box inside the image",
            (t["masks/box_hr"] >= 0).all(axis=1) & (t["masks/box_hr"][:, 2] <= width) & (t["masks/box_hr"][:, 3] <= height),
        ),
    }
    for path, (expected, good) in checks.items():
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            yield f"{path}: row {row}: expected {expected}, got {t[path][row].tolist()} (such rows: {(~good).sum()})"


def _tiles(store: Store, t: Tables, names: tuple[str, ...]) -> Iterator[str]:
    """Labels must be at most the number of their image's masks. Reads one shard at a time."""
    slots, most = tiles_per_shard(store.tile), t["images/n_masks"][t["tiles/place"][:, 0]]
    for name in names:
        for shard, first in enumerate(progress(range(0, len(store), slots), desc=name, unit="shard")):
            rows = np.arange(first, min(first + slots, len(store)))
            try:
                tiles = store.read_tiles(name, rows)
            except StoreError as error:
                yield _short(store, error)
                continue
            if name == "valid" and tiles.max(initial=0) > 1:
                yield f"{chunk_key('tiles/valid', shard, 3)}: expected 0 or 1, got {tiles.max()}"
            largest = tiles.reshape(len(rows), -1).max(axis=1) if name == "labels" else most[rows]
            wrong = rows[largest > most[rows]]
            if len(wrong):
                row, key = int(wrong[0]), chunk_key("tiles/labels", shard, 3)
                yield (
                    f"{key}: labels without a mask: tile {row} has label {largest[row - first]}, "
                    f"{_image(store, t, row)} has {most[row]} masks (such tiles: {len(wrong)})"
                )


def _deep(store: Store, t: Tables) -> Iterator[str]:
    """Codes, areas, boxes and labels must equal those computed from the masks' runs."""
    names = [printable(name) for name in store.names()]
    for image in progress(np.flatnonzero(t["images/status"] == 0).tolist(), desc="deep", unit="image"):
        height, width = int(t["images/height"][image]), int(t["images/width"][image])
        first, count = int(t["images/first_mask"][image]), int(t["images/n_masks"][image])
        rows = slice(first, first + count)
        try:
            runs = [counts_of(counts, height, width) for counts in store.masks(image)]
            structure = encode_structure(runs, height, width)
        except StoreError as error:  # a damaged file
            yield _short(store, error)
            continue
        except SamdiffError as error:
            yield f"masks/rle: {names[image]}: {error}"
            continue
        computed = {
            "masks/codes": structure.codes,
            "masks/area": np.array([counts[1::2].sum(dtype=np.int64) for counts in runs], np.int64),
            "masks/box_hr": np.array([box(counts, height) for counts in runs], np.int32).reshape(-1, 4),
        }
        for path, expected in computed.items():
            difference = np.abs(t[path][rows].astype(np.float64) - expected)  # [masks] or [masks, numbers]; masks may be 0
            wrong = np.atleast_2d(difference.T).max(axis=0) > CODE_TOLERANCE
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                yield (
                    f"{path}: {names[image]}: mask {row + 1} has {t[path][first + row].tolist()}, "
                    f"but its runs give {expected[row].tolist()} (such masks: {wrong.sum()})"
                )
        yield from _labels_again(store, t, image=image, labels=structure.labels)


def _labels_again(store: Store, t: Tables, *, image: int, labels: np.ndarray) -> Iterator[str]:
    first, count, size = int(t["images/first_tile"][image]), int(t["images/n_tiles"][image]), store.tile
    for row in range(first, first + count):
        _, y, x = t["tiles/place"][row]
        try:
            tile = store.read_tiles("labels", [row])[0]
        except StoreError:
            continue  # reported by `_tiles`
        if not np.array_equal(tile, labels[y : y + size, x : x + size]):
            yield f"tiles/labels: tile {row} ({_image(store, t, row)}) differs from the painted masks"


def _image(store: Store, t: Tables, row: int) -> str:
    image, y, x = t["tiles/place"][row].tolist()
    return f"image {printable(store.names()[image])} at y {y}, x {x}"


def _short(store: Store, error: StoreError) -> str:
    return str(error).removeprefix(f"{store.place}/")
