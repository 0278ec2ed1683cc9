"""What kind of picture an array or a PIL image is, and how it gets its kind back: grey, alpha, bits. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...errors import ImageError
from ...pipeline.degrade.imresize import imresize
from ...pipeline.images.given import layout_hint

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, full range


@dataclass(frozen=True)
class PixelFormat:
    """What a picture was before it became RGB in [-1, 1]."""

    dtype: np.dtype
    """uint8, uint16, float32 or float64."""
    grey: bool
    """Whether it had one colour band."""
    flat: bool
    """Whether it was [H, W] without an axis of bands."""
    alpha: np.ndarray | None
    """Its last band [H, W], if it was transparent."""

    def empty(self, height: int, width: int) -> np.ndarray:
        """An array for the result's colours, to be filled with `restore`: [H, W] or [H, W, 3]."""
        return np.empty((height, width) if self.grey else (height, width, 3), self.dtype)

    def restore(self, picture: np.ndarray) -> np.ndarray:
        """float32 [H, W, 3] in [-1, 1] (clipped) -> dtype [H, W, 3] or, if it was grey, the luma [H, W]."""
        unit = (picture.clip(-1, 1) + 1) / 2
        if self.grey:
            unit = unit @ _LUMA
        top = _top(self.dtype)
        return (unit * top).round().astype(self.dtype) if self.dtype.kind == "u" else unit.astype(self.dtype)

    def with_alpha(self, colours: np.ndarray, scale: int) -> np.ndarray:
        """Add the alpha band, enlarged bicubically."""
        if self.alpha is None:
            return colours if self.flat or not self.grey else colours[..., None]
        alpha = self.alpha if self.dtype == np.uint8 else self.alpha / _top(self.dtype)
        large = imresize(np.ascontiguousarray(alpha), scale)
        if self.dtype != np.uint8:
            large = large.clip(0, 1) * _top(self.dtype)
            large = (large.round() if self.dtype.kind == "u" else large).astype(self.dtype)
        return np.dstack([colours, large])


def split_pixel_format(image: np.ndarray) -> tuple[np.ndarray, PixelFormat]:
    """(RGB float32 [H, W, 3] in [-1, 1], its nature) of a picture of one to four bands: grey, grey with alpha, RGB, RGBA.

    Raises:
        ImageError: another dtype, another number of bands, no pixel, or floats outside 0 … 1.
    """
    bands = image.shape[2] if image.ndim == 3 else 1
    known = image.dtype in (np.uint8, np.uint16, np.float32, np.float64)
    if not known or image.ndim not in (2, 3) or not 1 <= bands <= 4 or image.size == 0:
        raise ImageError(
            "expected a picture [H, W] or [H, W, 1 to 4] with pixels, uint8, uint16 or float32/float64 of 0 to 1, "
            f"got {image.dtype} {list(image.shape)}{layout_hint(image.shape)}"
        )
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):  # false for NaN too
        raise ImageError(f"expected floats of 0 to 1, got {image.min():g} to {image.max():g}; divide by 255, or give uint8")
    layers = image.reshape(*image.shape[:2], bands)
    alpha = layers[..., -1] if bands in (2, 4) else None
    colour = layers[..., :3] if bands >= 3 else np.repeat(layers[..., :1], 3, axis=2)
    unit = colour.astype(np.float32) / _top(image.dtype)
    return unit * 2 - 1, PixelFormat(image.dtype, bands < 3, image.ndim == 2, alpha)


def pad_lr(lr: np.ndarray, multiple: int, scale: int) -> np.ndarray:
    """Mirror LR [h, w, 3] at the bottom and the right until HR fits the U-Net: sides multiples of `multiple`, at least twice it.

    Mirroring is what the bicubic enlargement does at its borders, so the networks see what they know.
    """
    step = multiple // math.gcd(multiple, scale)
    least = -(-2 * multiple // scale)
    height, width = (-(-max(side, least) // step) * step for side in lr.shape[:2])
    return np.pad(lr, ((0, height - lr.shape[0]), (0, width - lr.shape[1]), (0, 0)), mode="symmetric")


def eight_bits(image: Image.Image) -> Image.Image:
    """The picture as L, LA, RGB or RGBA; 16-bit grey keeps its high byte, rounded. ImageError for floating-point pictures."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: the high byte, rounded
        return Image.fromarray(np.clip(np.round(np.asarray(image, np.float64) / 257), 0, 255).astype(np.uint8))
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "F":
        raise ImageError("a floating-point picture; save it with 8 or 16 bits")
    return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")


def _top(dtype: np.dtype) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1
