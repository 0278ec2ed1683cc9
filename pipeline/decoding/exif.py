"""EXIF: images turned upright, and the part of it that can be written again. It is metadata: whatever it holds, the image is read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
SOFTWARE, DESCRIPTION = 0x0131, 0x010E
_MAKER, _MODEL, _DATE, _ARTIST, _RIGHTS = 0x010F, 0x0110, 0x0132, 0x013B, 0x8298
_POINTERS = (EXIF_IFD, GPS_IFD, INTEROP_IFD, 0x014A)
OF_TIFF = (DESCRIPTION, SOFTWARE, _MAKER, _MODEL, _DATE, _ARTIST, _RIGHTS)
"""Most tags of a TIFF file describe its layout, which is not that of the result."""


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels as EXIF 2.32 defines its orientations 1 to 8.

    Args:
        pixels: uint8 [H, W] or [H, W, 2 to 4]; uint16 or float32 of the same shapes.
        orientation: 1 is upright; values that EXIF does not define are taken for 1.

    Returns:
        The same pixels, C-contiguous; height and width swapped for 5 to 8.
    """
    if orientation not in range(2, 9):
        return np.ascontiguousarray(pixels)
    if pixels.ndim == 3:  # Pillow has no images of several bands of more than 8 bits
        return np.stack([upright(pixels[..., band], orientation) for band in range(pixels.shape[2])], axis=2)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def orientation_of(exif: Image.Exif) -> int:
    """1 to 8; 1 where the tag is missing or holds anything else."""
    try:
        value = exif.get(ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # noqa: BLE001 - Pillow raises many kinds of exceptions on damaged EXIF, and damaged metadata is no reason to lose an image
        return 1


def keepable(exif: Image.Exif, is_tiff: bool) -> tuple[Image.Exif, list[str]]:
    """A copy that can be encoded, and notes of what could not be kept.

    Each tag is tried alone, because Pillow reads values that it cannot write.

    Args:
        exif: of an opened image.
        is_tiff: whether the tags are those of a TIFF file.

    Returns:
        EXIF without an orientation and without tags that cannot be written; classic TIFF inside, whatever the file was.
    """
    copy, lost = Image.Exif(), 0
    try:
        tags: Iterable[int] = [tag for tag in exif if tag not in (ORIENTATION, *_POINTERS) and (not is_tiff or tag in OF_TIFF)]
        pointed = {place: dict(exif.get_ifd(place)) for place in (EXIF_IFD, GPS_IFD)}
    except Exception:  # noqa: BLE001 - Pillow raises many kinds of exceptions on damaged EXIF; the note says that it is left out
        return Image.Exif(), ["its EXIF is damaged and was left out"]
    for tag in tags:
        lost += not _put(copy, tag, exif)
    for place, values in pointed.items():
        kept = {tag: value for tag, value in values.items() if tag != INTEROP_IFD and _fits(tag, value, place)}
        lost += len(values) - len(kept) - (INTEROP_IFD in values)
        copy.get_ifd(place).update(kept)
    try:
        copy.tobytes()
    except Exception:  # noqa: BLE001 - as above: tags that can be written one by one and not together
        return Image.Exif(), ["its EXIF cannot be written again and was left out"]
    return copy, [f"{lost} damaged EXIF tags were left out"] if lost else []


def _put(copy: Image.Exif, tag: int, exif: Image.Exif) -> bool:
    """Copy one tag if it can be written."""
    try:
        value = exif[tag]
    except Exception:  # noqa: BLE001 - as above
        return False
    if not _fits(tag, value):
        return False
    copy[tag] = value
    return True


def _fits(tag: int, value: object, place: int | None = None) -> bool:
    """Whether Pillow encodes one tag, in the main directory or in another, and reads it again."""
    try:
        one = Image.Exif()
        (one if place is None else one.get_ifd(place))[tag] = value
        again = Image.Exif()
        again.load(one.tobytes())
        _ = dict(again) if place is None else dict(again.get_ifd(place))
    except Exception:  # noqa: BLE001 - as above
        return False
    return True
