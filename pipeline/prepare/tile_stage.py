"""From finished images to a committed store: the stages `tiles` and `commit`.

Deterministic: rows come in the order of the source, and nothing depends on when or by whom an image was segmented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...errors import ImageError, StoreError, printable
from ...runtime import progress
from ..degrade.recipes import degrade
from ..degrade.tiles import tile_grid
from ..encode.mask_table import MaskTable
from ..encode.rle import paint_labels
from ..encode.structure import encode_structure
from ..images.decode import Limits, map_ahead
from ..images.pairs import on_common_grid, why_not_lr
from ..images.sources import ImageFile, SourceReader
from ..images.unchanged import read_unchanged
from ..shards.writer import StoreWriter, store_keys
from ..storage.local import KeyStore
from .scan import SourceImage, crop_to_scale
from .staging import ImageMasks, Staging


def image_masks(masks: MaskTable, note: str = "") -> ImageMasks:
    """The masks of one image, with their codes, as the arrays that a store keeps."""
    return ImageMasks(
        masks.height,
        masks.width,
        note,
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
    hr: np.ndarray, lr: np.ndarray, labels: np.ndarray, tile: int, scale: int, stride: int | None = None
) -> dict[str, np.ndarray]:
    """Tiles of one whole image: the same places cut from HR, LR and labels.

    Args:
        hr: uint8 [H, W, 3]; H and W multiples of the scale.
        lr: uint8 [H/s, W/s, 3], made from all of `hr`.
        labels: uint16 [H, W].
        tile: T, a multiple of the scale.
        scale: s.
        stride: HR pixels from one tile to the next; None: the tile.

    Returns:
        `hr` [n, T, T, 3], `lr` [n, T/s, T/s, 3], `labels` [n, T, T], `corner` int32 [n, 2] of y_hr, x_hr.
    """
    assert hr.shape[:2] == labels.shape == (lr.shape[0] * scale, lr.shape[1] * scale), (hr.shape, lr.shape, labels.shape)
    corners = tile_grid(*labels.shape, tile, scale, stride)
    small = tile // scale
    return {
        "hr": np.stack([hr[y : y + tile, x : x + tile] for y, x in corners]),
        "lr": np.stack([lr[y // scale :][:small, x // scale :][:, :small] for y, x in corners]),
        "labels": np.stack([labels[y : y + tile, x : x + tile] for y, x in corners]),
        "corner": corners,
    }


@dataclass(frozen=True)
class Summary:
    """One image of the store to be: the few numbers that its sizes need. The masks themselves stay on the disk."""

    found: SourceImage
    height: int = 0
    width: int = 0
    note: str = ""
    skipped: bool = False
    masks: int = 0
    runs: int = 0
    tiles: int = 0


def summarise(
    found: Sequence[SourceImage], skipped: Mapping[str, str], staging: Staging, tile: int, scale: int, stride: int | None = None
) -> list[Summary]:
    """The numbers of all images in order, from the committed image masks; `skipped` gives name -> reason of the others.

    Raises:
        StoreError: image masks are gone or damaged. All of these were deleted, so one more run makes them.
    """
    images, lost, first = [], 0, None
    for item in found:
        try:
            images.append(_summary(item, skipped.get(item.image_file.name), staging, (tile, scale, stride)))
        except StoreError as error:
            lost, first = lost + 1, first or error
    if first is not None:
        raise StoreError(f"{first} ({lost} of {len(found)} images, the others are kept)") from first
    return images


def _summary(item: SourceImage, reason: str | None, staging: Staging, grid: tuple[int, int, int | None]) -> Summary:
    if reason is not None:
        return Summary(item, note=reason, skipped=True)
    masks = _committed(staging, item.key)
    tiles = len(tile_grid(masks.height, masks.width, *grid))
    return Summary(item, masks.height, masks.width, masks.note, False, masks.n_masks, len(masks.rle), tiles)


def write_store(images: Sequence[Summary], staging: Staging, out: KeyStore, facts: Mapping[str, Any], limits: Limits) -> None:
    """Write all arrays in the order of the source, then commit.

    Args:
        images: from `summarise`.
        staging: holds the image masks.
        out: where the store goes.
        facts: the root document's attributes (scale, tile, stride, degradation, …).
        limits: bounds on image sizes.

    Raises:
        ChangedError: a file is not what was scanned.
        StoreError: the masks of an image are gone or damaged.
    """
    tile, scale, stride = facts["tile"], facts["scale"], facts["stride"]
    sizes = _sizes(images, tile, scale)
    staging.begin_writing(store_keys(sizes))
    writer = StoreWriter(out, sizes)
    writer.append({**_image_tables(images), "masks/rle_offset": np.zeros(1, np.uint64)})
    work = partial(_hr_and_lr, scale=scale, degradation=facts["degradation"], limits=limits)
    pixels = map_ahead(work, [image.found for image in images if not image.skipped])
    runs = 0
    for number, image in enumerate(progress(images, desc="tiles", unit="image")):
        if image.skipped:
            continue
        masks = _committed(staging, image.found.key)
        writer.append(_mask_rows(masks, runs))
        runs += len(masks.rle)
        _, (hr, lr) = next(pixels)
        if hr.shape[:2] != (masks.height, masks.width):
            staging.discard(image.found.key)
            raise StoreError(
                f"{staging}: the masks of {printable(image.found.image_file.name)} are those of an image of another size; "
                "it was deleted; run the same command again to make it anew"
            )
        labels = paint_labels(masks.runs(), masks.height, masks.width)
        tiles = cut_tiles(hr, lr, labels, tile, scale, stride)
        corners = tiles.pop("corner")
        place = np.concatenate([np.full((len(corners), 1), number, np.int32), corners], axis=1)
        writer.append({"tiles/place": place, **{f"tiles/{name}": values for name, values in tiles.items()}})
    counts = {"images": len(images), "skipped": sum(i.skipped for i in images), "tiles": sizes["N"], "masks": sizes["M"]}
    writer.commit({**facts, "counts": counts})


def _committed(staging: Staging, key: str) -> ImageMasks:
    masks = staging.load(key)
    if masks is None:
        staging.discard(key)
        raise StoreError(f"{staging}: the masks of an image are gone or damaged; run the same command again to make it anew")
    return masks


def _hr_and_lr(
    found: SourceImage, source_reader: SourceReader, scale: int, degradation: Mapping[str, Any], limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """The whole HR image, cropped to the scale, and its LR image: made, or read where it is given. uint8 [H, W, 3], [H/s, W/s, 3]."""
    whole = _read_again(found.image_file, found.sha256, source_reader, limits)
    hr = crop_to_scale(whole, scale)
    if degradation["kind"] != "given":
        return hr, degrade(hr, degradation["kind"], scale, seed=degradation.get("seed", 0), content=found.sha256)
    assert found.lr is not None
    lr = _read_again(found.lr, found.lr_sha256, source_reader, limits)
    problem = why_not_lr(lr.shape[:2], whole.shape[:2], scale)
    if problem is not None:
        raise ImageError(f"{found.image_file.name}: {problem}")
    _, of_lr = on_common_grid(whole.shape[:2], scale)
    return hr, np.ascontiguousarray(lr[of_lr])


def _read_again(image_file: ImageFile, sha256: str, source_reader: SourceReader, limits: Limits) -> np.ndarray:
    try:
        return read_unchanged(image_file, sha256, limits, source_reader).pixels
    except ImageError as error:
        raise ImageError(
            f"{image_file.name}: could be read before and cannot now ({error}); run the same command again"
        ) from error


def _sizes(images: Sequence[Summary], tile: int, scale: int) -> dict[str, int]:
    return {
        "I": len(images),
        "N": sum(image.tiles for image in images),
        "M": sum(image.masks for image in images),
        "R": sum(image.runs for image in images),
        "B": sum(len(image.found.image_file.name.encode()) for image in images),
        "B2": sum(len(image.note.encode()) for image in images),
        "T": tile,
        "t": tile // scale,
    }


def _image_tables(images: Sequence[Summary]) -> dict[str, np.ndarray]:
    names, notes = [i.found.image_file.name.encode() for i in images], [i.note.encode() for i in images]
    masks, tiles = np.array([i.masks for i in images], np.int64), np.array([i.tiles for i in images], np.int64)
    return {
        "images/name_offset": np.cumsum([0, *map(len, names)]),
        "images/name": np.frombuffer(b"".join(names), np.uint8),
        "images/note_offset": np.cumsum([0, *map(len, notes)]),
        "images/note": np.frombuffer(b"".join(notes), np.uint8),
        "images/sha256": np.array([list(bytes.fromhex(i.found.sha256)) for i in images], np.uint8),
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
