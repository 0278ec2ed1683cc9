"""The random crop and flips of a sample, as a function of (seed, global position). Pure."""

from __future__ import annotations

import cv2
import numpy as np

from .order import draw
from .random_streams import Stream


def plan_crops(positions: np.ndarray, *, tile_lr: int, patch_lr: int, seed: int) -> np.ndarray:
    """The random crop and flips of samples, as a function of seed and position.

    Args:
        positions: int [B], global positions.
        tile_lr: tile size in LR pixels.
        patch_lr: crop size in LR pixels.
        seed: seed of the data set.

    Returns:
        int64 [B, 5]: y_lr and x_lr of the crop's top left corner, then 0 or 1 each: flip rows, flip columns, transpose.
    """
    room = tile_lr - patch_lr + 1
    limits = (
        (Stream.CROP_Y, room),
        (Stream.CROP_X, room),
        (Stream.FLIP_ROWS, 2),
        (Stream.FLIP_COLUMNS, 2),
        (Stream.TRANSPOSE, 2),
    )
    columns = [draw(0, limit, words=(seed, stream, positions)) for stream, limit in limits]
    return np.stack(columns, axis=1)


def shift_labels(labels: np.ndarray, positions: np.ndarray, *, seed: int) -> None:
    """Move label maps cyclically, in place: regions of the same sizes at random places, as a control. A function of seed and position.

    Args:
        labels: integers [B, P, P]; moved by P / 4 to 3 P / 4 pixels in each direction, so that no map stays near its place.
        positions: int [B], global positions.
        seed: seed of the data set.
    """
    side = labels.shape[1]
    low, high = side // 4, side - side // 4
    shifts = [draw(low, high, words=(seed, stream, positions)) for stream in (Stream.LABELS_Y, Stream.LABELS_X)]
    for number, shift in enumerate(zip(*shifts, strict=True)):
        labels[number] = np.roll(labels[number], shift, axis=(0, 1))


def crop_flip(tile: np.ndarray, crop: np.ndarray, *, patch_lr: int, factor: int) -> np.ndarray:
    """Crop, flip and transpose a tile.

    Args:
        tile: [S, S, …].
        crop: a row of `plan_crops`.
        patch_lr: crop size in LR pixels.
        factor: pixels of the tile per LR pixel.

    Returns:
        [patch_lr * factor, patch_lr * factor, …].
    """
    y, x, rows, columns, transpose = (int(value) for value in crop)
    size = patch_lr * factor
    part = tile[y * factor : y * factor + size, x * factor : x * factor + size]
    if part.ndim == 3 and part.shape[2] not in (
        3,
        4,
    ):  # OpenCV drops the axis of one band, and transposes at most 32 bytes per pixel
        part = part[:: -1 if rows else 1, :: -1 if columns else 1]
        return part.swapaxes(0, 1) if transpose else part
    if rows or columns:  # NumPy takes 50 times as long as OpenCV to flip pixels of three bytes
        part = cv2.flip(part, -1 if rows and columns else int(columns))
    return cv2.transpose(part) if transpose else part
