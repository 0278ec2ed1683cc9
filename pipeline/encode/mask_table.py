"""Masks of one image as arrays: the one type from the segmenter to the store. Segment-anything's records stand at the edges. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import SamdiffError
from .rle import CocoMask, area, box, counts_of, decode, encode, to_coco

_COLUMNS = ("area", "box", "predicted_iou", "stability", "point", "crop_box")


@dataclass(frozen=True)
class MaskTable:
    """M masks of one image, in the generator's order (descending predicted IoU), in the image's own frame."""

    height: int
    """H of the image."""
    width: int
    """W of the image."""
    counts: list[np.ndarray]
    """Runs of each mask: uint32 [R], column-major, zeros first (`rle`)."""
    area: np.ndarray
    """int64 [M]: pixels."""
    box: np.ndarray
    """int32 [M, 4]: x0, y0, x1, y1, half-open."""
    predicted_iou: np.ndarray
    """float32 [M]: the segmenter's own estimate."""
    stability: np.ndarray
    """float32 [M]: |logit > offset| / |logit > -offset|; before region clean-up."""
    point: np.ndarray
    """float64 [M, 2]: (x, y) of the prompt, in pixels."""
    crop_box: np.ndarray
    """int32 [M, 4]: crop it was found in, x0, y0, x1, y1, half-open."""

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, kept: np.ndarray) -> MaskTable:
        """Some masks, by their numbers, int [m], in that order."""
        arrays: Any = {name: getattr(self, name)[kept] for name in _COLUMNS}
        return replace(self, counts=[self.counts[k] for k in kept], **arrays)

    @classmethod
    def concat(cls, tables: Sequence[MaskTable]) -> MaskTable:
        """The masks of several tables of the same image, one after the other."""
        arrays: Any = {name: np.concatenate([getattr(table, name) for table in tables]) for name in _COLUMNS}
        return replace(tables[0], counts=[runs for table in tables for runs in table.counts], **arrays)

    def records(self) -> list[CocoMask]:
        """Segment-anything's records: XYWH boxes whose width and height are last - first pixel, as that generator has them."""
        return [
            {
                "segmentation": to_coco(counts, self.height, self.width),
                "area": int(self.area[k]),
                "bbox": _inclusive_xywh(self.box[k]),
                "predicted_iou": float(self.predicted_iou[k]),
                "point_coords": [self.point[k].tolist()],
                "stability_score": float(self.stability[k]),
                "crop_box": _xywh(self.crop_box[k]),
            }
            for k, counts in enumerate(self.counts)
        ]

    @classmethod
    def of_records(cls, records: Sequence[CocoMask], height: int, width: int) -> MaskTable:
        """The table of segment-anything's records for an image [height, width]; what a record lacks is NaN or the whole image.

        Raises:
            SamdiffError: a mask is damaged or of another size.
        """
        return cls.of_runs([counts_of(record["segmentation"], height, width) for record in records], records, height, width)

    @classmethod
    def of_runs(cls, runs: Sequence[np.ndarray], records: Sequence[CocoMask], height: int, width: int) -> MaskTable:
        """The table of masks as runs, uint32 [R] each; what else is known of each stands in a record, whose `segmentation` is not read."""
        crops = np.array([record.get("crop_box") or [0, 0, width, height] for record in records], np.int32).reshape(-1, 4)
        crops[:, 2:] += crops[:, :2]
        points = [(record.get("point_coords") or [[np.nan, np.nan]])[0] for record in records]
        return cls(
            height,
            width,
            list(runs),
            np.array([area(counts) for counts in runs], np.int64),
            np.array([box(counts, height) for counts in runs], np.int32).reshape(-1, 4),
            np.array([record.get("predicted_iou", np.nan) for record in records], np.float32),
            np.array([record.get("stability_score", np.nan) for record in records], np.float32),
            np.array(points, np.float64).reshape(-1, 2),
            crops,
        )

    @classmethod
    def of(cls, masks: MaskTable | Sequence[CocoMask], height: int, width: int) -> MaskTable:
        """What a segmenter gave for an image [height, width]: a table as it is, records as a table."""
        if not isinstance(masks, MaskTable):
            return cls.of_records(masks, height, width)
        if (masks.height, masks.width) != (height, width):
            raise SamdiffError(
                f"masks: made for {masks.height} x {masks.width} pixels (H x W), the image has {height} x {width}"
            )
        return masks

    def enlarged(self, scale: int) -> MaskTable:
        """The masks in a frame that is `scale` times larger: a pixel becomes scale x scale pixels, points stay at the same place."""
        large = [
            encode(decode(runs, self.height, self.width).repeat(scale, axis=0).repeat(scale, axis=1)) for runs in self.counts
        ]
        return replace(
            self,
            height=self.height * scale,
            width=self.width * scale,
            counts=large,
            area=self.area * scale**2,
            box=self.box * scale,
            point=self.point * scale,
            crop_box=self.crop_box * scale,
        )


def _xywh(box_xyxy: np.ndarray) -> list[int]:
    x0, y0, x1, y1 = box_xyxy.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def _inclusive_xywh(box_xyxy: np.ndarray) -> list[int]:
    x0, y0, x1, y1 = box_xyxy.tolist()
    return [x0, y0, max(0, x1 - 1 - x0), max(0, y1 - 1 - y0)]
