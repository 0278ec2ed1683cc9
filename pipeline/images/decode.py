"""Untrusted files -> RGB pixels, or one sentence why not. What was done on the way is stated in notes.

What is decoded, and what is checked before: see `formats`. Colour profiles are not applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import ImageFile as PilFile

from ...errors import ImageError
from .formats import FORMATS, is_wide, opened, wide_pixels
from .sources import ImageFile, SourceReader
from .sources import Limits as Limits

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Decoded:
    """A picture's pixels."""

    pixels: np.ndarray
    """uint8 [H, W, 3], RGB 0..255, upright."""
    notes: tuple[str, ...] = ()
    """What decoding did that changes values or could surprise."""


def read_picture(picture: ImageFile, limits: Limits | None = None, shelf: SourceReader | None = None) -> Decoded:
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
        with SourceReader() as shelf:
            return read_picture(picture, limits, shelf)
    return decode_picture(shelf.read(picture, limits.max_bytes), picture.name, limits)


def read_ahead(
    pictures: Sequence[ImageFile], limits: Limits | None = None, *, workers: int = 2, ahead: int = 4
) -> Iterator[tuple[ImageFile, Decoded | ImageError]]:
    """Read pictures in threads ahead of the caller, in order (see `map_ahead`).

    Args:
        pictures: what to read.
        limits: bounds on picture sizes.
        workers: threads that decode.
        ahead: pictures being decoded or waiting.

    Yields:
        The picture, and its pixels or the reason why there are none.
    """

    def work(picture: ImageFile, shelf: SourceReader) -> Decoded | ImageError:
        try:
            return read_picture(picture, limits, shelf)
        except ImageError as error:
            return error

    return map_ahead(work, pictures, workers=workers, ahead=ahead)


def map_ahead(
    work: Callable[[Item, SourceReader], Result], items: Sequence[Item], *, workers: int = 2, ahead: int = 4
) -> Iterator[tuple[Item, Result]]:
    """Work on items in threads ahead of the caller, in order.

    At most `ahead` results wait, besides the one that the caller holds. An exception of `work` is raised where its result was due.

    Args:
        work: reads and computes; is given the item and a `SourceReader` that all threads share.
        items: what to work on.
        workers: threads.
        ahead: items at work or waiting.

    Yields:
        The item and its result.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with SourceReader() as shelf:
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
    with opened(data, limits.max_megapixels * 1e6, "raise --max-megapixels to use it") as (kind, image):
        notes = _first_notes(image, kind, name)
        turn = image.getexif().get(0x0112, 1)
        wide = is_wide(image, kind, data)
        image.load()
        pixels, more = _scaled(wide_pixels(image, data)) if wide else _pixels(image)
        turn = turn if turn in range(1, 9) else 1
    if turn != 1:
        # Pillow and OpenCV have turned TIFF already
        pixels = pixels if kind == "TIFF" else _TURNS[turn](pixels)
        more = [*more, "turned upright as its EXIF orientation says"]
    return Decoded(np.ascontiguousarray(pixels), (*notes, *more))


_BAND = 256  # rows

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


def _first_notes(image: PilFile.ImageFile, kind: str, name: str) -> list[str]:
    suffix = PurePosixPath(name).suffix.lower()
    usual = next(suffixes for known, _, suffixes, _ in FORMATS if known == kind)
    notes = [] if suffix in usual else [f"named {suffix or 'without suffix'} but holds {kind}"]
    if getattr(image, "is_animated", False):
        notes.append("the first of several frames or pages")
    return notes


def _scaled(wide: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Pixels [H, W, 3] of uint16 [H, W] or [H, W, 3 or 4]: round(v / 257), in bands of rows, because it takes twice the memory."""
    pixels: np.ndarray = np.empty(wide.shape, np.uint8)
    for top in range(0, len(wide), _BAND):
        pixels[top : top + _BAND] = (wide[top : top + _BAND].astype(np.uint32) + 128) // 257
    notes = ["16 bits scaled to 8"]
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2), notes
    return _over_white(pixels, notes) if pixels.shape[2] == 4 else (pixels, notes)


def _pixels(image: PilFile.ImageFile) -> tuple[np.ndarray, list[str]]:
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
