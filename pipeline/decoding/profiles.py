"""Colour profiles (ICC.1): whether one is sRGB, and conversion to sRGB with LittleCMS, which Pillow brings."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from ...errors import ImageError, printable

_SAME = 3  # levels of 255 by which the many profiles called sRGB differ among each other
_SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def space_of(icc: bytes) -> str:
    """`L`, `RGB` or `CMYK`, the colours that a profile is for; empty for others. ICC.1, header: colour space of the data."""
    return _SPACES.get(icc[16:20], "")


@lru_cache(64)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile leaves sRGB colours as they are, whatever it is called: a grid of colours is sent through it.

    Raises:
        ImageError: the profile is damaged.
    """
    mode = space_of(icc)
    if mode not in ("L", "RGB"):
        return False
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    grid = (
        np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(36, 6, 3)
        if mode == "RGB"
        else np.arange(256, dtype=np.uint8)[None]
    )
    expected = grid if mode == "RGB" else np.repeat(grid[..., None], 3, axis=2)
    return int(np.abs(converted(grid, icc).astype(int) - expected).max()) <= _SAME


@lru_cache(64)
def name_of(icc: bytes) -> str:
    """What a profile calls itself, printable; its colour space if it does not say.

    Raises:
        ImageError: the profile is damaged.
    """
    try:
        text = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip()
    except Exception as error:  # noqa: BLE001 - LittleCMS and Pillow raise many kinds of exceptions; the caller leaves the profile out
        raise ImageError("its colour profile cannot be read") from error
    return printable(text)[:60] or space_of(icc)


def converted(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """Colours in sRGB, relative colorimetric with black point compensation.

    Args:
        pixels: uint8 [H, W] grey, [H, W, 3] RGB or [H, W, 4] CMYK, as the profile is for.
        icc: the profile that they are in.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ImageError: the profile is damaged, or is for other colours.
    """
    mode = space_of(icc)
    try:
        transform = _transform(icc, mode)
        image = Image.fromarray(np.ascontiguousarray(pixels), mode)
        return np.asarray(ImageCms.applyTransform(image, transform))
    except Exception as error:  # noqa: BLE001 - as above
        raise ImageError("its colour profile cannot be used") from error


@lru_cache(16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        inMode=mode,
        outMode="RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=_FLAGS,
    )
