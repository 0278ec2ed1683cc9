"""Positions of the tiles of an image. Pure."""

from __future__ import annotations

import numpy as np

from ...errors import ConfigError


def tile_grid(height_hr: int, width_hr: int, tile: int, scale: int, stride: int | None = None) -> np.ndarray:
    """Top left corners of tiles that cover the whole image; the last row and column end at the border and may overlap more.

    Args:
        height_hr: rows of the image, a multiple of the scale.
        width_hr: columns of the image, likewise.
        tile: side of a tile in HR pixels, a multiple of the scale.
        scale: HR pixels per LR pixel; all corners are multiples of it, so HR and LR tiles show the same place.
        stride: HR pixels from one tile to the next, a multiple of the scale, at most the tile; None: the tile.

    Returns:
        int32 [n, 2] of y_hr, x_hr, row by row; n = 0 if the image is smaller than a tile.

    Raises:
        ConfigError: a length that does not fit the scale.
    """
    stride = tile if stride is None else stride
    lengths = {"height": height_hr, "width": width_hr, "tile": tile, "stride": stride}
    for name, length in lengths.items():
        if length < 0 or length % scale:
            raise ConfigError(f"{name}: expected a multiple of the scale {scale}, got {length}")
    if tile < 1 or not 1 <= stride <= tile:
        raise ConfigError(f"stride: expected {scale} to the tile's {tile} (a larger one leaves gaps), got {stride}")
    rows, columns = _starts(height_hr, tile, stride), _starts(width_hr, tile, stride)
    y_hr, x_hr = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([y_hr.ravel(), x_hr.ravel()], axis=1)


def _starts(length: int, tile: int, stride: int) -> np.ndarray:
    """Starts along one axis, int32: every stride, and the last one that fits."""
    last = length - tile
    if last < 0:
        return np.zeros(0, np.int32)
    return np.append(np.arange(0, last, stride, dtype=np.int32), np.int32(last))
