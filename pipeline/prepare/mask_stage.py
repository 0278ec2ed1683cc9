"""The mask stage for a list of images, in this process: images -> image masks, or the reason why an image cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ImageError
from ...runtime import pick_device
from ...settings import changed
from ..encode.mask_table import MaskTable
from ..images.decode import Decoded, map_ahead
from ..images.sources import SourceReader
from ..masks.settings import MaskConfig
from .scan import SourceImage
from .staging import ImageMasks
from .tile_stage import image_masks

if TYPE_CHECKING:
    from .run import MaskSource

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
        parameters: fields of `settings` to change.

    Raises:
        WeightsError: the weights cannot be found, downloaded or verified.
        ConfigError: an unknown parameter, or a value out of range.
    """
    from ..masks.adapters import MasksFromLR
    from ..segmenters.by_name import make_segmenter

    chosen = changed(settings or MaskConfig(), parameters, "make_generator")
    generator = make_segmenter(sam, pick_device(device), weights=weights, source=source, settings=chosen)
    return generator if lr_scale is None else MasksFromLR(generator, lr_scale)


def plan_generator(
    sam: str,
    device: str = "auto",
    lr_scale: int | None = None,
    *,
    weights: Path | None = None,
    source: str = "auto",
    settings: MaskConfig | None = None,
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
        parameters: fields of `settings` to change.

    Returns:
        The facts (`weights` is None if the weights have not been downloaded yet), and the source of the weights as text.
    """
    from ..segmenters.by_name import plan_segmenter

    chosen = changed(settings or MaskConfig(), parameters, "plan_generator")
    facts, where = plan_segmenter(sam, pick_device(device), weights=weights, source=source, settings=chosen)
    return facts | ({} if lr_scale is None else {"masks_from": "lr"}), where


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


def local_masks(masks: MaskSource, items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
    """Masks of images by one segmenter, in order; the next images are decoded meanwhile."""
    in_flight: deque[tuple[SourceImage, Decoded]] = deque()  # read by the segmenter, result not yet returned
    refused: deque[tuple[SourceImage, ImageError]] = deque()

    expect = getattr(masks, "expect", lambda *_: None)  # only of sources that know images by name

    def images() -> Iterator[np.ndarray]:
        for item, decoded in map_ahead(read, items):
            if isinstance(decoded, ImageError):
                refused.append((item, decoded))
                continue
            reason = expect(item.image_file.name, *decoded.pixels.shape[:2])
            if reason is not None:
                refused.append((item, ImageError(reason)))
                continue
            in_flight.append((item, decoded))
            yield decoded.pixels

    try:
        for generated in masks.generate_batch(images()):
            item, decoded = in_flight.popleft()
            table = MaskTable.of(generated, *decoded.pixels.shape[:2])
            notes = [*decoded.notes, *([] if len(table) else ["no masks"])]  # such as of an image of one colour; it is used
            yield item, image_masks(table, "; ".join(notes))
            while refused:
                yield refused.popleft()
    except (Exception, KeyboardInterrupt):
        yield from refused  # so that the reasons are reported
        raise
    yield from refused
    assert not in_flight, "the segmenter returned fewer results than images"
