"""Checks that the small tables of a store agree with each other and with its sizes: one sentence for each contradiction. Pure.

A store may be untrusted, so a reader checks a table before it uses an offset, a count or a name from it. `verify` checks all tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..encode.rle import MAX_MASKS

IMAGE_TABLES = tuple(
    f"images/{name}" for name in ("status", "height", "width", "first_mask", "n_masks", "first_tile", "n_tiles")
)
Tables = Mapping[str, np.ndarray]


def offsets_problems(path: str, offsets: np.ndarray, end: int) -> Iterator[str]:
    """Offsets, uint64 [n + 1], must not decrease, and go from 0 to `end`."""
    if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
        yield f"{path}: expected offsets that increase from 0 to {end}, got {offsets[0]} to {offsets[-1]}"


def image_problems(t: Tables, sizes: Mapping[str, int]) -> Iterator[str]:
    """In `IMAGE_TABLES`, the images' masks and tiles must be consecutive and complete, and sizes, counts and status must be possible."""
    for what, letter in (("mask", "M"), ("tile", "N")):
        first, count = t[f"images/first_{what}"], t[f"images/n_{what}s"].astype(np.int64)
        if (count < 0).any() or count.sum() != sizes[letter] or (first != np.cumsum(count) - count).any():
            yield f"images/n_{what}s: the images have {count.sum()} {what}s, the store {sizes[letter]}, or they are out of order"
    if t["images/n_masks"].max(initial=0) > MAX_MASKS:
        yield f"images/n_masks: expected at most {MAX_MASKS} per image, got {t['images/n_masks'].max()}"
    if t["images/status"].max(initial=0) > 1:
        yield f"images/status: expected 0 or 1, got {t['images/status'].max()}"
    height, width = t["images/height"].astype(np.int64), t["images/width"].astype(np.int64)
    bad = (height < 0) | (width < 0) | (height * width >= 1 << 32)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        yield f"images/height: row {row}: {height[row]} x {width[row]} is not a valid image size (such rows: {bad.sum()})"


def place_problems(place: np.ndarray, first_row: int, t: Tables, *, tile: int, scale: int) -> Iterator[str]:
    """Each tile must be inside the image that owns its row, on the grid of the scale.

    Args:
        place: rows of `tiles/place`, [n, 3]: image, y_hr, x_hr.
        first_row: the number of the first of these rows.
        t: the `IMAGE_TABLES`, already checked.
        tile: tile size in HR pixels.
        scale: HR pixels per LR pixel.
    """
    place = place.astype(np.int64)
    rows = np.arange(first_row, first_row + len(place))
    owner = np.searchsorted(t["images/first_tile"] + t["images/n_tiles"], rows, side="right")
    room = np.stack([t["images/height"][owner], t["images/width"][owner]], axis=1).astype(np.int64) - tile
    good = ((place[:, 1:] >= 0) & (place[:, 1:] <= room) & (place[:, 1:] % scale == 0)).all(axis=1) & (place[:, 0] == owner)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        yield (
            f"tiles/place: row {first_row + row}: {place[row].tolist()} is not a position of a tile in its image "
            f"(such rows: {(~good).sum()})"
        )


def text_problems(path: str, offsets: np.ndarray, text: np.ndarray) -> Iterator[str]:
    """Names (`images/name`) must be UTF-8, not empty, unique and relative paths without `..`; notes must be UTF-8."""
    if wrong := list(offsets_problems(f"{path}_offset", offsets, len(text))):
        yield from wrong
        return
    try:
        texts = texts_of(offsets, text)
    except UnicodeDecodeError as error:
        yield f"{path}: not UTF-8: {error}"
        return
    if path != "images/name":
        return
    seen: set[str] = set()
    for row, name in enumerate(texts):
        why = "empty" if not name else "not unique" if name in seen else "a path out of a folder" if _leads_out(name) else ""
        if why:
            yield f"{path}: row {row}: the name {name!r:.200} is {why}"
            return
        seen.add(name)


def code_problems(codes: np.ndarray) -> Iterator[str]:
    """`masks/codes` must be finite."""
    good = np.isfinite(codes).all(axis=1)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        yield f"masks/codes: row {row}: expected finite numbers, got {codes[row].tolist()} (such rows: {(~good).sum()})"


def texts_of(offsets: np.ndarray, text: np.ndarray) -> list[str]:
    """Text i is `text[offsets[i] : offsets[i + 1]]`, uint8; UnicodeDecodeError if it is not UTF-8."""
    data, ends = text.tobytes(), offsets.astype(np.int64).tolist()
    return [data[start:stop].decode() for start, stop in zip(ends[:-1], ends[1:], strict=True)]


def _leads_out(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def table_problems(path: str, tables: Tables, sizes: Mapping[str, int]) -> Iterator[str]:
    """Contradictions in a table, or in the group of tables that it was read with."""
    if path in IMAGE_TABLES:
        yield from image_problems(tables, sizes)
    for text in ("images/name", "images/note"):
        if text in tables:
            yield from text_problems(text, tables[f"{text}_offset"], tables[text])
    if path == "masks/rle_offset":
        yield from offsets_problems(path, tables[path], sizes["R"])
    if path == "masks/codes":
        yield from code_problems(tables[path])
