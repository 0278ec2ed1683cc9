"""Untrusted files -> RGB pixels, or one sentence why not. What was done on the way is stated in notes.

Pillow decodes; the format is told from the content, and the declared size is checked before anything is allocated. Pictures of 16
bits are read with OpenCV, because Pillow cuts the low byte off. Colour profiles are not applied.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import cv2
import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from ..errors import ConfigError, ImageError
from .sources import Picture, Shelf

Item = TypeVar("Item")
Result = TypeVar("Result")

_FORMATS: tuple[tuple[str, bytes, tuple[str, ...], Callable[..., ImageFile]], ...] = (
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
"""Name, first bytes, usual suffixes, Pillow's reader; called directly, because `Image.open` has a size limit of its own."""

_DECODE_ERRORS = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, AttributeError, RuntimeError, NotImplementedError,
    OverflowError, ZeroDivisionError, MemoryError, AssertionError, struct.error, zlib.error, cv2.error, Image.DecompressionBombError,
)  # fmt: skip
"""All that Pillow's readers were seen to raise on damaged files."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what is read from untrusted files."""

    max_megapixels: float = 200.0
    """Largest picture, in millions of pixels, checked before it is decoded."""

    def __post_init__(self) -> None:
        if not 0 < self.max_megapixels <= 10_000:
            raise ConfigError(f"max_megapixels: expected more than 0 and at most 10000, got {self.max_megapixels}")

    @property
    def max_bytes(self) -> int:
        """Largest file: 16 bits, four channels, uncompressed."""
        return int(self.max_megapixels * 8e6) + (1 << 24)


@dataclass(frozen=True)
class Decoded:
    """A picture's pixels."""

    pixels: np.ndarray
    """uint8 [H, W, 3], RGB 0..255, upright."""
    notes: tuple[str, ...] = ()
    """What decoding did that changes values or could surprise."""


def read_picture(picture: Picture, limits: Limits | None = None, shelf: Shelf | None = None) -> Decoded:
    """Read and decode one picture.

    Args:
        picture: from `list_source`.
        limits: bounds; None takes the defaults.
        shelf: keeps archives open; None opens and closes.

    Raises:
        ImageError: with the reason, whatever is wrong.
    """
    limits = limits or Limits()
    if shelf is None:
        with Shelf() as shelf:
            return read_picture(picture, limits, shelf)
    return decode_picture(shelf.read(picture, limits.max_bytes), picture.name, limits)


def read_ahead(
    pictures: Sequence[Picture], limits: Limits | None = None, *, workers: int = 2, ahead: int = 4
) -> Iterator[tuple[Picture, Decoded | ImageError]]:
    """Read pictures in threads ahead of the caller, in order (see `map_ahead`).

    Args:
        pictures: what to read.
        limits: bounds on picture sizes.
        workers: threads that decode.
        ahead: pictures being decoded or waiting.

    Yields:
        The picture, and its pixels or the reason why there are none.
    """

    def work(picture: Picture, shelf: Shelf) -> Decoded | ImageError:
        try:
            return read_picture(picture, limits, shelf)
        except ImageError as error:
            return error

    return map_ahead(work, pictures, workers=workers, ahead=ahead)


def map_ahead(
    work: Callable[[Item, Shelf], Result], items: Sequence[Item], *, workers: int = 2, ahead: int = 4
) -> Iterator[tuple[Item, Result]]:
    """Work on items in threads ahead of the caller, in order.

    At most `ahead` results wait, besides the one that the caller holds. An exception of `work` is raised where its result was due.

    Args:
        work: reads and computes; is given the item and a `Shelf` that all threads share.
        items: what to work on.
        workers: threads.
        ahead: items at work or waiting.

    Yields:
        The item and its result.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with Shelf() as shelf:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item, shelf)))
                if len(waiting) >= ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
                    del future  # or the pixels would live until the next picture is there
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
                del future
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_picture(data: bytes, name: str, limits: Limits | None = None) -> Decoded:
    """Decode a file's bytes.

    Args:
        data: the whole file.
        name: for the check of its suffix.
        limits: bounds; None takes the defaults.

    Raises:
        ImageError: no picture of a known format, damaged, cut off, too large, or not convertible to RGB.
    """
    limits = limits or Limits()
    kind, reader = _recognise(data)
    try:
        _check_size(*(_webp_size(data) if kind == "WebP" else (0, 0)), limits)
        image = reader(io.BytesIO(data))
        _check_size(*image.size, limits)
        if kind == "PNG":  # its reader does not look at checksums, nor at the end
            image.verify()
            image = reader(io.BytesIO(data))
        notes = _first_notes(image, kind, name)
        turn = image.getexif().get(0x0112, 1)
        wide = _bits(image, kind, data) > 8
        image.load()
        pixels, more = _wide_pixels(data) if wide else _pixels(image)
    except _DECODE_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"damaged or cut off {kind} file: {' '.join(str(error).split()) or type(error).__name__}") from error
    if turn in _TURNS:
        # Pillow and OpenCV have turned TIFF already
        pixels = pixels if kind == "TIFF" else _TURNS[turn](pixels)
        more = [*more, "turned upright as its EXIF orientation says"]
    return Decoded(np.ascontiguousarray(pixels), (*notes, *more))


_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: np.rot90,
}
"""EXIF 2.32, tag Orientation -> what makes it upright."""


def _recognise(data: bytes) -> tuple[str, Callable[..., ImageFile]]:
    if not data:
        raise ImageError("an empty file (0 bytes)")
    for kind, magic, _, reader in _FORMATS:
        if data.startswith(magic) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind, reader
    text = data[:64].isascii() and data[:64].decode("ascii").isprintable()
    what = f"text ({data[:24].decode('ascii')!r} …)" if text else f"starts with {data[:8].hex(' ')}"
    raise ImageError(f"no picture of a known format (PNG, JPEG, WebP, TIFF, BMP, GIF): {what}")


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_megapixels * 1e6:
        raise ImageError(
            f"{width} x {height} pixels are more than {limits.max_megapixels:g} megapixels; raise --max-megapixels to use it"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header (RFC 9649), because libwebp allocates the canvas when it opens a file."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _first_notes(image: ImageFile, kind: str, name: str) -> list[str]:
    suffix = PurePosixPath(name).suffix.lower()
    usual = next(suffixes for known, _, suffixes, _ in _FORMATS if known == kind)
    notes = [] if suffix in usual else [f"named {suffix or 'without suffix'} but holds {kind}"]
    if getattr(image, "is_animated", False):
        notes.append("the first of several frames or pages")
    return notes


def _bits(image: ImageFile, kind: str, data: bytes) -> int:
    """Bits per channel, as far as it matters: 8, or 16 where Pillow would lose some."""
    if kind == "PNG":
        return data[24]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits, sample = image.tag_v2.get(258, (1,)), image.tag_v2.get(339, (1,))
        return 16 if max(bits) == 16 and set(sample) == {1} else 8
    return 8


def _wide_pixels(data: bytes) -> tuple[np.ndarray, list[str]]:
    """Pixels of a 16-bit file that Pillow found whole: round(v / 257)."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ImageError("a 16-bit picture of a kind that cannot be read; save it as 16-bit PNG or with 8 bits")
    values = (found.astype(np.uint32) + 128) // 257
    pixels = values.astype(np.uint8).reshape(*found.shape[:2], -1)
    notes = ["16 bits scaled to 8"]
    if pixels.shape[2] == 4:
        return _over_white(pixels[..., [2, 1, 0, 3]], notes)
    return (pixels[..., ::-1] if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)), notes


def _pixels(image: ImageFile) -> tuple[np.ndarray, list[str]]:
    """Pixels of a loaded image of any mode that Pillow can turn into RGB."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _over_white(np.asarray(image.convert("RGBA")), [])
    if image.mode == "F":
        return _from_float(np.asarray(image))
    if image.mode.startswith("I"):
        raise ImageError("whole numbers of more than 16 bits, whose range is not known; save it with 8 or 16 bits")
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK"):
        raise ImageError(f"colours of the kind {image.mode}, which are not supported; save it as RGB")
    notes = ["CMYK turned into RGB without its colour profile"] if image.mode == "CMYK" else []
    return np.asarray(image.convert("RGB")), notes


def _over_white(rgba: np.ndarray, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """uint8 [H, W, 4] -> [H, W, 3]; says so only if something is transparent."""
    if rgba[..., 3].min(initial=255) == 255:
        return rgba[..., :3], notes
    alpha = rgba[..., 3:].astype(np.uint32)
    over = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return over.astype(np.uint8), [*notes, "transparent parts composited over white"]


def _from_float(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """float32 [H, W] in 0..1 -> [H, W, 3]."""
    if not np.isfinite(values).all():
        raise ImageError("holds NaN or infinite values; save it with 8 or 16 bits")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ImageError(f"floats from {values.min():g} to {values.max():g}; expected 0 to 1, or save it with 8 or 16 bits")
    grey = np.floor(values * 255 + 0.5).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), ["floats of 0 to 1 scaled to 8 bits"]
