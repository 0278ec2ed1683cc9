"""The mask stage for a list of images, in this process: images -> image masks, or the reason why an image cannot be used."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ImageError, printable
from ...runtime import pick_device, progress, usable_cores
from ...settings import changed
from ..embeddings.folder import EmbeddingFolder
from ..encode.mask_table import MaskTable
from ..images.decode import Ahead, Decoded
from ..images.sources import SourceReader
from ..masks.settings import MaskConfig
from .estimate import Forecast
from .scan import SourceImage
from .staging import ImageMasks, Staging
from .tile_stage import image_masks

if TYPE_CHECKING:
    from .run import MaskSource

log = logging.getLogger(__name__)

Read = Callable[[SourceImage, SourceReader], Decoded | ImageError]
"""`scan.read_usable` with its settings bound; picklable."""

Result = tuple[SourceImage, ImageMasks | ImageError]

MaskStage = Callable[[Sequence[SourceImage], Read], Iterator[Result]]
"""Computes image masks, in this process or on workers: (images, function that reads one) -> one result per image, in any order."""


def make_generator(
    sam: str,
    device: str = "auto",
    lr_scale: int | None = None,
    *,
    weights: Path | str | None = None,
    source: str = "auto",
    settings: MaskConfig | None = None,
    keep_embeddings: Path | None = None,
    **parameters: object,
) -> MaskSource:
    """A segmenter by name. With arguments bound by `functools.partial` this function can be pickled, and called in a worker.

    Args:
        sam: the segmenter's name, see `segmenters.by_name`.
        device: see `pick_device`; it is chosen in the process that calls this function.
        lr_scale: segment the LR image and upscale the masks by this factor; None: segment the HR image.
        weights: see `MaskGenerator`.
        source: see `MaskGenerator`.
        settings: see `MaskConfig`; None: the defaults.
        keep_embeddings: see `MaskGenerator`; with workers, the same folder on all machines.
        parameters: fields of `settings` to change.

    Raises:
        WeightsError: the weights cannot be found, downloaded or verified.
        ConfigError: an unknown parameter, or a value out of range.
    """
    from ..masks.adapters import MasksFromLR
    from ..segmenters.by_name import make_segmenter

    chosen = changed(settings or MaskConfig(), parameters, "make_generator")
    generator = make_segmenter(
        sam, pick_device(device), weights=weights, source=source, settings=chosen, keep_embeddings=keep_embeddings
    )
    return generator if lr_scale is None else MasksFromLR(generator, lr_scale)


def plan_generator(
    sam: str,
    device: str = "auto",
    lr_scale: int | None = None,
    *,
    weights: Path | None = None,
    source: str = "auto",
    settings: MaskConfig | None = None,
    keep_embeddings: Path | None = None,
    **parameters: object,
) -> tuple[dict[str, object], str]:
    """`describe()` of the segmenter that `make_generator` would return, and where its weights are. Nothing is loaded or downloaded.

    Args:
        sam: see `make_generator`.
        device: see `make_generator`.
        lr_scale: see `make_generator`.
        weights: see `find_weights`.
        source: see `find_weights`.
        settings: see `MaskConfig`; None: the defaults.
        keep_embeddings: see `make_generator`.
        parameters: fields of `settings` to change.

    Returns:
        The facts (`weights` is None if the weights have not been downloaded yet), and the source of the weights as text.
    """
    from ..segmenters.by_name import plan_segmenter

    chosen = changed(settings or MaskConfig(), parameters, "plan_generator")
    facts, where = plan_segmenter(
        sam, pick_device(device), weights=weights, source=source, settings=chosen, keep_embeddings=keep_embeddings
    )
    return facts | ({} if lr_scale is None else {"masks_from": "lr"}), where


def images_per_task(masks: MaskSource) -> int:
    """How many images a worker should take at once: an encoder batch of the mask engine; 1 for all other segmenters."""
    batch = getattr(getattr(masks, "engine", None), "encoder_batch", 1)
    return batch if isinstance(batch, int) else 1


def kept_embeddings(masks: MaskSource) -> EmbeddingFolder | None:
    """The folder of `--keep-embeddings` of a segmenter of the mask engine; None for all others."""
    found = getattr(masks, "embeddings", None)  # of another segmenter, it may be anything
    return found if isinstance(found, EmbeddingFolder) else None


def one_each(items: Sequence[SourceImage], results: Iterator[Result]) -> Iterator[Result]:
    """Pass the results on, and assert that there is exactly one for each item. The items' keys must differ."""
    pending = {item.key: item for item in items}
    for item, result in results:
        assert pending.pop(item.key, None) is not None, (
            f"{item.image_file.name}: a second result, or one that was not requested"
        )
        yield item, result
    assert not pending, (
        f"no result for {len(pending)} of {len(items)} images, such as {next(iter(pending.values())).image_file.name}"
    )


def save_masks(
    images: Sequence[SourceImage],
    missing: Sequence[SourceImage],
    staging: Staging,
    *,
    results: Iterator[Result],
    strict: bool,
    forecast: Forecast,
) -> dict[str, str]:
    """Stage `masks`: save the masks of each image that can be used.

    Args:
        images: all images of the source.
        missing: those without masks, one per key.
        staging: receives the masks.
        results: one for each of `missing`.
        strict: raise an ImageError for the first image that cannot be used.
        forecast: is told of each result.

    Returns:
        name -> reason for the images that cannot be used, which are also logged at once.
    """
    skipped: dict[str, str] = {}

    def skip(name: str, reason: str) -> None:
        if strict:
            raise ImageError(f"{name}: {reason}; leave out --strict to skip and list such images")
        log.warning("skipped %s: %s", name, reason)
        skipped[name] = reason

    names: dict[str, list[str]] = {}
    for item in images:
        if item.problem:
            skip(item.image_file.name, item.problem)
        else:
            names.setdefault(item.key, []).append(item.image_file.name)
    forecast.start(len(missing))
    with progress(desc="masks", total=len(missing), unit="image") as bar:
        for item, result in one_each(missing, results):
            bar.update()
            if isinstance(result, ImageError):
                for name in names[item.key]:
                    skip(name, str(result))
            else:
                forecast.add(item, staging.save(item.key, result))
                bar.set_postfix(masks=result.n_masks, **forecast.shown())
    return skipped


def warn_unmatched(masks: MaskSource, images: Sequence[SourceImage]) -> None:
    """Log a warning if a source of masks in files has masks of images that are not in the list."""
    unmatched = getattr(masks, "unmatched", None)  # only of sources that know images by name
    left = [] if unmatched is None else unmatched([item.image_file.name for item in images])
    if left:
        shown = ", ".join(map(printable, left[:5]))
        log.warning(
            "masks of %d images that are not in the source are not used: %s%s", len(left), shown, ", …" * (len(left) > 5)
        )


def masks_of(decoded: Decoded, table: MaskTable) -> ImageMasks:
    """The masks of a decoded image with codes and notes, as they are saved."""
    notes = [*decoded.notes, *([] if len(table) else ["no masks"])]  # such as of an image of one colour; it is used
    return image_masks(table, "; ".join(notes))


@dataclass(frozen=True)
class ReadyImage:
    """An image that was decoded and preprocessed ahead."""

    decoded: Decoded
    given: object
    """What the segmenter is given: the pixels, or what its `preprocess_ahead` made of them."""

    @property
    def nbytes(self) -> int:
        """Of the image and what was made of it."""
        more = 0 if self.given is self.decoded.pixels else getattr(self.given, "nbytes", 0)
        return self.decoded.nbytes + (more if isinstance(more, int) else 0)


ReadyImages = Ahead[SourceImage, ReadyImage | ImageError]


def read_ahead_of(masks: MaskSource, items: Sequence[SourceImage], read: Read) -> ReadyImages:
    """Begins to read images in threads, and to preprocess them for a segmenter; to be closed. A whole encoder batch waits for the next one."""
    preprocess: Callable[[np.ndarray], object] | None = getattr(masks, "preprocess_ahead", None)
    batch = images_per_task(masks)

    def ready(item: SourceImage, source_reader: SourceReader) -> ReadyImage | ImageError:
        decoded = read(item, source_reader)
        if isinstance(decoded, ImageError):
            return decoded
        return ReadyImage(decoded, decoded.pixels if preprocess is None else preprocess(decoded.pixels))

    ahead = max(4, 2 * batch)
    return Ahead(ready, items, workers=2 if batch == 1 else min(ahead, max(2, usable_cores())), ahead=ahead)


def local_masks(masks: MaskSource, items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
    """Masks of images by one segmenter, in order; the next images are read and preprocessed meanwhile."""
    with read_ahead_of(masks, items, read) as images:
        yield from masks_of_ready(masks, images)


def masks_of_ready(masks: MaskSource, ready: Iterable[tuple[SourceImage, ReadyImage | ImageError]]) -> Iterator[Result]:
    """Masks of images that are read elsewhere, by one segmenter, in order."""
    in_flight: deque[tuple[SourceImage, Decoded]] = deque()  # read by the segmenter, result not yet returned
    refused: deque[tuple[SourceImage, ImageError]] = deque()

    expect = getattr(masks, "expect", lambda *_: None)  # only of sources that know images by name

    def images() -> Iterator[Any]:
        for item, image in ready:
            if isinstance(image, ImageError):
                refused.append((item, image))
                continue
            decoded = image.decoded
            reason = expect(item.image_file.name, *decoded.pixels.shape[:2])
            if reason is not None:
                refused.append((item, ImageError(reason)))
                continue
            in_flight.append((item, decoded))
            yield image.given

    try:
        for generated in masks.generate_batch(images()):
            item, decoded = in_flight.popleft()
            table = MaskTable.of(generated, *decoded.pixels.shape[:2])
            yield item, masks_of(decoded, table)
            while refused:
                yield refused.popleft()
    except (Exception, KeyboardInterrupt):
        yield from refused  # so that the reasons are reported
        raise
    yield from refused
    assert not in_flight, "the segmenter returned fewer results than images"
