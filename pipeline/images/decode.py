"""Reads images as `prepare` and `masks` use them: 8-bit RGB, composited over white, and other samples with their view; prefetches in threads.

For formats and checks see `pipeline.decoding`.
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
from ..scientific.choose import seen_format
from ..scientific.read import may_be_measured, read_native, read_samples
from ..scientific.sample_format import SampleFormat
from ..scientific.samples import Samples, outside_note, rgb8_samples, to_samples
from ..scientific.view import segmenter_view, view_note
from .sources import ImageFile, SourceReader
from .sources import Limits as Limits

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Decoded:
    """A decoded image."""

    pixels: np.ndarray
    """uint8 [H, W, 3], RGB 0..255, upright: what a segmenter sees."""
    notes: tuple[str, ...] = ()
    """Conversions that changed values, such as 16 bits to 8; one phrase each."""
    kept: Samples | None = None
    """The samples of a store of other than 8-bit RGB; `pixels` is then their `segmenter_view`."""

    @property
    def samples(self) -> Samples:
        """What a store keeps."""
        return rgb8_samples(self.pixels) if self.kept is None else self.kept


def read_rgb(image_file: ImageFile, limits: Limits | None = None, source_reader: SourceReader | None = None) -> Decoded:
    """Read and decode one image.

    Args:
        image_file: from `list_source`.
        limits: bounds; None: the defaults.
        source_reader: keeps archives open between images; None: opens and closes one.

    Raises:
        ImageError: it cannot be read or decoded; the message has the reason.
    """
    limits = limits or Limits()
    if source_reader is None:
        with SourceReader() as source_reader:
            return read_rgb(image_file, limits, source_reader)
    return decode_rgb(source_reader.read(image_file, limits.max_bytes), image_file.name, limits)


def read_seen(image_file: ImageFile, limits: Limits, source_reader: SourceReader) -> Decoded:
    """An image as a segmenter sees it: `read_rgb`, or the view of measured values, with a note that says what is seen. Errors as there."""
    if not may_be_measured(image_file.name):
        return read_rgb(image_file, limits, source_reader)
    data = source_reader.read(image_file, limits.max_bytes)
    native = read_native(data, image_file.name, keep=False, max_pixels=limits.max_megapixels * 1e6)
    if native is None:
        return decode_rgb(data, image_file.name, limits)
    seen = seen_format(native)
    samples = to_samples(native, seen)
    return Decoded(segmenter_view(samples, seen), (*native.notes, view_note(native, seen)), samples)


def read_ahead(
    image_files: Sequence[ImageFile], limits: Limits | None = None, *, workers: int = 2, ahead: int = 4
) -> Iterator[tuple[ImageFile, Decoded | ImageError]]:
    """Read images, also of measured values (see `read_seen`), in threads ahead of the caller, in order (see `map_ahead`).

    Args:
        image_files: from `list_source`.
        limits: bounds; None: the defaults.
        workers: number of threads.
        ahead: bound on images that are being decoded or wait for the caller.

    Yields:
        Each image file with its pixels, or with the reason why it cannot be decoded.
    """

    def work(image_file: ImageFile, source_reader: SourceReader) -> Decoded | ImageError:
        try:
            return read_seen(image_file, limits or Limits(), source_reader)
        except ImageError as error:
            return error

    return map_ahead(work, image_files, workers=workers, ahead=ahead)


def map_ahead(
    work: Callable[[Item, SourceReader], Result], items: Sequence[Item], *, workers: int = 2, ahead: int = 4
) -> Iterator[tuple[Item, Result]]:
    """Map a function over items in threads ahead of the caller, in order.

    At most `ahead` results wait, besides the one that the caller holds. An exception of `work` is raised in place of its result.

    Args:
        work: called with an item and a `SourceReader` that all threads share.
        items: in the order of the results.
        workers: number of threads.
        ahead: bound on items that are in progress or wait for the caller.

    Yields:
        Each item and its result.
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
                    del future  # frees the pixels before the next image is decoded
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
                del future
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_as(data: bytes, name: str, limits: Limits, samples: SampleFormat) -> Decoded:
    """`decode_rgb`, or for other samples than 8-bit RGB these and their view; ImageError also if the file does not fit the format."""
    if samples.is_rgb8:
        return decode_rgb(data, name, limits)
    read, notes = read_samples(data, name, samples, max_pixels=limits.max_megapixels * 1e6)
    return Decoded(segmenter_view(read, samples), (*notes, *outside_note(read, samples)), read)


def decode_rgb(data: bytes, name: str, limits: Limits | None = None) -> Decoded:
    """Decode the bytes of a file.

    Args:
        data: the whole file.
        name: of the file; its suffix is compared with the content.
        limits: bounds; None: the defaults.

    Raises:
        ImageError: unknown or unsupported format, damaged, truncated, or too large.
    """
    limits = limits or Limits()
    settings = ReadConfig(limits.max_megapixels * 1e6, "raise --max-megapixels to use it", limits.to_srgb)
    return Decoded(*rgb8(decode_image(data, name, settings)))
