"""The masks of one image of a store, as the segmenter returned them."""

from __future__ import annotations

import numpy as np

from ..encode.mask_table import MaskTable
from ..shards.reader import Store


def used_images(store: Store) -> list[int]:
    """The rows of all images that were not skipped, in order."""
    rows: list[int] = np.flatnonzero(store.table("images/status") == 0).tolist()
    return rows


def mask_table(store: Store, image: int) -> MaskTable:
    """The masks of one image as the segmenter returned them, which may overlap; `image` is its row in the store."""
    first, count = int(store.table("images/first_mask")[image]), int(store.table("images/n_masks")[image])
    rows = slice(first, first + count)
    return MaskTable(
        height=int(store.table("images/height")[image]),
        width=int(store.table("images/width")[image]),
        counts=store.masks(image),
        area=store.table("masks/area")[rows],
        box=store.table("masks/box_hr")[rows],
        predicted_iou=store.table("masks/predicted_iou")[rows],
        stability=store.table("masks/stability")[rows],
        point=store.table("masks/point_hr")[rows],
        crop_box=store.table("masks/crop_box_hr")[rows],
    )
