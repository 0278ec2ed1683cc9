"""TIFF files: the tags decide before anything is decoded, then Pillow's own interpretation where it is right, ours where it is not."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from ...errors import ImageError, SamdiffError
from .exif import OF_TIFF
from .formats import TIFF, opener
from .headers import check_size
from .pillow_modes import check_floats, eight_bit, native_pixels
from .raw_image import SEVERAL, TURNED, RawImage, read_exif
from .tiff_samples import interpret, read_samples
from .tiff_tags import CMYK, TiffLayout, check_tile, first_directory, measured, plan_tiff

_ICC = 34675
MEASURED = (
    "measured values, which are no image for display; `samdiff prepare` keeps them (docs/bands.md); for other commands, stretch the bands "
    "to use to 8-bit RGB"
)
"""Why a file of measured values is not read as an image, and what to do."""


def raw_tiff(data: bytes, max_pixels: float, advice: str) -> RawImage:
    """Decode the first page of a TIFF or BigTIFF file.

    Args:
        data: the whole file.
        max_pixels: checked before pixels are decoded.
        advice: what to do with a larger image.

    Raises:
        ImageError: too large, damaged, or samples of a kind that is not read.
        Exception: whatever Pillow raises on a damaged file.
    """
    opener(TIFF)
    order, tags = first_directory(data)
    if what := measured(tags):
        raise ImageError(f"{what}: {MEASURED}")
    layout = plan_tiff(order, tags)
    check_size(layout.width, layout.height, max_pixels=max_pixels, advice=advice)
    check_tile(layout, max_pixels)
    if not layout.by_pillow:
        return _with_facts(_from_samples(data, layout), data)
    try:
        image = TiffImageFile(io.BytesIO(data))
        exif, notes = read_exif(image)
        several = [SEVERAL] if image.is_animated else []
        check_size(image.width, image.height, max_pixels=max_pixels, advice=advice)
        image.load()  # turned upright, too
        pixels = native_pixels(image)
    except (SamdiffError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds of exceptions, also for metadata: without it the samples may be whole
        if "unknown pixel mode" in str(error):
            what = f"{layout.samples} samples of {layout.bits} bits, colours of the kind {layout.photometric}"
            raise ImageError(f"TIFF with {what}, which is not read; save it as RGB") from error
        if not layout.decodable:
            raise
        raw = _from_samples(data, layout)
        return RawImage(
            raw.pixels,
            raw.cmyk,
            orientation=raw.orientation,
            notes=(*raw.notes, "its EXIF or other tags are damaged and were left out"),
        )
    notes = [*several, *notes, *layout.notes]
    if layout.orientation in range(2, 9):
        notes.append(TURNED)
    return RawImage(pixels, image.mode == "CMYK", notes=tuple(notes), icc=image.info.get("icc_profile"), exif=exif)


def _from_samples(data: bytes, layout: TiffLayout) -> RawImage:
    """Without profile and EXIF."""
    pixels, notes = interpret(read_samples(data, layout), layout), layout.notes
    if layout.floats:
        check_floats(pixels)
    cmyk = layout.photometric == CMYK
    if cmyk and pixels.dtype != np.uint8:  # Pillow and LittleCMS have CMYK in 8 bits
        pixels, notes = (
            eight_bit(check_floats(pixels) if layout.floats else pixels),
            (f"{layout.bits} bits scaled to 8", *notes),
        )
    return RawImage(pixels, cmyk, orientation=layout.orientation, notes=notes)


def _with_facts(raw: RawImage, data: bytes) -> RawImage:
    """Add the profile, EXIF and whether there are more pages. What Pillow cannot read of them is left out with a note."""
    notes, exif, icc, several = list(raw.notes), Image.Exif(), None, False
    try:
        directory = ImageFileDirectory_v2(data[:16] if data[2:4] in (b"+\0", b"\0+") else data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        icc, several = directory.get(_ICC), bool(directory.next)
        for tag in OF_TIFF:
            if tag in directory:
                exif[tag] = directory[tag]
        with_groups = TiffImageFile(io.BytesIO(data)).getexif()  # Exif and GPS, if Pillow knows the file's kind
        with_groups.items()
        exif = with_groups
    except SyntaxError:  # it does not: the tags of the main directory are kept
        pass
    except Exception:  # noqa: BLE001 - Pillow raises many kinds of exceptions on damaged tags, which are no reason to lose an image
        notes.append("its EXIF or other tags are damaged and were left out")
    if several:
        notes.insert(0, SEVERAL)
    return RawImage(raw.pixels, raw.cmyk, orientation=raw.orientation, notes=tuple(notes), icc=icc, exif=exif)
