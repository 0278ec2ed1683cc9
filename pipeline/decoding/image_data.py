"""The one reader of images: bytes -> pixels as the file shows them, with profile, EXIF and notes. Commands differ in a `ReadConfig` only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ...errors import ImageError, SamdiffError, printable
from . import profiles
from .exif import keepable, upright
from .formats import TIFF, ImageFormat, recognise, suffix_note
from .headers import check_header, colour_notes, without_metadata
from .pillow_modes import check_fills, eight_bit, over_white
from .raw_image import TURNED, RawImage, raw_image
from .tiff_file import raw_tiff


@dataclass(frozen=True)
class ReadConfig:
    """How a command reads images: bounds and colours."""

    max_pixels: float = 50_000_000
    """Larger images are refused from their header, before memory is taken for them."""
    advice: str = "crop it first"
    """What to do with a larger image."""
    to_srgb: bool = False
    """Whether colours are converted to sRGB by the file's profile; otherwise another profile is noted and kept."""
    keep_exif: bool = False
    """Whether EXIF is wanted."""
    any_range: bool = False
    """Whether samples may fill less than a sixteenth of their range, because they are not reduced to 8 bits."""


@dataclass(frozen=True)
class ImageData:
    """An image and what its file says of it."""

    pixels: np.ndarray
    """uint8, uint16, or float32 of 0 to 1; grey [H, W], grey with alpha [H, W, 2], RGB [H, W, 3] or RGBA [H, W, 4]; upright."""
    notes: tuple[str, ...] = ()
    """What reading did that changes values or could surprise."""
    icc: bytes | None = None
    """Colour profile of these bands, undamaged; not applied."""
    exif: Image.Exif = field(default_factory=Image.Exif)
    """What can be written again, without an orientation, which has been applied."""


def decode_image(data: bytes, name: str, settings: ReadConfig | None = None) -> ImageData:
    """Decode a file's bytes.

    Args:
        data: the whole file.
        name: the file's name, for the note of a wrong ending and for TGA, which has no signature.
        settings: None takes the defaults.

    Raises:
        ImageError: no image of a known format, one that is not read (its name is in the reason), too large, or damaged.
    """
    settings = settings or ReadConfig()
    known = recognise(data, name)
    with decoding(known.name):
        check_header(data, known, max_pixels=settings.max_pixels, advice=settings.advice)
        raw = _raw(data, known, settings)
        if not settings.any_range:
            check_fills(raw.pixels)
        pixels, icc, notes = _in_rgb(raw, settings.to_srgb)
        if raw.orientation in range(2, 9):
            pixels = upright(pixels, raw.orientation)
            notes.append(TURNED)
        exif, more = keepable(raw.exif, known is TIFF) if settings.keep_exif else (Image.Exif(), [])
    unique = dict.fromkeys((*suffix_note(known, name), *raw.notes, *colour_notes(data, known), *notes, *more))
    return ImageData(np.ascontiguousarray(pixels), tuple(unique), icc=icc, exif=exif)


@contextmanager
def decoding(kind: str) -> Iterator[None]:
    """Inside, whatever a decoder raises on a damaged file becomes an ImageError with its reason."""
    try:
        yield
    except SamdiffError:
        raise
    except MemoryError as error:
        raise ImageError(f"not enough memory to decode this {kind} file") from error
    except Exception as error:  # noqa: BLE001 - Pillow and OpenCV were seen to raise 14 kinds, and each release adds some
        reason = printable(" ".join(str(error).split()))[:300] or type(error).__name__
        raise ImageError(f"damaged or cut off {kind} file: {reason}") from error


def rgb8(image: ImageData) -> tuple[np.ndarray, tuple[str, ...]]:
    """What `prepare`, `masks` and `evaluate` use of an image: uint8 RGB [H, W, 3] over white, and the notes with what that changed."""
    notes = list(image.notes)
    if image.pixels.dtype != np.uint8:
        notes.append("16 bits scaled to 8" if image.pixels.dtype == np.uint16 else "floats of 0 to 1 scaled to 8 bits")
    pixels, transparent = over_white(eight_bit(image.pixels))
    if transparent:
        notes.append("transparent parts composited over white")
    return np.ascontiguousarray(pixels), tuple(notes)


def _raw(data: bytes, known: ImageFormat, settings: ReadConfig) -> RawImage:
    """Decode; once more without metadata if the file cannot be read with it."""
    if known is TIFF:
        return raw_tiff(data, settings.max_pixels, settings.advice)
    try:
        return raw_image(data, known, max_pixels=settings.max_pixels, advice=settings.advice)
    except (SamdiffError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - Pillow raises many kinds of exceptions, also for metadata: without it the image may be whole
        bare = without_metadata(data, known)
        if bare is None or bare == data:
            raise
        second = _second_try(bare, known, settings)
        if second is None:
            raise
        return second


def _second_try(bare: bytes, known: ImageFormat, settings: ReadConfig) -> RawImage | None:
    try:
        raw = raw_image(bare, known, max_pixels=settings.max_pixels, advice=settings.advice)
    except Exception:  # noqa: BLE001 - it was not the metadata: the first reason is the right one
        return None
    note = "its EXIF, colour profile or texts are damaged and were left out"
    return RawImage(raw.pixels, raw.cmyk, orientation=raw.orientation, notes=(*raw.notes, note))


def _in_rgb(raw: RawImage, to_srgb: bool) -> tuple[np.ndarray, bytes | None, list[str]]:
    """(pixels without inks, the profile that still belongs to them, notes)."""
    pixels, profile, notes = raw.pixels, raw.icc if isinstance(raw.icc, bytes) and raw.icc else None, []
    grey = pixels.ndim == 2 or pixels.shape[2] == 2
    space = "CMYK" if raw.cmyk else "L" if grey else "RGB"
    if profile is not None and profiles.space_of(profile) != space:
        profile = None  # a profile of other colours would be wrong here
    try:
        srgb = profile is None or profiles.is_srgb(profile)
        title = "" if profile is None else profiles.name_of(profile)
    except ImageError as error:
        profile, srgb, title = None, True, ""
        notes.append(f"{error} and was left out")
    if raw.cmyk:
        colours, alpha = pixels[..., :4], pixels[..., 4:]
        if to_srgb and profile is not None:
            rgb, note = profiles.converted(colours, profile), f"CMYK turned into sRGB by its colour profile {title}"
        else:
            rgb = np.asarray(Image.fromarray(np.ascontiguousarray(colours), "CMYK").convert("RGB"))
            note = "CMYK turned into RGB without its colour profile"
        return np.concatenate([rgb, alpha], axis=2), None, [*notes, note]
    if srgb or profile is None:
        return pixels, profile, notes
    if not to_srgb:
        return pixels, profile, [*notes, f"colour profile {title} was not applied (--to-srgb converts)"]
    if pixels.dtype != np.uint8:
        notes.append("reduced to 8 bits for the conversion of colours")
    return _converted(eight_bit(pixels), profile), None, [*notes, f"converted from {title} to sRGB"]


def _converted(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """uint8 grey or RGB, with or without alpha, in sRGB; alpha stays, grey stays grey."""
    if pixels.ndim == 2:
        return profiles.converted(pixels, profile)[..., 1]
    if pixels.shape[2] == 2:
        return np.dstack([profiles.converted(pixels[..., 0], profile)[..., 1], pixels[..., 1]])
    return np.dstack([profiles.converted(pixels[..., :3], profile), pixels[..., 3:]])
