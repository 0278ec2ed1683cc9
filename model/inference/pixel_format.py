"""The pixel format of an array or a PIL image (grey, alpha, bits), and conversion of a result back to it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ...errors import ImageError
from ...pipeline.decoding.pillow_modes import native_pixels
from ...pipeline.degrade.imresize import imresize
from ...pipeline.images.given import layout_hint

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, full range


@dataclass(frozen=True)
class PixelFormat:
    """The format of an image before its conversion to RGB in [-1, 1]."""

    dtype: np.dtype
    """uint8, uint16, float32 or float64."""
    grey: bool
    """Whether it has one colour band."""
    flat: bool
    """Whether it is [H, W], without an axis of bands."""
    alpha: np.ndarray | None
    """Its alpha band [H, W], if it has one."""

    def empty(self, height: int, width: int) -> np.ndarray:
        """An uninitialised array for the colours of the result: [H, W] or [H, W, 3]."""
        return np.empty((height, width) if self.grey else (height, width, 3), self.dtype)

    def restore(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [H, W, 3] in [-1, 1] (clipped) -> dtype [H, W, 3] or, for a grey image, the luma [H, W]."""
        unit = (pixels.clip(-1, 1) + 1) / 2
        if self.grey:
            unit = unit @ _LUMA
        top = _top(self.dtype)
        return (unit * top).round().astype(self.dtype) if self.dtype.kind == "u" else unit.astype(self.dtype)

    def with_alpha(self, colours: np.ndarray, scale: int) -> np.ndarray:
        """Add the alpha band, upsampled bicubically."""
        if self.alpha is None:
            return colours if self.flat or not self.grey else colours[..., None]
        alpha = self.alpha if self.dtype == np.uint8 else self.alpha / _top(self.dtype)
        large = imresize(np.ascontiguousarray(alpha), scale)
        if self.dtype != np.uint8:
            large = large.clip(0, 1) * _top(self.dtype)
            large = (large.round() if self.dtype.kind == "u" else large).astype(self.dtype)
        return np.dstack([colours, large])


def split_pixel_format(image: np.ndarray) -> tuple[np.ndarray, PixelFormat]:
    """(RGB float32 [H, W, 3] in [-1, 1], its format) of an image of one to four bands: grey, grey with alpha, RGB, RGBA.

    Raises:
        ImageError: an unsupported dtype or number of bands, an empty image, or floats outside 0 … 1.
    """
    bands = image.shape[2] if image.ndim == 3 else 1
    known = image.dtype in (np.uint8, np.uint16, np.float32, np.float64)
    if not known or image.ndim not in (2, 3) or not 1 <= bands <= 4 or image.size == 0:
        raise ImageError(
            "expected an image [H, W] or [H, W, 1 to 4] with pixels, uint8, uint16 or float32/float64 of 0 to 1, "
            f"got {image.dtype} {list(image.shape)}{layout_hint(image.shape)}"
        )
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):  # false for NaN too
        raise ImageError(f"expected floats of 0 to 1, got {image.min():g} to {image.max():g}; divide by 255, or give uint8")
    layers = image.reshape(*image.shape[:2], bands)
    alpha = layers[..., -1] if bands in (2, 4) else None
    colour = layers[..., :3] if bands >= 3 else np.repeat(layers[..., :1], 3, axis=2)
    if alpha is not None:
        colour = bled(colour, alpha)
    unit = colour.astype(np.float32) / _top(image.dtype)
    return unit * 2 - 1, PixelFormat(image.dtype, grey=bands < 3, flat=image.ndim == 2, alpha=alpha)


def pad_lr(lr: np.ndarray, multiple: int, scale: int) -> np.ndarray:
    """Mirror LR [h, w, 3] at the bottom and the right until HR fits the U-Net: sides multiples of `multiple`, at least twice it.

    The bicubic upsampling mirrors at the borders too, so the networks see what they were trained on.
    """
    step = multiple // math.gcd(multiple, scale)
    least = -(-2 * multiple // scale)
    height, width = (-(-max(side, least) // step) * step for side in lr.shape[:2])
    return np.pad(lr, ((0, height - lr.shape[0]), (0, width - lr.shape[1]), (0, 0)), mode="symmetric")


def array_of(image: Image.Image) -> np.ndarray:
    """The pixels of a PIL image as `split_pixel_format` takes them: a transparent colour becomes an alpha band, CMYK becomes RGB.

    Raises:
        ImageError: integers of unknown range, or an unsupported colour mode such as LAB.
    """
    return native_pixels(image.convert("RGB") if image.mode == "CMYK" else image)


def bled(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give fully transparent pixels the colour of the nearest visible pixel, so that their own colour (usually black) does not bleed into edges.

    Args:
        colour: [H, W, C].
        alpha: [H, W]; 0 is fully transparent.

    Returns:
        [H, W, C]; the same array if everything or nothing is visible.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colour
    _, nearest = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )  # labels number the visible pixels; each hidden pixel has that of the nearest
    place = np.zeros(int(nearest.max()) + 1, np.intp)
    visible = np.flatnonzero(~hidden)
    place[nearest.ravel()[visible]] = visible
    flat = colour.reshape(-1, colour.shape[2])
    return flat[place[nearest.ravel()]].reshape(colour.shape)


def _top(dtype: np.dtype) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1
