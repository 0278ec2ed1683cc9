"""Images of a page as PNG or WebP: HR and LR, and the layers of masks above them. Pure: arrays in, bytes out."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from ..errors import SamdiffError
from ..model.sheets.contact_sheet import colour_map
from ..model.sheets.overlay import E_LIMIT, PALETTE, diverging, neighbour_colours

TOP_DIFFERENCE = 32.0
"""Difference (levels of 255) of the brightest colour of a difference map."""
_LEVELS = 255  # of the structure map; its palette has one more entry, which is transparent


def fit(height: int, width: int, side: int) -> tuple[int, int]:
    """The size (height, width) of an image whose longest side is reduced to at most `side`."""
    longest = max(height, width)
    if longest <= side:
        return height, width
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))


def as_rgb8(pixels: np.ndarray) -> np.ndarray:
    """Pixels uint8 or uint16 [H, W] or [H, W, bands] as uint8 [H, W, 3]: one or two bands are grey, of more the first three are shown."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    shown = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    return np.ascontiguousarray(shown)


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image reduced to a size by averaging; unchanged if it has the size."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def lossless_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as PNG."""
    return _encoded(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 4])


def lossy_webp(pixels: np.ndarray, quality: int = 88) -> bytes:
    """uint8 [H, W, 3] RGB as WebP."""
    return _encoded(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])


def masks_layer(labels: np.ndarray) -> bytes:
    """The masks as opaque colours that differ between neighbours, transparent where none is: PNG with a palette.

    Args:
        labels: integers [H, W]; 0 is no mask.
    """
    colours = np.where(labels > 0, neighbour_colours(labels)[labels] + 1, 0)
    return _palette_png(colours, PALETTE)


def edges_layer(labels: np.ndarray) -> bytes:
    """The boundaries of the masks in white between dark lines, else transparent: PNG with a palette. `labels` as in `masks_layer`."""
    border = np.zeros(labels.shape, np.uint8)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    wide = cv2.dilate(border, np.ones((3, 3), np.uint8))
    return _palette_png(np.where(border > 0, 2, wide), np.array([(20, 20, 20), (255, 255, 255)], np.uint8))


def structure_layer(labels: np.ndarray, codes: np.ndarray) -> bytes:
    """E_SAM from blue (-sqrt 2) over white (0) to red (sqrt 2), transparent where no mask is: PNG with a palette.

    Args:
        labels: integers [H, W]; 0 is no mask, k the k-th.
        codes: float [M]: E_SAM of each mask.
    """
    level = np.clip((np.nan_to_num(codes) / E_LIMIT + 1) / 2, 0, 1) * (_LEVELS - 1)
    index = np.concatenate([[0], 1 + level.round()]).astype(np.uint8)
    return _palette_png(index[labels], diverging(np.linspace(-1, 1, _LEVELS)))


def difference_layer(image: np.ndarray, truth: np.ndarray) -> bytes:
    """|image - truth|, the mean of RGB, in colours from 0 (dark) to `TOP_DIFFERENCE` and more (bright): PNG. Both uint8 [H, W, 3]."""
    difference = np.abs(image.astype(np.int16) - truth).mean(axis=2)
    return lossless_png(colour_map(difference, TOP_DIFFERENCE))


def inner_points(labels: np.ndarray) -> dict[int, tuple[int, int]]:
    """Label -> (x, y) of a pixel of its visible part, near the middle of its columns. `labels` as in `masks_layer`."""
    by_column = labels.T.ravel()
    order = np.argsort(by_column, kind="stable")
    values, first, count = np.unique(by_column[order], return_index=True, return_counts=True)
    middle = order[first + count // 2]
    x, y = np.divmod(middle, labels.shape[0])
    return {int(k): (int(a), int(b)) for k, a, b in zip(values, x, y, strict=True) if k > 0}


def _palette_png(index: np.ndarray, colours: np.ndarray) -> bytes:
    """An image of palette indices [H, W]: 0 is transparent, k is `colours[k - 1]`."""
    image = Image.fromarray(index.astype(np.uint8)).convert("P")
    image.putpalette(np.concatenate([[(0, 0, 0)], colours]).astype(np.uint8).tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", transparency=0, compress_level=6, bits=4 if len(colours) < 16 else 8)
    return out.getvalue()


def _encoded(suffix: str, pixels: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]), options)
    if not done:
        raise SamdiffError(
            f"report: an image of {pixels.shape[1]} x {pixels.shape[0]} pixels cannot be encoded as {suffix[1:]}"
        )
    return data.tobytes()
