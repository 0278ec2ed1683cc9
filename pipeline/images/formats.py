"""The image formats that are decoded, and no others: told by content, every size checked before memory is taken.

Pillow's readers are called by name, because `Image.open` tries dozens of formats, each with exceptions of its own. 16-bit files are read
with OpenCV, because Pillow cuts the low byte off.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from ...errors import ImageError, SamdiffError, printable

Reader = Callable[..., ImageFile]

FORMATS: tuple[tuple[str, bytes, tuple[str, ...], Reader], ...] = (
    ("PNG", b"\x89PNG\r\n\x1a\n", (".png",), PngImagePlugin.PngImageFile),
    ("JPEG", b"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif"), JpegImagePlugin.jpeg_factory),
    ("WebP", b"RIFF", (".webp",), WebPImagePlugin.WebPImageFile),
    ("TIFF", b"II*\0", (".tif", ".tiff"), TiffImagePlugin.TiffImageFile),
    ("TIFF", b"MM\0*", (".tif", ".tiff"), TiffImagePlugin.TiffImageFile),
    ("TIFF", b"II+\0", (".tif", ".tiff"), TiffImagePlugin.TiffImageFile),
    ("TIFF", b"MM\0+", (".tif", ".tiff"), TiffImagePlugin.TiffImageFile),
    ("GIF", b"GIF8", (".gif",), GifImagePlugin.GifImageFile),
    ("BMP", b"BM", (".bmp", ".dib"), BmpImagePlugin.BmpImageFile),
)
"""Name, first bytes, usual suffixes, Pillow's reader."""

MAX_SIDE = 1 << 20
"""Pixels; OpenCV reads no more."""
_MAX_SCANS = 500  # of a progressive JPEG, which has about ten: each costs a pass over all pixels


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


def recognise(data: bytes) -> tuple[str, Reader]:
    """A format's name and Pillow's reader.

    Raises:
        ImageError: none of `FORMATS`.
    """
    if not data:
        raise ImageError("an empty file (0 bytes)")
    for kind, magic, _, reader in FORMATS:
        if data.startswith(magic) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind, reader
    text = data[:64].isascii() and data[:64].decode("ascii").isprintable()
    what = f"text ({data[:24].decode('ascii')!r} …)" if text else f"starts with {data[:8].hex(' ')}"
    raise ImageError(f"no image of a known format (PNG, JPEG, WebP, TIFF, BMP, GIF): {what}")


@contextmanager
def opened(data: bytes, max_pixels: float, advice: str) -> Iterator[tuple[str, ImageFile]]:
    """(format, image) of a file's bytes, its size checked, its pixels not decoded yet; what follows inside is under `decoding`.

    Args:
        data: the whole file.
        max_pixels: most pixels; checked with the sides before anything is allocated.
        advice: what to do with a larger one.

    Raises:
        ImageError: no such format, damaged, or too large.
    """
    kind, reader = recognise(data)
    with decoding(kind):
        if kind == "WebP":  # libwebp allocates the canvas when it opens a file
            check_size(*_webp_size(data), max_pixels, advice)
        if kind == "JPEG" and data.count(b"\xff\xda") > _MAX_SCANS:
            raise ImageError(f"a JPEG file of more than {_MAX_SCANS} scans, made to keep decoders busy; save it anew")
        image = reader(io.BytesIO(data))
        check_size(*image.size, max_pixels, advice)
        if kind == "PNG":  # its reader does not look at checksums, nor at the end
            image.verify()
            image = reader(io.BytesIO(data))
            if struct.unpack(">II", data[16:24]) != image.size:  # a second header: decoders differ in which one they take
                raise ImageError("damaged PNG file: its headers give different sizes")
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff(image, data, max_pixels)
        yield kind, image


def check_size(width: int, height: int, max_pixels: float, advice: str) -> None:
    """ImageError for an image of too many pixels or too long a side."""
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than {max_pixels / 1e6:g} megapixels; {advice}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels: a side has at most {MAX_SIDE}; cut it into parts")


def is_wide(image: Image.Image, kind: str, data: bytes) -> bool:
    """Whether it has 16 bits per channel, of which Pillow would lose some."""
    if kind == "PNG":
        return data[24] == 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits, sample = image.tag_v2.get(258, (1,)), image.tag_v2.get(339, (1,))
        return max(bits) == 16 and set(sample) == {1}
    return False


def wide_pixels(image: Image.Image, data: bytes) -> np.ndarray:
    """uint16 [H, W] grey or [H, W, 3 or 4] RGB(A) of a 16-bit file that Pillow has loaded, and so found whole."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ImageError("a 16-bit image of a kind that cannot be read; save it as 16-bit PNG or with 8 bits")
    if sorted(found.shape[:2]) != sorted(image.size):  # sorted: orientation
        raise ImageError("damaged file: decoders differ about its size")
    if found.ndim == 2 or found.shape[2] == 1:
        return found.reshape(found.shape[:2])
    return found[..., [2, 1, 0, 3][: found.shape[2]]]


def _check_tiff(image: TiffImagePlugin.TiffImageFile, data: bytes, max_pixels: float) -> None:
    """Decoders take a buffer for one tile, whatever its size; and where a tag occurs twice, they differ in which one they take."""
    tile = image.tag_v2.get(322, 1) * image.tag_v2.get(323, 1)
    if tile > max(4 * image.width * image.height, 1 << 20) and tile > max_pixels / 8:
        raise ImageError(f"damaged TIFF file: tiles of {tile} pixels in an image of {image.width} x {image.height}")
    tags = _tiff_tags(data)
    if len(set(tags)) < len(tags):
        raise ImageError("damaged TIFF file: a tag occurs twice")


def _tiff_tags(data: bytes) -> list[int]:
    """The tags of the first directory (TIFF 6.0; BigTIFF), as far as they are there."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_at, count_kind, size, head = (8, "Q", 20, 8) if big else (4, "I", 12, 2)
    (start,) = struct.unpack_from(f"{order}{count_kind}", data, count_at)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    end = min(len(data) - size, start + head + (count - 1) * size)
    return [struct.unpack_from(f"{order}H", data, at)[0] for at in range(start + head, end + 1, size)]


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
