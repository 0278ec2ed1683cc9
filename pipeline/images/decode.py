"""The images of a source as `prepare` and `masks` use them: RGB over white in 8 bits, and reading them ahead in threads.

What is decoded, and what is checked before: see the room `decoding`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ...errors import ImageError
from ..decoding.image_data import ReadConfig, decode_image, rgb8
from .sources import ImageFile, SourceReader
from .sources import Limits as Limits

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Decoded:
    """An image's pixels."""

    pixels: np.ndarray
    """uint8 [H, W, 3], RGB 0..255, upright."""
    notes: tuple[str, ...] = ()
    """What decoding did that changes values or could surprise."""


def read_rgb(image_file: ImageFile, limits: Limits | None = None, source_reader: SourceReader | None = None) -> Decoded:
    """Read and decode one image.

    Args:
        image_file: from `list_source`.
        limits: bounds; None takes the defaults.
        source_reader: keeps archives open; None opens and closes.

    Raises:
        ImageError: with the reason, whatever is wrong.
    """
    limits = limits or Limits()
    if source_reader is None:
        with SourceReader() as source_reader:
            return read_rgb(image_file, limits, source_reader)
    return decode_rgb(source_reader.read(image_file, limits.max_bytes), image_file.name, limits)


def read_ahead(
    image_files: Sequence[ImageFile], limits: Limits | None = None, *, workers: int = 2, ahead: int = 4
) -> Iterator[tuple[ImageFile, Decoded | ImageError]]:
    """Read images in threads ahead of the caller, in order (see `map_ahead`).

    Args:
        image_files: what to read.
        limits: bounds on image sizes.
        workers: threads that decode.
        ahead: images being decoded or waiting.

    Yields:
        The image, and its pixels or the reason why there are none.
    """

    def work(image_file: ImageFile, source_reader: SourceReader) -> Decoded | ImageError:
        try:
            return read_rgb(image_file, limits, source_reader)
        except ImageError as error:
            return error

    return map_ahead(work, image_files, workers=workers, ahead=ahead)


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
    with SourceReader() as source_reader:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item, source_reader)))
                if len(waiting) >= ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
                    del future  # or the pixels would live until the next image is there
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
                del future
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_rgb(data: bytes, name: str, limits: Limits | None = None) -> Decoded:
    """Decode a file's bytes.

    Args:
        data: the whole file.
        name: for the check of its suffix.
        limits: bounds; None takes the defaults.

    Raises:
        ImageError: no image of a known format, damaged, cut off, too large, or of a kind that is not read.
    """
    limits = limits or Limits()
    settings = ReadConfig(limits.max_megapixels * 1e6, "raise --max-megapixels to use it", limits.to_srgb)
    return Decoded(*rgb8(decode_image(data, name, settings)))
