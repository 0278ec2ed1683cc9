"""An image as its decoder gave it, before colours and orientation; and that of every format but TIFF, through Pillow."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from ...errors import ImageError
from .exif import orientation_of
from .formats import JPEG2000, PNG, PNM, TGA, ImageFormat, opener
from .headers import check_size, jpeg2000_size, png_depth
from .pillow_modes import check_floats, native_pixels, with_key


@dataclass(frozen=True)
class RawImage:
    """Decoded samples, and what the file states of them."""

    pixels: np.ndarray
    """uint8, uint16 or float32 of 0 to 1; [H, W] or [H, W, 2 to 4], with `cmyk` [H, W, 4 or 5] uint8."""
    cmyk: bool = False
    """Whether the first four bands are inks."""
    orientation: int = 1
    """1 to 8, still to be applied."""
    notes: tuple[str, ...] = ()
    icc: object = None
    """Colour profile as the decoder gave it: bytes, or whatever a damaged file holds."""
    exif: Image.Exif = field(default_factory=Image.Exif)


SEVERAL = "the first of several frames or pages"
TURNED = "turned upright as its EXIF orientation says"


def read_exif(image: ImageFile) -> tuple[Image.Exif, list[str]]:
    """EXIF as far as it can be read, and a note if it cannot."""
    try:
        return image.getexif(), []
    except Exception:  # noqa: BLE001 - Pillow raises many kinds of exceptions on damaged EXIF, which is no reason to lose an image
        return Image.Exif(), ["its EXIF is damaged and was left out"]


def raw_image(data: bytes, known: ImageFormat, max_pixels: float, advice: str) -> RawImage:
    """Decode any format but TIFF.

    Args:
        data: the whole file.
        known: its format.
        max_pixels: checked before pixels are decoded.
        advice: what to do with a larger image.

    Raises:
        ImageError: too large, or samples of a kind that is not read.
        Exception: whatever Pillow raises on a damaged file.
    """
    image = _opened(data, known, max_pixels=max_pixels, advice=advice)
    exif, notes = read_exif(image)
    if getattr(image, "is_animated", False):
        notes.insert(0, SEVERAL)
    image.load()
    pixels, more = _pixels(image, data, known)
    return RawImage(
        pixels,
        image.mode == "CMYK",
        orientation=orientation_of(exif),
        notes=(*notes, *more),
        icc=image.info.get("icc_profile"),
        exif=exif,
    )


def _opened(data: bytes, known: ImageFormat, max_pixels: float, advice: str) -> ImageFile:
    reader = opener(known)
    image = reader(io.BytesIO(data))
    check_size(image.width, image.height, max_pixels=max_pixels, advice=advice)
    if known is PNG:  # its reader does not look at checksums, nor at the end
        image.verify()
        image = reader(io.BytesIO(data))
        if struct.unpack(">II", data[16:24]) != image.size:  # a second header: decoders differ in which one they take
            raise ImageError("damaged PNG file: its headers give different sizes")
    if known is JPEG2000 and jpeg2000_size(data)[:2] != image.size:
        raise ImageError("damaged JPEG 2000 file: its headers give different sizes")
    return image


def _pixels(image: ImageFile, data: bytes, known: ImageFormat) -> tuple[np.ndarray, list[str]]:
    """Pixels of a loaded image, and notes."""
    if known is PNG and png_depth(data) == 16:
        return _wide_png(image, data), []
    if known is PNM and image.mode == "I":  # Pillow scales every range to 65535
        return np.asarray(image).clip(0, 65535).astype(np.uint16), []
    if known is TGA and image.mode in ("RGBA", "LA") and not data[17] & 15:  # the descriptor's count of alpha bits
        return np.asarray(image)[..., :-1].squeeze(axis=-1) if image.mode == "LA" else np.asarray(image)[..., :3], [
            "a fourth band that is no alpha was left out"
        ]
    if known is JPEG2000 and (depth := jpeg2000_size(data)[2]) > 8:
        return _wide_jpeg2000(image, depth)
    pixels = native_pixels(image, png_depth(data) if known is PNG else 8)
    return (check_floats(pixels), []) if pixels.dtype.kind == "f" else (pixels, [])


def _wide_png(image: ImageFile, data: bytes) -> np.ndarray:
    """uint16 pixels of a 16-bit PNG that Pillow has loaded, and so found whole. OpenCV decodes it: Pillow cuts the low byte off."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ImageError("a 16-bit PNG of a kind that cannot be read; save it again")
    if decoded.shape[:2] != (image.height, image.width):
        raise ImageError("damaged PNG file: decoders differ about its size")
    layers = decoded.reshape(*decoded.shape[:2], -1)
    bands = {0: 1, 4: 2, 2: 3, 6: 4}.get(data[25], 0)  # colour type -> bands
    if layers.shape[2] > 2:
        layers = layers[..., [2, 1, 0, 3][: layers.shape[2]]]
    if layers.shape[2] < bands and bands != 2:
        raise ImageError("a 16-bit PNG of a kind that cannot be read; save it again")
    # OpenCV repeats grey bands, and some of its versions make a band of a transparent colour
    layers = layers[..., [0, layers.shape[2] - 1]] if bands == 2 else layers[..., :bands]
    pixels = layers[..., 0] if bands == 1 else layers
    key = image.info.get("transparency")
    return with_key(np.ascontiguousarray(pixels), key, 16) if bands in (1, 3) and isinstance(key, int | tuple) else pixels


def _wide_jpeg2000(image: ImageFile, depth: int) -> tuple[np.ndarray, list[str]]:
    """Pillow shifts grey samples up to 16 bits, and cuts others to 8."""
    if image.mode.startswith("I;16") and depth <= 16:
        levels = (1 << depth) - 1
        samples = np.asarray(image).astype(np.uint32) >> (16 - depth)
        return ((samples * 65535 + levels // 2) // levels).astype(np.uint16), []
    return native_pixels(image), [f"{depth} bits cut to 8"]
