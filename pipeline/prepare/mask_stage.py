"""The mask stage for a list of images, in this process: images -> image masks, those that cannot be used with the reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ImageError
from ...runtime import pick_device
from ...settings import changed
from ..encode.mask_table import MaskTable
from ..images.decode import Decoded, map_ahead
from ..images.sources import SourceReader
from ..masks.settings import MaskConfig, number_type, segmenter_facts
from ..sam.weights import plan_weights
from .scan import SourceImage
from .staging import ImageMasks
from .tile_stage import image_masks

if TYPE_CHECKING:
    from .run import MaskSource

Read = Callable[[SourceImage, SourceReader], Decoded | ImageError]
"""`scan.read_usable` with its settings bound; picklable."""

Result = tuple[SourceImage, ImageMasks | ImageError]

MaskStage = Callable[[Sequence[SourceImage], Read], Iterator[Result]]
"""What makes image masks, here or elsewhere: images and how to read them -> one result each, in any order."""


def make_generator(sam: str, device: str = "auto", lr_scale: int | None = None, **options: Any) -> MaskSource:
    """A segmenter on a device given by name; with its arguments bound by `functools.partial` it can be made anywhere.

    Args:
        sam: its name.
        device: as of `pick_device`, looked up where this is called.
        lr_scale: masks of the LR image, enlarged by this scale; None: of the HR image.
        options: `MaskGenerator`'s other arguments.
    """
    from ..masks.adapters import MasksFromLR
    from ..masks.generator import MaskGenerator

    generator = MaskGenerator(sam, device=pick_device(device), **options)
    return generator if lr_scale is None else MasksFromLR(generator, lr_scale)


def plan_generator(
    sam: str,
    device: str = "auto",
    lr_scale: int | None = None,
    *,
    weights: Path | None = None,
    source: str = "auto",
    settings: MaskConfig | None = None,
    **parameters: Any,
) -> tuple[dict[str, Any], str]:
    """What `make_generator`'s segmenter would say of itself, and where its weights are; nothing is loaded or downloaded.

    Args:
        sam: its name.
        device: as of `make_generator`.
        lr_scale: likewise.
        weights: as of `find_weights`; weights that are not here are None in the facts.
        source: likewise.
        settings: see `MaskConfig`; None: the defaults.
        parameters: fields of the settings that are changed.
    """
    record, where = plan_weights(sam, file=weights, source=source)
    settings = changed(settings or MaskConfig(), parameters, "plan_generator")
    dtype = number_type(settings.mode, pick_device(device))
    facts = segmenter_facts(sam, weights=None if record is None else record.as_attributes(), settings=settings, dtype=dtype)
    return facts | ({} if lr_scale is None else {"masks_from": "lr"}), where


def one_each(items: Sequence[SourceImage], results: Iterator[Result]) -> Iterator[Result]:
    """The same results; whoever made them gave one for each item (each of another key), and none for anything else."""
    waiting = {item.key: item for item in items}
    for item, result in results:
        assert waiting.pop(item.key, None) is not None, f"{item.image_file.name}: a second result, or one that nobody requested"
        yield item, result
    assert not waiting, (
        f"no result for {len(waiting)} of {len(items)} images, such as {next(iter(waiting.values())).image_file.name}"
    )


def local_masks(masks: MaskSource, items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
    """Records of images, in order, made by one segmenter while the next images are decoded."""
    inside: deque[tuple[SourceImage, Decoded]] = deque()  # images that the segmenter holds
    refused: deque[tuple[SourceImage, ImageError]] = deque()

    expect = getattr(masks, "expect", lambda *_: None)  # files of masks belong to names

    def images() -> Iterator[np.ndarray]:
        for item, decoded in map_ahead(read, items):
            if isinstance(decoded, ImageError):
                refused.append((item, decoded))
                continue
            reason = expect(item.image_file.name, *decoded.pixels.shape[:2])
            if reason is not None:
                refused.append((item, ImageError(reason)))
                continue
            inside.append((item, decoded))
            yield decoded.pixels

    try:
        for found in masks.generate_batch(images()):
            item, decoded = inside.popleft()
            table = MaskTable.of(found, *decoded.pixels.shape[:2])
            notes = [*decoded.notes, *([] if len(table) else ["no masks"])]  # one colour, say: an image like any other
            yield item, image_masks(table, "; ".join(notes))
            while refused:
                yield refused.popleft()
    except (Exception, KeyboardInterrupt):
        yield from refused  # so that the reasons are told before the end
        raise
    yield from refused
    assert not inside, "the segmenter gave fewer results than images"
