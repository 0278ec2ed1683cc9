"""After the crops of an image: duplicates between crops, and small holes and islands. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from segment_anything.utils.amg import remove_small_regions
from torchvision.ops import nms

from .mask_table import MaskTable
from .rle import area, box, decode, encode


def drop_duplicates(table: MaskTable, threshold: float) -> MaskTable:
    """Box NMS between crops, in which the smaller crop wins (segment-anything, `_generate_masks`)."""
    x0, y0, x1, y1 = table.crop_box.T.astype(np.int64)
    score = 1 / torch.from_numpy((x1 - x0) * (y1 - y0))
    return table.take(nms(_inclusive(table.box), score, threshold).numpy())


def clean_regions(table: MaskTable, min_area: int, threshold: float) -> MaskTable:
    """Fill holes and drop islands below `min_area` pixels, then box NMS in which unchanged masks win (`postprocess_small_regions`)."""
    counts, changed = [], []
    for before in table.counts:
        mask = decode(before, table.height, table.width)
        mask, holes = remove_small_regions(mask, min_area, mode="holes")
        mask, islands = remove_small_regions(mask, min_area, mode="islands")
        counts.append(encode(mask) if holes or islands else before)
        changed.append(holes or islands)
    boxes = np.array([box(runs, table.height) for runs in counts], np.int32).reshape(-1, 4)
    areas = np.array([area(runs) for runs in counts], np.int64)
    score = 1 - torch.tensor(changed, dtype=torch.float32)
    kept = nms(_inclusive(boxes), score, threshold).numpy()
    return replace(table, counts=counts, box=boxes, area=areas).take(kept)


def _inclusive(boxes: np.ndarray) -> torch.Tensor:
    """Half-open int boxes as segment-anything's: the last pixel, not the one after it; an empty mask has zeros."""
    return torch.from_numpy(boxes - (boxes[:, 2:3] > 0) * np.array([0, 0, 1, 1], np.int32)).float()
