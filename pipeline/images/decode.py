"""Reads images as `prepare` and `masks` use them: 8-bit RGB, composited over white, and other samples with their view; prefetches in threads.

For formats and checks see `pipeline.decoding`.
"""

from __future__ import annotations

import threading
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

AHEAD_BYTES = 1 << 29
"""Bound on the images that are being decoded or wait for the caller; one is decoded however large it is."""


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
    def nbytes(self) -> int:
        """Of pixels and samples."""
        return self.pixels.nbytes + (0 if self.kept is None else self.kept.nbytes)

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
    work: Callable[[Item, SourceReader], Result],
    items: Sequence[Item],
    *,
    workers: int = 2,
    ahead: int = 4,
    max_bytes: int = AHEAD_BYTES,
) -> Iterator[tuple[Item, Result]]:
    """Map a function over items in threads ahead of the caller, in order; see `Ahead`. The threads start with the first result.

    Yields:
        Each item and its result. An exception of `work` is raised in place of its result.
    """
    with Ahead(work, items, workers=workers, ahead=ahead, max_bytes=max_bytes) as results:
        yield from results


class Ahead(Iterator[tuple[Item, Result]]):
    """A function mapped over items in threads ahead of the caller, in order. A context manager; the threads start at once.

    No thread waits for the caller: an item begins when a result is taken or another item ends. So an interrupted program ends as soon as
    the items in progress do.

    Args:
        work: called with an item and a `SourceReader` that all threads share. Memory is counted by the result's attribute `nbytes`, if any.
        items: in the order of the results.
        workers: number of threads.
        ahead: bound on items that are in progress or wait for the caller, besides the one that the caller holds.
        max_bytes: no other item begins while the results that wait have so many bytes, with as many for each item in progress as the largest
            result so far.
    """

    def __init__(
        self,
        work: Callable[[Item, SourceReader], Result],
        items: Sequence[Item],
        *,
        workers: int = 2,
        ahead: int = 4,
        max_bytes: int = AHEAD_BYTES,
    ) -> None:
        self._work, self._items = work, iter(items)
        self._workers, self._ahead, self._max_bytes = workers, ahead, max_bytes
        self._lock = threading.Lock()  # of the numbers below
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._running = self._bytes = self._largest = 0
        self._closed = False
        self._source_reader = SourceReader()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        with self._lock:
            self._begin()

    def __enter__(self) -> Ahead[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> tuple[Item, Result]:
        with self._lock:
            if not self._waiting:
                raise StopIteration
            item, future = self._waiting.popleft()
            self._begin()  # here too, since the result may be an exception
        result = future.result()
        with self._lock:
            self._bytes -= _bytes_of(result)
            self._begin()
        return item, result

    def close(self) -> None:
        """Begin nothing more, and wait for the items in progress."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
        with self._source_reader:  # closed when no thread reads any more
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """Begin as many items as the bounds allow; called with the lock. If nothing is waiting any more, at least one begins."""
        while self._running < self._workers and len(self._waiting) < self._ahead and not self._closed:
            if self._waiting and self._bytes + self._running * self._largest >= self._max_bytes:
                return
            for item in self._items:
                self._waiting.append((item, self._pool.submit(self._run, item)))
                self._running += 1
                break
            else:
                return

    def _run(self, item: Item) -> Result:
        size = 0
        try:
            result = self._work(item, self._source_reader)
            size = _bytes_of(result)
            return result
        finally:
            with self._lock:
                self._running, self._bytes = self._running - 1, self._bytes + size
                self._largest = max(self._largest, size)
                self._begin()


def _bytes_of(result: object) -> int:
    size = getattr(result, "nbytes", 0)
    assert isinstance(size, int)
    return size


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
