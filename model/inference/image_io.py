"""Picture files: read with all that belongs to them, written whole or not at all."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from ...errors import ImageError, SamdiffError, printable
from ...pipeline.images.archives import reason_of
from ...pipeline.images.formats import is_wide, opened, wide_pixels
from ...pipeline.storage.outputs import write_output
from ...pipeline.storage.regular import read_regular
from .pixel_format import eight_bits

log = logging.getLogger(__name__)

MAX_PIXELS = 50_000_000  # of an input; a bound against decompression bombs
MAX_BYTES = 8 * MAX_PIXELS + (1 << 24)  # 16 bits, four channels, uncompressed
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_ORIENTATION, _SOFTWARE, _DESCRIPTION, _EXIF_IFD = 0x0112, 0x0131, 0x010E, 0x8769
_WIDTH, _HEIGHT = 0xA002, 0xA003  # of the picture, inside the Exif directory
_DESCRIBING = {_DESCRIPTION, _SOFTWARE, _EXIF_IFD, 0x010F, 0x0110, 0x0132, 0x013B, 0x8298, 0x8825}
"""Also maker, model, date, artist, rights, GPS."""
_WEBP_SIDE = 16383
_MAX_EXIF = 60_000  # bytes; JPEG holds 65,533, and what is said about the making comes on top
_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # bands -> colour type


@dataclass(frozen=True)
class PictureFile:
    """A picture and what its file said about it."""

    pixels: np.ndarray
    """uint8 or uint16, [H, W], [H, W, 2], [H, W, 3] or [H, W, 4]; upright."""
    icc: bytes | None = None
    """Colour profile, if it belongs to these bands; kept, not applied."""
    exif: Image.Exif = field(default_factory=Image.Exif)
    """Without an orientation, which has been applied."""


def open_picture(path: Path) -> np.ndarray:
    """The pixels of `read_picture_file` in 8 bits."""
    pixels = read_picture_file(path).pixels
    return np.round(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def read_picture_file(path: Path) -> PictureFile:
    """A picture as the file shows it, EXIF orientation applied.

    Raises:
        ImageError: there is no such file, it is no picture or no regular file, it is damaged, or larger than 50 megapixels.
    """
    try:
        data = read_regular(path, MAX_BYTES)
        found = _decoded(data)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise ImageError(f"{path}: cannot be read ({reason_of(error)})") from error
    if found.exif is None:
        log.warning("%s: its EXIF is damaged and is left out", printable(path))
    return PictureFile(found.pixels, found.icc, found.exif or Image.Exif())


def to_pil(pixels: np.ndarray, source: PictureFile) -> Image.Image:
    """A result as a PIL image of 8 bits, with the colour profile and the EXIF of its source in `info`."""
    image = Image.fromarray(np.round(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels)
    kept = {"icc_profile": source.icc, "exif": source.exif.tobytes() if len(source.exif) else None}
    image.info.update({name: value for name, value in kept.items() if value})
    return image


@dataclass(frozen=True)
class _Decoded:
    pixels: np.ndarray
    icc: bytes | None
    exif: Image.Exif | None
    """None: damaged."""


def _decoded(data: bytes) -> _Decoded:
    with opened(data, MAX_PIXELS, "crop it first") as (kind, image):
        icc, exif = image.info.get("icc_profile"), image.getexif()
        orientation = exif.get(_ORIENTATION, 1)
        wide = is_wide(image, kind, data)
        image.load()
        pixels = wide_pixels(image, data) if wide else np.asarray(eight_bits(image))
        if wide and pixels.ndim == 3 and _is_grey_alpha(image, data):  # OpenCV repeats the grey band
            pixels = pixels[..., [0, -1]]
        if kind == "TIFF":  # Pillow and OpenCV turn TIFF themselves; most of its tags describe the file's layout
            orientation = 1
        grey = pixels.ndim == 2 or pixels.shape[2] == 2
        fits = isinstance(icc, bytes) and icc[16:20] == (
            b"GRAY" if grey else b"RGB "
        )  # ICC.1, header: colour space of the data
        return _Decoded(upright(pixels, orientation), icc if fits else None, _usable_exif(exif, kind))


def _is_grey_alpha(image: Image.Image, data: bytes) -> bool:
    if isinstance(image, TiffImageFile):
        return len(image.tag_v2.get(258, ())) == 2  # BitsPerSample
    return data[25] == _PNG_COLOUR[2]


def _usable_exif(exif: Image.Exif, kind: str) -> Image.Exif | None:
    """EXIF without an orientation that can be written again, which would else fail after hours of work; None if it cannot."""
    try:
        if kind == "TIFF":
            for tag in set(exif) - _DESCRIBING:
                del exif[tag]
        exif.pop(_ORIENTATION, None)
        if not len(exif):
            return Image.Exif()
        copy = Image.Exif()
        copy.load(exif.tobytes())
        inner = copy.get_ifd(_EXIF_IFD)
        for tag in {_WIDTH, _HEIGHT} & set(inner):
            inner[tag] = 1
        copy[_SOFTWARE] = copy[_DESCRIPTION] = "s"
        return exif if len(copy.tobytes()) <= _MAX_EXIF else None
    except Exception:  # noqa: BLE001 - Pillow raises whatever comes on damaged tags; the caller says that they are left out
        return None


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels as the EXIF orientation 1 … 8 says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def save_picture(
    image: np.ndarray,
    path: Path,
    source: PictureFile | None = None,
    said: Mapping[str, str] | None = None,
    quality: int = 95,
    overwrite: bool = True,
) -> None:
    """Write a picture whole or not at all; the suffix names the format.

    Args:
        image: uint8, or uint16 for PNG.
        path: where; missing folders are made.
        source: whose colour profile and EXIF are kept.
        said: how the picture was made: PNG text, or EXIF's Software (and ImageDescription, if that is free) in other formats.
        quality: of JPEG and WebP, 1 … 100.
        overwrite: whether a file that is there already is replaced.

    Raises:
        ImageError: the format cannot hold the picture's alpha, bits or size, or the file cannot be written, or is there already.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: expected a file ending in {', '.join(FORMATS)}")
    bands = image.shape[2] if image.ndim == 3 else 1
    if kind == "JPEG" and bands in (2, 4):
        raise ImageError(f"{path}: JPEG cannot hold the picture's transparency; write a PNG")
    if image.dtype == np.uint16 and kind != "PNG":
        raise ImageError(f"{path}: 16 bits are written as PNG only; choose PNG, or 8 bits")
    if kind == "WEBP" and max(image.shape[:2]) > _WEBP_SIDE:
        raise ImageError(f"{path}: WebP holds at most {_WEBP_SIDE} pixels per side, got {max(image.shape[:2])}; write a PNG")
    exif, icc = _exif_for(image, source, {} if kind == "PNG" else said or {}), source.icc if source else None
    if image.dtype == np.uint16:
        data = _png16(image, exif, icc, said or {})
    else:
        more: dict[str, object] = {"quality": quality} if kind in ("JPEG", "WEBP") else {}
        if kind == "PNG":
            text = PngInfo()
            for name, value in (said or {}).items():
                text.add_itxt(name, value) if not value.isascii() else text.add_text(name, value)
            more["pnginfo"] = text
        if icc:
            more["icc_profile"] = icc
        if exif:
            more["exif"] = exif
        buffer = io.BytesIO()
        try:
            Image.fromarray(image).save(buffer, kind, **more)
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be encoded as {kind} ({error})") from error
        data = buffer.getvalue()
    try:
        write_output(path, data, overwrite)
    except SamdiffError as error:
        raise ImageError(str(error)) from error


def file_says(path: Path, said: Mapping[str, str]) -> bool:
    """Whether a PNG, JPEG or WebP file says all this, as `save_picture` writes it, and is not cut short; pixels stay unread."""
    found = _said_by(path)
    return said.items() <= found.items() if isinstance(found, Mapping) else found == _in_one_line(said)


def is_result(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP file says that `samdiff infer` made it."""
    found = _said_by(path)
    return "samdiff-model" in found if isinstance(found, Mapping) else "; samdiff-model: " in str(found)


def _said_by(path: Path) -> Mapping[str, object] | object:
    """A PNG's text by keyword, other formats' EXIF Software; empty for a file that is damaged or says nothing."""
    try:
        if not path.is_file() or not _has_end(path):
            return {}
        # Image.open refuses large results as decompression bombs, and Pillow's own class for WebP does too.
        if path.suffix.lower() == ".png":
            with PngImageFile(path) as image:
                return dict(image.info)
        if path.suffix.lower() == ".webp":
            exif = Image.Exif()
            exif.load(_exif_of_webp(path))
        else:
            with JpegImageFile(path) as image:
                exif = image.getexif()
        return exif.get(_SOFTWARE)
    except Exception:  # noqa: BLE001 - damaged, or of another format than its name says: Pillow raises whatever comes
        return {}


def _exif_of_webp(path: Path) -> bytes:
    """The EXIF chunk of a RIFF file; empty if it has none."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"EXIF":
                return file.read(size)
            file.seek(size + size % 2, io.SEEK_CUR)
    return b""


def _has_end(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP file ends as it must: a copy that was broken off says all that the whole one says."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 12))
        tail = file.read()
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 == size
    return tail.endswith((b"IEND\xaeB`\x82", b"\xff\xd9"))


def _in_one_line(said: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in said.items()).encode("ascii", "replace").decode()


def _exif_for(image: np.ndarray, source: PictureFile | None, said: Mapping[str, str]) -> bytes:
    """The source's EXIF with the new size, and what is said about the making."""
    exif = Image.Exif()
    if source is not None and len(source.exif):
        exif.load(source.exif.tobytes())
        inner = exif.get_ifd(_EXIF_IFD)
        for tag, value in ((_WIDTH, image.shape[1]), (_HEIGHT, image.shape[0])):
            if tag in inner:
                inner[tag] = value
    if said:
        exif[_SOFTWARE] = _in_one_line(said)
        exif.setdefault(_DESCRIPTION, said.get("Description", ""))
    return exif.tobytes() if len(exif) else b""


def _png16(image: np.ndarray, exif: bytes, icc: bytes | None, said: Mapping[str, str]) -> bytes:
    """A PNG of 16 bits per band (PNG specification, third edition); rows are filtered by the difference to the row above."""
    height, width = image.shape[:2]
    bands = image.shape[2] if image.ndim == 3 else 1
    rows = image.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0], filtered[0, 1:] = 2, rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 16, _PNG_COLOUR[bands], 0, 0, 0))]
    if icc:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(icc)))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"iTXt", name.encode() + b"\0\0\0\0\0" + value.encode()) for name, value in said.items()]
    chunks += [(b"IDAT", zlib.compress(filtered.data, 6)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
