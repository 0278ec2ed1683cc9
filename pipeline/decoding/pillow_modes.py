"""Pillow's images of any mode as grey, grey with alpha, RGB or RGBA arrays: no band lost, none invented. Pure."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ...errors import ImageError

FILLED = 16
"""Samples must fill at least one part in so many of their range."""
_SAMPLED = 1 << 20  # pixels that percentiles are taken of
_DIRECT = ("L", "LA", "RGB", "RGBA")


def native_pixels(image: Image.Image, depth: int = 8) -> np.ndarray:
    """The pixels of a loaded image as they are, with a transparent colour (PNG's tRNS, GIF's index) as an alpha band.

    Args:
        image: of any mode.
        depth: bits per sample in the file, to which a transparent colour is relative.

    Returns:
        uint8 [H, W], [H, W, 2], [H, W, 3] or [H, W, 4]; uint16 [H, W] of 16-bit grey; float32 [H, W]. CMYK is [H, W, 4] and the caller's.

    Raises:
        ImageError: the mode is none of these.
    """
    mode, key = image.mode, image.info.get("transparency")
    if mode == "P":
        return np.asarray(image.convert("RGBA" if key is not None else "RGB"))
    if mode == "1":
        image, depth = image.convert("L"), 1
    if mode in ("1", "L", "RGB") and isinstance(key, int | tuple):
        return with_key(np.asarray(image), key, depth)
    if mode in ("1", "CMYK", *_DIRECT):
        return np.asarray(image)
    if mode in ("PA", "RGBa"):
        return np.asarray(image.convert("RGBA"))
    if mode == "La":
        return np.asarray(image.convert("LA"))
    if mode in ("RGBX", "YCbCr"):
        return np.asarray(image.convert("RGB"))
    if mode == "F":
        return np.asarray(image)
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)
    if mode == "I":
        raise ImageError("integers of more than 16 bits, whose range is not known; save it with 8 or 16 bits")
    raise ImageError(f"colours of the kind {mode}, which are not supported; save it as RGB")


def with_key(pixels: np.ndarray, key: int | tuple[int, ...], depth: int) -> np.ndarray:
    """Add an alpha band: 0 where a pixel has the transparent colour, opaque elsewhere (PNG specification, 11.3.1.1).

    Args:
        pixels: uint8 or uint16, [H, W] or [H, W, 3].
        key: the colour, in samples of `depth` bits.
        depth: bits per sample in the file; 1, 2 and 4 were stretched to 8.
    """
    top = int(np.iinfo(pixels.dtype).max)
    levels = (1 << depth) - 1
    colour = np.array(key) & levels  # only the lowest bits count
    scaled = (colour * (top // levels)).astype(pixels.dtype)
    layers = pixels if pixels.ndim == 3 else pixels[..., None]
    alpha = np.where((layers == scaled).all(axis=2), 0, top).astype(pixels.dtype)
    return np.dstack([layers, alpha])


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    """uint8 of uint8, uint16 (round(v / 257)) or floats of 0 to 1, in bands of rows, because what is widened takes twice the memory."""
    if pixels.dtype == np.uint8:
        return pixels
    out = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 256):
        rows = pixels[top : top + 256]
        out[top : top + 256] = (rows.astype(np.uint32) + 128) // 257 if rows.dtype == np.uint16 else np.floor(rows * 255 + 0.5)
    return out


def check_fills(pixels: np.ndarray) -> np.ndarray:
    """The same pixels, if their colours fill at least a sixteenth of their range, so that 8 bits keep more than 16 of 256 levels.

    The range is that of percentiles 0.1 to 99.9, so that a few hot pixels do not count. 8-bit pixels always pass.

    Args:
        pixels: uint8, uint16 or float32 of 0 to 1; [H, W] or [H, W, 2 to 4], 2 and 4 with alpha.

    Raises:
        ImageError: they do not, so 8 bits would show nearly one colour; says what they hold.
    """
    if pixels.dtype == np.uint8 or not pixels.size:
        return pixels
    top = 65535 if pixels.dtype == np.uint16 else 1
    layers = pixels if pixels.ndim == 3 else pixels[..., None]
    colours = layers[..., :3] if layers.shape[2] > 2 else layers[..., :1]
    step = max(1, math.isqrt(colours[..., 0].size // _SAMPLED))
    low, high = np.quantile(colours[::step, ::step], (0.001, 0.999), method="nearest").tolist()
    least, spread = top / FILLED, high - low
    if high <= 0 or spread >= least or (spread == 0 and high > least):
        return pixels  # a single colour loses nothing, unless it would become nearly black
    kind = "16-bit samples" if top > 1 else "floats"
    raise ImageError(
        f"{kind} from {low:g} to {high:g} of 0 to {top} (percentiles 0.1 and 99.9), less than a sixteenth of the range: 8 bits would show "
        "nearly one colour; stretch them to the whole range first, or keep them with `samdiff prepare --keep-depth --range auto`"
    )


def sixteen_bit(pixels: np.ndarray) -> np.ndarray:
    """uint16 of uint8 (v * 257), uint16, or floats of 0 to 1."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * 257
    return pixels if pixels.dtype == np.uint16 else np.floor(pixels * np.float32(65535) + 0.5).astype(np.uint16)


def over_white(pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """uint8 pixels of any number of bands -> RGB [H, W, 3] over white, and whether anything was transparent."""
    layers = pixels if pixels.ndim == 3 else pixels[..., None]
    bands = layers.shape[2]
    colour = layers[..., :3] if bands > 2 else np.repeat(layers[..., :1], 3, axis=2)
    if bands in (1, 3) or layers[..., -1].min(initial=255) == 255:
        return colour, False
    alpha = layers[..., -1:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8), True


def check_floats(values: np.ndarray) -> np.ndarray:
    """The same floats, if they are 0 to 1.

    Raises:
        ImageError: they are not; says their range.
    """
    if not np.isfinite(values).all():
        raise ImageError("holds NaN or infinite values; save it with 8 or 16 bits")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ImageError(f"floats from {values.min():g} to {values.max():g}; expected 0 to 1, or save it with 8 or 16 bits")
    return values
