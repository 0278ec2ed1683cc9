"""From segmented images to a committed store: the stages `tiles` and `commit`.

Deterministic: rows are in the order of the source, whatever the order in which images were segmented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ...errors import ImageError, StoreError, printable
from ...runtime import progress
from ..degrade.invalid import margin_of, usable_pixels
from ..degrade.recipes import degrade
from ..degrade.tiles import tile_grid
from ..encode.mask_table import MaskTable
from ..encode.rle import paint_labels
from ..encode.structure import encode_structure
from ..images.decode import Limits, map_ahead
from ..images.pairs import on_common_grid, why_not_lr
from ..images.sources import ImageFile, SourceReader
from ..images.unchanged import read_unchanged
from ..scientific.residuals import Residuals
from ..scientific.sample_format import RGB8, SampleFormat, format_in
from ..scientific.samples import Place, Places, Samples
from ..shards.schema import Document, arrays_of
from ..shards.writer import StoreWriter, store_keys
from ..storage.local import KeyStore
from .scan import SourceImage
from .staging import ImageMasks, Staging


@dataclass(frozen=True)
class Grid:
    """The grid of tiles of an image; lengths in HR pixels."""

    tile: int
    """T: side of a tile, a multiple of the scale."""
    scale: int
    """s: HR pixels per LR pixel."""
    stride: int | None = None
    """Step from one tile to the next, a multiple of the scale; None: the tile."""

    def corners(self, height: int, width: int) -> np.ndarray:
        """int32 [n, 2] of y_hr, x_hr for an image of this size, see `tile_grid`."""
        return tile_grid(height, width, tile=self.tile, scale=self.scale, stride=self.stride)


def image_masks(masks: MaskTable, note: str = "") -> ImageMasks:
    """The masks of one image with their structure codes, as the arrays of a store."""
    return ImageMasks(
        height=masks.height,
        width=masks.width,
        note=note,
        codes=encode_structure(masks.counts, masks.height, masks.width).codes,
        area=masks.area,
        box_hr=masks.box,
        predicted_iou=masks.predicted_iou,
        stability=masks.stability,
        point_hr=masks.point.astype(np.float32),
        crop_box_hr=masks.crop_box,
        rle_offset=np.cumsum([0, *map(len, masks.counts)]).astype(np.uint64),
        rle=np.concatenate([np.zeros(0, np.uint32), *masks.counts]),
    )


def cut_tiles(
    hr: np.ndarray, lr: np.ndarray, labels: np.ndarray, *, grid: Grid, usable: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Cut HR, LR and labels of one image into tiles at the same positions.

    Args:
        hr: [H, W, C]; H and W multiples of the scale.
        lr: [H/s, W/s, C].
        labels: uint16 [H, W].
        grid: tile size T, scale s and stride.
        usable: bool [H, W], see `usable_pixels`; None: the store has no `tiles/valid`.

    Returns:
        `hr` [n, T, T, C], `lr` [n, T/s, T/s, C], `labels` uint16 [n, T, T], `corner` int32 [n, 2] of y_hr, x_hr; `valid` uint8 [n, T, T]
        if `usable` is given.
    """
    tile, scale = grid.tile, grid.scale
    assert hr.shape[:2] == labels.shape == (lr.shape[0] * scale, lr.shape[1] * scale), (hr.shape, lr.shape, labels.shape)
    corners = grid.corners(*labels.shape)
    small = tile // scale
    return {
        "hr": np.stack([hr[y : y + tile, x : x + tile] for y, x in corners]),
        "lr": np.stack([lr[y // scale :][:small, x // scale :][:, :small] for y, x in corners]),
        "labels": np.stack([labels[y : y + tile, x : x + tile] for y, x in corners]),
        **(
            {}
            if usable is None
            else {"valid": np.stack([usable[y : y + tile, x : x + tile] for y, x in corners]).view(np.uint8)}
        ),
        "corner": corners,
    }


@dataclass(frozen=True)
class Summary:
    """The sizes of one image's data. The masks themselves stay on disk, so that memory does not grow with the number of images."""

    image: SourceImage
    height: int = 0
    width: int = 0
    note: str = ""
    skipped: bool = False
    masks: int = 0
    runs: int = 0
    tiles: int = 0


def summarise(images: Sequence[SourceImage], skipped: Mapping[str, str], staging: Staging, *, grid: Grid) -> list[Summary]:
    """The summaries of all images in order.

    Args:
        images: from `scan`.
        skipped: name -> reason for the images without masks.
        staging: holds the masks of all other images.
        grid: the grid of tiles.

    Raises:
        StoreError: masks are missing or damaged. Damaged ones were deleted, so that another run makes them again.
    """
    summaries, lost, first = [], 0, None
    for item in images:
        try:
            summaries.append(_summary(item, skipped.get(item.image_file.name), staging, grid=grid))
        except StoreError as error:
            lost, first = lost + 1, first or error
    if first is not None:
        raise StoreError(f"{first} ({lost} of {len(images)} images, the others are kept)") from first
    return summaries


def _summary(item: SourceImage, reason: str | None, staging: Staging, *, grid: Grid) -> Summary:
    if reason is not None:
        return Summary(item, note=reason, skipped=True)
    masks = _load_masks(staging, item.key)
    return Summary(
        item,
        height=masks.height,
        width=masks.width,
        note=masks.note,
        masks=masks.n_masks,
        runs=len(masks.rle),
        tiles=len(grid.corners(masks.height, masks.width)),
    )


def write_store(images: Sequence[Summary], staging: Staging, out: KeyStore, *, facts: Document, limits: Limits) -> None:
    """Write all arrays in the order of the source, then commit.

    Args:
        images: from `summarise`.
        staging: holds the image masks.
        out: the store.
        facts: the root document's attributes (scale, tile, stride, degradation, …).
        limits: limits on image sizes.

    Raises:
        ChangedError: a file changed since `scan`.
        StoreError: the masks of an image are missing or damaged.
    """
    grid, samples = Grid(tile=facts["tile"], scale=facts["scale"], stride=facts["stride"]), format_in(facts)
    sizes, arrays = _sizes(images, grid), arrays_of(samples)
    staging.begin_writing(store_keys(sizes, arrays))
    writer = StoreWriter(out, sizes, arrays)
    writer.append({**_image_tables(images), "masks/rle_offset": np.zeros(1, np.uint64)})
    read_pair = partial(hr_and_lr, scale=grid.scale, degradation=facts["degradation"], limits=limits, samples=samples)
    places, measured = Places(samples), Residuals(samples, grid.scale)
    pixels = map_ahead(read_pair, [summary.image for summary in images if not summary.skipped])
    runs = 0
    for number, summary in enumerate(progress(images, desc="tiles", unit="image")):
        if summary.skipped:
            writer.append(places.row(Place()))
            continue
        masks = _load_masks(staging, summary.image.key)
        writer.append(_mask_rows(masks, runs))
        runs += len(masks.rle)
        _, pair = next(pixels)
        hr = pair.hr
        if hr.shape[:2] != (masks.height, masks.width):
            staging.discard(summary.image.key)
            raise StoreError(
                f"{staging}: the masks of {printable(summary.image.image_file.name)} belong to an image of another size, "
                f"{masks.width} x {masks.height} instead of {hr.shape[1]} x {hr.shape[0]} pixels; they were deleted; "
                "run the same command again to make new ones"
            )
        labels = paint_labels(masks.runs(), masks.height, masks.width)
        tiles = cut_tiles(hr, pair.lr, labels, grid=grid, usable=pair.usable)
        corners = tiles.pop("corner")
        measured.add(tiles)
        writer.append(places.row(pair.place))
        place = np.concatenate([np.full((len(corners), 1), number, np.int32), corners], axis=1)
        writer.append({"tiles/place": place, **{f"tiles/{name}": values for name, values in tiles.items()}})
    counts = {"images": len(images), "skipped": sum(i.skipped for i in images), "tiles": sizes["N"], "masks": sizes["M"]}
    writer.commit({**facts, **places.attributes(), **measured.attributes(), "counts": counts})


def _load_masks(staging: Staging, key: str) -> ImageMasks:
    masks = staging.load(key)
    if masks is None:
        staging.discard(key)
        raise StoreError(
            f"{staging}: the masks of an image are missing or damaged; run the same command again to make new ones"
        )
    return masks


@dataclass(frozen=True)
class ImagePair:
    """HR and LR of one image."""

    hr: np.ndarray
    """[H, W, C], cropped to the scale."""
    lr: np.ndarray
    """[H/s, W/s, C]: degraded HR, or the given file."""
    usable: np.ndarray | None = None
    """bool [H, W], see `usable_pixels`; None: pixels of these samples are always valid."""
    place: Place = field(default_factory=Place)

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return self.hr.nbytes + self.lr.nbytes + (0 if self.usable is None else self.usable.nbytes)


def hr_and_lr(
    item: SourceImage,
    source_reader: SourceReader,
    *,
    scale: int,
    degradation: Document,
    limits: Limits,
    samples: SampleFormat = RGB8,
) -> ImagePair:
    """HR and LR of an image, read from its file again."""
    read = partial(_read_again, source_reader=source_reader, limits=limits, samples=samples)
    whole = read(item.image_file, item.sha256)
    shape = whole.values.shape[:2]
    of_hr, of_lr = on_common_grid(shape, scale)
    hr, valid = np.ascontiguousarray(whole.values[of_hr]), None if whole.valid is None else whole.valid[of_hr]
    usable = None
    if samples.masked:
        margin = margin_of(degradation["kind"], scale, degradation.get("gains", ()))
        usable = np.ones(hr.shape[:2], bool) if valid is None else usable_pixels(valid, scale, margin)
    if degradation["kind"] != "given":
        facts = {"seed": degradation.get("seed", 0), "content": item.sha256}
        lr = degrade(hr, degradation["kind"], scale, **facts, gains=degradation.get("gains", ()), offset=samples.offset)
        return ImagePair(hr, lr, usable, whole.place)
    assert item.lr is not None
    given = read(item.lr, item.lr_sha256)
    problem = why_not_lr(given.values.shape[:2], shape, scale)
    if problem is not None:
        raise ImageError(f"{item.image_file.name}: {problem}")
    lr = np.ascontiguousarray(given.values[of_lr])
    if usable is not None and given.valid is not None:
        usable &= given.valid[of_lr].repeat(scale, axis=0).repeat(scale, axis=1)
    return ImagePair(hr, lr, usable, whole.place)


def _read_again(
    image_file: ImageFile, sha256: str, *, source_reader: SourceReader, limits: Limits, samples: SampleFormat
) -> Samples:
    try:
        return read_unchanged(image_file, sha256, limits=limits, source_reader=source_reader, samples=samples).samples
    except ImageError as error:
        raise ImageError(
            f"{image_file.name}: was readable before, but is not any more ({error}); run the same command again"
        ) from error


def _sizes(images: Sequence[Summary], grid: Grid) -> dict[str, int]:
    """The lengths of the schema's dimensions, see `shards.schema`."""
    return {
        "I": len(images),
        "N": sum(summary.tiles for summary in images),
        "M": sum(summary.masks for summary in images),
        "R": sum(summary.runs for summary in images),
        "B": sum(len(summary.image.image_file.name.encode()) for summary in images),
        "B2": sum(len(summary.note.encode()) for summary in images),
        "T": grid.tile,
        "t": grid.tile // grid.scale,
    }


def _image_tables(images: Sequence[Summary]) -> dict[str, np.ndarray]:
    names, notes = [i.image.image_file.name.encode() for i in images], [i.note.encode() for i in images]
    masks, tiles = np.array([i.masks for i in images], np.int64), np.array([i.tiles for i in images], np.int64)
    return {
        "images/name_offset": np.cumsum([0, *map(len, names)]),
        "images/name": np.frombuffer(b"".join(names), np.uint8),
        "images/note_offset": np.cumsum([0, *map(len, notes)]),
        "images/note": np.frombuffer(b"".join(notes), np.uint8),
        "images/sha256": np.array([list(bytes.fromhex(i.image.sha256)) for i in images], np.uint8),
        "images/status": np.array([i.skipped for i in images], np.uint8),
        "images/height": np.array([i.height for i in images], np.int32),
        "images/width": np.array([i.width for i in images], np.int32),
        "images/n_masks": masks,
        "images/first_mask": np.cumsum(masks) - masks,
        "images/n_tiles": tiles,
        "images/first_tile": np.cumsum(tiles) - tiles,
    }


def _mask_rows(masks: ImageMasks, runs_before: int) -> dict[str, np.ndarray]:
    same = ("codes", "area", "box_hr", "predicted_iou", "stability", "point_hr", "crop_box_hr", "rle")
    return {
        **{f"masks/{name}": getattr(masks, name) for name in same},
        "masks/rle_offset": masks.rle_offset[1:] + np.uint64(runs_before),
    }
