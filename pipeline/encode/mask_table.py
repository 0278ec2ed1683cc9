"""Masks of one image as arrays: the type used from the segmenter to the store, with conversion to and from segment-anything's records. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from ...errors import SamdiffError
from .rle import CocoMask, area, box, counts_of, decode, encode, to_coco


class _Columns(TypedDict):
    """The columns of a `MaskTable` that are arrays."""

    area: np.ndarray
    box: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray
    point: np.ndarray
    crop_box: np.ndarray


@dataclass(frozen=True)
class MaskTable:
    """M masks of one image, in the generator's order (descending predicted IoU), in the coordinates of the image."""

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
    """int32 [M, 4]: the crop that the mask was predicted in, x0, y0, x1, y1, half-open."""

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, kept: np.ndarray) -> MaskTable:
        """The masks with the indices `kept`, int [m], in that order."""
        columns: _Columns = {
            "area": self.area[kept],
            "box": self.box[kept],
            "predicted_iou": self.predicted_iou[kept],
            "stability": self.stability[kept],
            "point": self.point[kept],
            "crop_box": self.crop_box[kept],
        }
        return replace(self, counts=[self.counts[k] for k in kept], **columns)

    @classmethod
    def concat(cls, tables: Sequence[MaskTable]) -> MaskTable:
        """The masks of several tables of the same image, concatenated."""
        columns: _Columns = {
            "area": np.concatenate([table.area for table in tables]),
            "box": np.concatenate([table.box for table in tables]),
            "predicted_iou": np.concatenate([table.predicted_iou for table in tables]),
            "stability": np.concatenate([table.stability for table in tables]),
            "point": np.concatenate([table.point for table in tables]),
            "crop_box": np.concatenate([table.crop_box for table in tables]),
        }
        return replace(tables[0], counts=[runs for table in tables for runs in table.counts], **columns)

    def records(self) -> list[CocoMask]:
        """Segment-anything's records. As there, `bbox` is [x, y, w, h] with w and h the difference of last and first pixel."""
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
        """The table of segment-anything's records for an image [height, width].

        A missing number becomes NaN; a missing `crop_box` becomes the whole image.

        Raises:
            SamdiffError: a mask is damaged or of another size.
        """
        runs = [counts_of(record["segmentation"], height, width) for record in records]
        return cls.of_runs(runs, records, height=height, width=width)

    @classmethod
    def of_runs(cls, runs: Sequence[np.ndarray], records: Sequence[CocoMask], *, height: int, width: int) -> MaskTable:
        """The table of masks given as runs.

        Args:
            runs: uint32 [R] of each mask.
            records: the other values of each mask, as in `of_records`; `segmentation` is not read.
            height: H of the image.
            width: W of the image.
        """
        crops = np.array([record.get("crop_box") or [0, 0, width, height] for record in records], np.int32).reshape(-1, 4)
        crops[:, 2:] += crops[:, :2]
        points = [(record.get("point_coords") or [[np.nan, np.nan]])[0] for record in records]
        return cls(
            height=height,
            width=width,
            counts=list(runs),
            area=np.array([area(counts) for counts in runs], np.int64),
            box=np.array([box(counts, height) for counts in runs], np.int32).reshape(-1, 4),
            predicted_iou=np.array([record.get("predicted_iou", np.nan) for record in records], np.float32),
            stability=np.array([record.get("stability_score", np.nan) for record in records], np.float32),
            point=np.array(points, np.float64).reshape(-1, 2),
            crop_box=crops,
        )

    @classmethod
    def of(cls, masks: MaskTable | Sequence[CocoMask], height: int, width: int) -> MaskTable:
        """The output of a segmenter for an image [height, width] as a table: tables are returned unchanged, records are converted.

        Raises:
            SamdiffError: the masks belong to an image of another size, or one is damaged.
        """
        if not isinstance(masks, MaskTable):
            return cls.of_records(masks, height, width)
        if (masks.height, masks.width) != (height, width):
            raise SamdiffError(
                f"masks: made for {masks.height} x {masks.width} pixels (H x W), the image has {height} x {width}"
            )
        return masks

    def enlarged(self, scale: int) -> MaskTable:
        """The masks of the image enlarged by `scale` with nearest-neighbour interpolation; coordinates are multiplied by `scale`."""
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
