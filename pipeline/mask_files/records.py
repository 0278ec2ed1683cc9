"""The values of one record of a mask: checked before use, because a file may be untrusted. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ...errors import SamdiffError
from ..encode.polygons import polygon_runs, union_runs
from ..encode.rle import MAX_MASKS, CocoMask, counts_of
from .sizes import ImageSize

_LARGEST_SIDE = 1 << 30  # of a box, so that its sums stay in int32
_LARGEST_NUMBER = 3e38  # within float32

Masks = list[tuple[np.ndarray, dict[str, object]]]
"""Of each mask of an image: its runs, uint32 [R], and the other values of its record, as `MaskTable.of_runs` takes them."""


class MaskReader(Protocol):
    """Files with masks of several images."""

    def digest(self) -> str:
        """SHA-256 of all names and contents, hexadecimal."""

    def find(self, name: str) -> tuple[str | None, str]:
        """The entry with the masks of an image; None, and what was expected, if there is none.

        Raises:
            SamdiffError: several entries fit.
        """

    def masks(self, entry: str, name: str, size: ImageSize) -> Masks:
        """The masks of an entry in painting order, for the image `name` of that size.

        Raises:
            SamdiffError: they are damaged, or belong to another image.
            ChangedError: the file is not the one that `digest` read.
        """

    def entries(self) -> Sequence[str]:
        """All entries."""


def masks_of_records(records: Sequence[CocoMask], size: ImageSize, stated: tuple[int, int] | None = None) -> Masks:
    """The masks of an image's records, checked and cropped like the image.

    Args:
        records: each with `segmentation` as COCO RLE or, if a size is stated, as polygons.
        size: of the image.
        stated: (H, W) of the image according to the file; None: not stated.

    Raises:
        SamdiffError: a value of another type, shape or range, too many masks, or masks of another size.
    """
    if len(records) > MAX_MASKS:
        raise SamdiffError(f"expected at most {MAX_MASKS} masks (labels are uint16), got {len(records)}")
    if stated is not None:
        size.check(*stated)
    return [_mask(record, size, stated) for record in records]


def _mask(record: CocoMask, size: ImageSize, stated: tuple[int, int] | None) -> tuple[np.ndarray, dict[str, object]]:
    segmentation, kept = record.get("segmentation"), checked_record(record)
    if isinstance(segmentation, Mapping):
        counts = counts_of(segmentation)
        made_for = (int(segmentation["size"][0]), int(segmentation["size"][1]))
    elif isinstance(segmentation, list) and stated is not None:
        made_for = stated
        if not segmentation:
            raise SamdiffError(
                "a record without polygons: its `segmentation` is an empty list; delete the record, or draw its mask"
            )
        counts = union_runs([polygon_runs(polygon, *stated) for polygon in segmentation], stated[0] * stated[1])
    else:
        more = "" if stated is not None else "; polygons need the image's height and width in the file"
        raise SamdiffError(f"expected records with `segmentation` as COCO RLE (amg.py --convert-to-rle) or polygons{more}")
    if stated is not None and made_for != stated:
        raise SamdiffError(f"a mask of {made_for[1]} x {made_for[0]} pixels (W x H) in a file of {stated[1]} x {stated[0]}")
    size.check(*made_for)
    if size.is_cropped(*made_for):
        kept.pop("crop_box", None)
    return size.crop(counts, *made_for), kept


def checked_record(record: CocoMask) -> dict[str, object]:
    """The optional keys of a record, without `segmentation`: finite numbers in segment-anything's shapes; null and NaN are left out.

    Raises:
        SamdiffError: a value of another type, shape or range.
    """
    kept: dict[str, object] = {}
    for key in ("predicted_iou", "stability_score"):
        value = record.get(key)
        if value is None or _is_nan(value):
            continue
        if not _is_number(value):
            raise SamdiffError(f"{key}: expected a finite number, got {_shown(value)}")
        kept[key] = float(value)
    points = record.get("point_coords")
    if points is not None and points != []:
        point = points[0] if isinstance(points, list) else points
        if not (isinstance(point, list) and len(point) == 2 and all(_is_number(v) or _is_nan(v) for v in point)):
            raise SamdiffError(f"point_coords: expected [[x, y]], 2 numbers, got {_shown(points)}")
        if not any(map(_is_nan, point)):
            kept["point_coords"] = [[float(value) for value in point]]
    box = record.get("crop_box")
    if box is not None and box != []:
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_side, box))):
            raise SamdiffError(f"crop_box: expected [x, y, w, h], 4 numbers of whole pixels >= 0, got {_shown(box)}")
        kept["crop_box"] = [int(value) for value in box]
    return kept


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_side(value: object) -> bool:
    """Whether it is a whole number of pixels."""
    return isinstance(value, int | float) and _is_number(value) and 0 <= value <= _LARGEST_SIDE and value == int(value)


def _shown(value: object) -> str:
    """A value as JSON, cut after 80 characters."""
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__} that is very deep or long"
    return text if len(text) <= 80 else f"{text[:80]}…"
