"""What a page shows of a store: its numbers, how its masks are distributed, and some of its images with their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..errors import StoreError, printable
from ..pipeline.encode.rle import paint_labels
from ..pipeline.prepare.info import bytes_text, size_rows, store_rows, structure_line
from ..pipeline.scientific.view import range_view
from ..pipeline.shards.reader import Store
from .files import ImageFiles
from .layers import (
    edges_layer,
    fit,
    inner_points,
    lossless_png,
    lossy_webp,
    masks_layer,
    resized,
    structure_layer,
)
from .parts import DrawnImage, Histogram, Pairs, StorePart

MOST_PIXELS = 250_000_000
"""Larger images are not drawn: they would take gigabytes of memory."""
_THUMB = 320  # pixels, longest side
_MOST_POINTS = 150  # numbers of masks that are written on an image
_BINS = 40
_BLANK = 232  # grey of pixels that no tile covers


def read_store(
    store: Store, files: ImageFiles, *, images: int, side: int, advance: Callable[[], object] = lambda: None
) -> StorePart:
    """A store as a part of a page.

    Args:
        store: an open store.
        files: gets the images.
        images: how many to draw, evenly spread over the store.
        side: longest side of the drawn images in pixels.
        advance: called after each drawn image.

    Raises:
        StoreError: a file is missing or damaged.
    """
    names = [printable(name) for name in store.names()]
    tiles = store.table("images/n_tiles")
    large = store.table("images/height").astype(np.int64) * store.table("images/width") > MOST_PIXELS
    drawn = []
    for index in chosen_images(np.where(large, 0, tiles), images):
        drawn.append(draw_image(store, index, files, side=side))
        advance()
    skipped = {str(int(row)): printable(store.note(int(row))) for row in np.flatnonzero(store.table("images/status"))}
    return StorePart(
        title=printable(store.place),
        numbers=_numbers(store),
        facts=tuple(store_rows(store)[:3]) + _sizes(store),
        settings=settings_rows(store.attrs),
        notes=_notes(store, drawn=len(drawn), usable=int((tiles > 0).sum()), large=int(large.sum())),
        tile=store.tile,
        scale=store.scale,
        histograms=tuple(histograms(store, [image.coverage for image in drawn])),
        names=tuple(names),
        widths=_integers(store.table("images/width")),
        heights=_integers(store.table("images/height")),
        masks=_integers(store.table("images/n_masks")),
        tiles=_integers(tiles),
        skipped=skipped,
        drawn=tuple(drawn),
    )


def chosen_images(tiles: np.ndarray, count: int) -> list[int]:
    """At most `count` rows of images that have tiles, evenly spread, with the first and the last. `tiles` is int [I]."""
    usable = np.flatnonzero(tiles > 0)
    if len(usable) > count:
        usable = usable[np.unique(np.linspace(0, len(usable) - 1, count).round().astype(np.int64))] if count else usable[:0]
    return [int(row) for row in usable]


def draw_image(store: Store, index: int, files: ImageFiles, side: int) -> DrawnImage:
    """One image of a store with its layers."""
    height, width = (int(store.table(f"images/{name}")[index]) for name in ("height", "width"))
    rows = np.arange(store.table("images/n_tiles")[index]) + store.table("images/first_tile")[index]
    places = store.rows("tiles/place", rows)[:, 1:]
    hr = assembled(store, "hr", rows, places=places, size=(height, width))
    lr = assembled(store, "lr", rows, places=places // store.scale, size=(height // store.scale, width // store.scale))
    whole = paint_labels(store.masks(index), height, width)
    shown = fit(height, width, side)
    labels = _nearest(whole, *shown)
    first, count = int(store.table("images/first_mask")[index]), int(store.table("images/n_masks")[index])
    codes = store.table("masks/codes")[first : first + count, 0]
    return DrawnImage(
        index=index,
        thumb=files.add(lossy_webp(resized(hr, *fit(height, width, _THUMB)), 80), "webp"),
        base=files.add(lossy_webp(resized(hr, *shown)), "webp"),
        lr=files.add(lossless_png(resized(lr, *fit(lr.shape[0], lr.shape[1], side))), "png"),
        masks=files.add(masks_layer(labels), "png"),
        edges=files.add(edges_layer(labels), "png"),
        structure=files.add(structure_layer(labels, codes), "png"),
        width=shown[1],
        height=shown[0],
        tiles=tuple((int(y), int(x)) for y, x in places),
        points=_points(store, whole, first),
        coverage=float((whole > 0).mean()) if whole.size else 0.0,
    )


def assembled(store: Store, name: str, rows: np.ndarray, *, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image put together from its tiles, uint8 [H, W, 3]; grey where no tile is.

    Args:
        store: the store.
        name: `hr` or `lr`.
        rows: int [n], rows of the tiles.
        places: int [n, 2]: y and x of each tile, in pixels of this image.
        size: H and W.
    """
    canvas = np.full((*size, 3), _BLANK, np.uint8)
    for row, (y, x) in zip(rows, places, strict=True):
        tile = range_view(store.read_tiles(name, [int(row)])[0], store.samples)
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return canvas


def histograms(store: Store, coverage: list[float]) -> list[Histogram]:
    """How the masks of a store are distributed."""
    used = store.table("images/status") == 0
    made = [
        histogram(store.table("images/n_masks")[used], title="Masks per image", label="masks", of="images"),
        histogram(store.table("masks/area"), title="Area of masks", label="pixels", of="masks", logarithmic=True),
        histogram(
            np.array(coverage) * 100,
            title="Coverage of images by masks",
            label="% of the pixels",
            of="images",
            bounds=(0, 100),
            note="of the drawn images",
        ),
        histogram(store.table("masks/predicted_iou"), title="Predicted IoU", label="predicted IoU", of="masks"),
        histogram(store.table("masks/stability"), title="Stability score", label="stability score", of="masks"),
    ]
    return [each for each in made if sum(each.counts)]


def histogram(
    values: np.ndarray,
    *,
    title: str,
    label: str,
    of: str,
    logarithmic: bool = False,
    bounds: tuple[float, float] | None = None,
    note: str = "",
) -> Histogram:
    """Counts of values in at most 40 equal bins, over their range or `bounds`; values that are not finite are left out and noted.

    Whole numbers get bins of whole numbers. On a logarithmic axis, values below 1 are left out.
    """
    finite = values[np.isfinite(values)]
    if logarithmic:
        finite = finite[finite >= 1]
    left = len(values) - len(finite)
    notes = [text for text in (note, f"without {left} that have no value" if left else "") if text]
    low, high = bounds or ((float(finite.min()), float(finite.max())) if len(finite) else (1.0, 2.0))
    if logarithmic:
        edges = np.geomspace(low, max(high, low * 1.01), _BINS + 1)
    elif values.dtype.kind in "iu":
        step = max(1, -(-int(high - low + 1) // _BINS))
        edges = np.arange(low - 0.5, high + step, step)
    else:
        edges = np.linspace(low, high if high > low else low + 0.01, _BINS + 1)
    edges[-1] = max(edges[-1], high)  # against rounding
    counts = np.histogram(finite, edges)[0]
    return Histogram(
        title=title,
        label=label,
        of=of,
        edges=tuple(float(f"{edge:.6g}") for edge in edges),
        counts=_integers(counts),
        logarithmic=logarithmic,
        note="; ".join(notes),
    )


def settings_rows(settings: Mapping[str, object]) -> Pairs:
    """Segmenter, degradation and the like as (`segmenter.name`, text), safe to print."""
    wanted = ("segmenter", "degradation", "structure", "software", "uncompared")
    return tuple(flat({name: settings[name] for name in wanted if settings.get(name)}))


def flat(values: Mapping[str, object], above: str = "") -> list[tuple[str, str]]:
    """Nested settings as (`a.b`, text), safe to print."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above}.{printable(key)}" if above else printable(key)
        if isinstance(value, Mapping):
            rows += flat(value, name)
        else:
            rows.append((name, printable("" if value is None else value)))
    return rows


def _numbers(store: Store) -> Pairs:
    used = int((store.table("images/status") == 0).sum())
    total = sum(size for size, _ in store.manifest.values())
    return (
        ("images", f"{used:,}"),
        ("skipped", f"{store.n_images - used:,}"),
        ("masks", f"{store.n_masks:,}"),
        ("tiles", f"{len(store):,}"),
        ("scale", f"x{store.scale}"),
        ("on disk", bytes_text(total)),
    )


def _sizes(store: Store) -> Pairs:
    return (
        *((f"on disk: {name}", " ".join(text.split())) for name, text in size_rows(store)),
        ("structure", structure_line(store)),
    )


def _notes(store: Store, *, drawn: int, usable: int, large: int) -> tuple[str, ...]:
    notes = []
    if large:
        notes.append(f"{large:,} images have more than {MOST_PIXELS / 1e6:g} megapixels and are not drawn.")
    if drawn < usable:
        notes.append(f"{drawn:,} of {usable:,} images are drawn, evenly spread over the store; --images N draws more.")
    if not len(store):
        notes.append("The store has no tiles: all of its images are skipped or smaller than a tile.")
    return tuple(notes)


def _points(store: Store, labels: np.ndarray, first: int) -> tuple[tuple[float, ...], ...]:
    """Numbers of the largest masks with their places and values."""
    places = inner_points(labels)
    rows = np.array(sorted(places), np.int64) + first - 1
    area, iou, stability = (store.table(f"masks/{name}")[rows] for name in ("area", "predicted_iou", "stability"))
    order = np.argsort(-area, kind="stable")[:_MOST_POINTS]
    return tuple(
        (
            int(rows[k]) - first + 1,
            *places[int(rows[k]) - first + 1],
            int(area[k]),
            round(float(iou[k]), 4),
            round(float(stability[k]), 4),
        )
        for k in order
    )


def _nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Labels at a smaller size: those at the centres of the new pixels."""
    if labels.shape == (height, width):
        return labels
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(np.int64)
    return np.ascontiguousarray(labels[rows[:, None], columns[None]])


def _integers(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def open_for_report(place: str) -> Store:
    """A store for reading, without comparing whole shards with their digests: only some tiles are read.

    Raises:
        StoreError: there is no finished store; the message says what to do.
    """
    from ..pipeline.shards.reader import open_store

    try:
        return open_store(place, check_shards=False)
    except StoreError as error:
        raise StoreError(f"report: {error}") from error
