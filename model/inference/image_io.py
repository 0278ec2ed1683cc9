"""Reads image files with their metadata, and writes them atomically. Whether a file can be written is checked before the work."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...errors import ImageError, SamdiffError, printable
from ...pipeline.decoding.exif import upright as upright
from ...pipeline.decoding.image_data import ImageData, ReadConfig, decode_image
from ...pipeline.decoding.pillow_modes import eight_bit, over_white
from ...pipeline.images.archives import reason_of
from ...pipeline.storage.outputs import write_output
from ...pipeline.storage.regular import read_regular
from ..infer_config import FORMATS as FORMATS
from .result_file import Metadata, plan_metadata
from .result_file import has_provenance as has_provenance
from .result_file import is_result as is_result

log = logging.getLogger(__name__)

MAX_PIXELS = 50_000_000  # of an input; a bound against decompression bombs
MAX_BYTES = 8 * MAX_PIXELS + (1 << 24)  # 16 bits, four channels, uncompressed
_SIDES = {"WEBP": ("WebP", 16_383), "JPEG": ("JPEG", 65_500), "PNG": ("PNG", (1 << 31) - 1), "TIFF": ("TIFF", (1 << 31) - 1)}
"""Longest side; libjpeg's JPEG_MAX_DIMENSION, libwebp's WEBP_MAX_DIMENSION."""
_TIFF_BYTES = (1 << 32) - (1 << 20)  # offsets have 32 bits
_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # bands -> colour type


def open_image(path: Path) -> np.ndarray:
    """The pixels of `read_image_file` in 8 bits; its notes are logged as warnings."""
    image = read_image_file(path)
    for note in image.notes:
        log.warning("%s: %s", printable(path), note)
    return eight_bit(image.pixels)


def open_opaque(path: Path) -> np.ndarray:
    """`open_image` over white, as `prepare` takes transparent images: uint8 [H, W] of a grey image, else [H, W, 3]."""
    pixels = open_image(path)
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    over, transparent = over_white(pixels)
    if transparent:
        log.warning("%s: transparent parts composited over white", printable(path))
    return np.ascontiguousarray(over[..., 0] if pixels.shape[2] == 2 else over)


def read_image_file(path: Path, to_srgb: bool = False) -> ImageData:
    """An image file with its metadata, EXIF orientation applied.

    Args:
        path: of the file.
        to_srgb: whether colours are converted to sRGB by the file's profile.

    Raises:
        ImageError: the file is missing, damaged, not an image, not a regular file, or larger than 50 megapixels.
    """
    try:
        data = read_regular(path, MAX_BYTES)
        return decode_image(data, path.name, ReadConfig(MAX_PIXELS, to_srgb=to_srgb, keep_exif=True))
    except ImageError as error:
        raise ImageError(f"{printable(path)}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{printable(path)}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise ImageError(f"{printable(path)}: cannot be read ({reason_of(error)})") from error


def to_pil(pixels: np.ndarray, source: ImageData) -> Image.Image:
    """A result as a PIL image of 8 bits, with the colour profile and the EXIF of its source in `info`."""
    image = Image.fromarray(np.round(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels)
    kept = {"icc_profile": source.icc, "exif": source.exif.tobytes() if len(source.exif) else None}
    image.info.update({name: value for name, value in kept.items() if value})
    return image


@dataclass(frozen=True)
class WritePlan:
    """How an image will be written; made before its pixels are."""

    path: Path
    kind: str
    """Pillow's name of the format."""
    metadata: Metadata
    quality: int
    notes: tuple[str, ...]
    """Metadata of the source that could not be kept."""


def plan_write(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    *,
    source: ImageData | None = None,
    origin: Mapping[str, str] | None = None,
    quality: int = 95,
) -> WritePlan:
    """Decide how an image of a given shape is written; its suffix names the format. Nothing is written.

    Args:
        path: where.
        shape: [H, W] or [H, W, 1 to 4].
        dtype: uint8, or uint16 for PNG.
        source: whose colour profile and EXIF are kept.
        origin: how the image was made, see `plan_metadata`.
        quality: of JPEG and WebP, 1 … 100.

    Raises:
        ImageError: the format cannot hold the image's alpha, bits or size.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{printable(path)}: expected a file ending in {', '.join(FORMATS)}")
    bands = shape[2] if len(shape) == 3 else 1
    name, longest = _SIDES[kind]
    if kind == "JPEG" and bands in (2, 4):
        raise ImageError(f"{printable(path)}: JPEG cannot hold the image's transparency; write a PNG")
    if np.dtype(dtype) == np.uint16 and kind != "PNG":
        raise ImageError(f"{printable(path)}: 16 bits are written as PNG only; choose PNG, or 8 bits")
    if max(shape[:2]) > longest:
        raise ImageError(
            f"{printable(path)}: {name} holds at most {longest} pixels per side, got {max(shape[:2])}; write a PNG"
        )
    if kind == "TIFF" and shape[0] * shape[1] * bands > _TIFF_BYTES:
        raise ImageError(
            f"{printable(path)}: TIFF holds at most 4 GB, got {shape[1]} x {shape[0]} pixels of {bands} bands; write a PNG"
        )
    tiny = np.zeros((1, 1, *shape[2:]), dtype)
    metadata, notes = plan_metadata(
        source,
        origin or {},
        kind=kind,
        size=(shape[1], shape[0]),
        encode=lambda chosen: _encode(tiny, WritePlan(path, kind, chosen, quality=quality, notes=())),
    )
    return WritePlan(path, kind, metadata, quality=quality, notes=tuple(notes))


def write_planned(image: np.ndarray, plan: WritePlan, overwrite: bool = True) -> list[str]:
    """Write an image as planned, atomically. Returns a note for all metadata that had to be left out.

    Args:
        image: of the planned shape and dtype.
        plan: from `plan_write`.
        overwrite: whether a file that is there already is replaced.

    Raises:
        ImageError: the file cannot be written, or exists already.
    """
    lost: list[str] = []
    try:
        data = _encode(image, plan)
    except Exception as error:  # noqa: BLE001 - the metadata could be written with a tiny image; if it is the cause, the result must not be lost
        try:
            data = _encode(image, WritePlan(plan.path, plan.kind, Metadata(), quality=plan.quality, notes=()))
        except (OSError, ValueError) as second:
            raise ImageError(f"{plan.path}: cannot be encoded as {plan.kind} ({second})") from second
        lost.append(f"its EXIF, colour profile and provenance could not be written ({printable(error)[:100]})")
    try:
        write_output(plan.path, data, overwrite)
    except SamdiffError as error:
        raise ImageError(str(error)) from error
    return lost


def save_image(
    image: np.ndarray,
    path: Path,
    source: ImageData | None = None,
    origin: Mapping[str, str] | None = None,
    quality: int = 95,
    overwrite: bool = True,
) -> None:
    """`plan_write` and `write_planned` in one call. Metadata that is left out is logged as a warning.

    Args:
        image: uint8, or uint16 for PNG; [H, W] or [H, W, 1 to 4].
        path: where; missing folders are made.
        source: whose colour profile and EXIF are kept.
        origin: how the image was made.
        quality: of JPEG and WebP, 1 … 100.
        overwrite: whether a file that is there already is replaced.

    Raises:
        ImageError: the format cannot hold the image's alpha, bits or size, the file cannot be written, or it exists already.
    """
    plan = plan_write(path, image.shape, image.dtype, source=source, origin=origin, quality=quality)
    for note in [*plan.notes, *write_planned(image, plan, overwrite)]:
        log.warning("%s: %s", printable(path), note)


def _encode(image: np.ndarray, plan: WritePlan) -> bytes:
    """The bytes of the file."""
    beside = plan.metadata
    if image.dtype == np.uint16:
        return _png16(image, beside)
    more: dict[str, object] = {"quality": plan.quality} if plan.kind in ("JPEG", "WEBP") else {}
    if plan.kind == "PNG":
        text = PngInfo()
        for name, value in beside.text:
            text.add_itxt(name, value) if not value.isascii() else text.add_text(name, value)
        more["pnginfo"] = text
    if beside.icc:
        more["icc_profile"] = beside.icc
    if beside.exif:
        more["exif"] = beside.exif
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(axis=2) if image.ndim == 3 and image.shape[2] == 1 else image).save(buffer, plan.kind, **more)
    return buffer.getvalue()


def _png16(image: np.ndarray, beside: Metadata) -> bytes:
    """A PNG of 16 bits per band (PNG specification, third edition); rows are filtered by the difference to the row above."""
    height, width = image.shape[:2]
    bands = image.shape[2] if image.ndim == 3 else 1
    rows = image.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0], filtered[0, 1:] = 2, rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 16, _PNG_COLOUR[bands], 0, 0, 0))]
    if beside.icc:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(beside.icc)))
    if beside.exif:
        chunks.append((b"eXIf", beside.exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"iTXt", name.encode() + b"\0\0\0\0\0" + value.encode()) for name, value in beside.text]
    chunks += [(b"IDAT", zlib.compress(filtered.data, 6)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
