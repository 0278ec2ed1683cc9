"""What `prepare` will cost: its time and disk space, measured on the first images whose masks are made, and reported before hours are spent."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ...errors import SamdiffError, printable
from ...progress import duration
from ..encode.rle import paint_labels
from ..images.sources import SourceReader
from ..scientific.sample_format import RGB8, SampleFormat
from ..shards.codec import encode_chunk, index_bytes
from ..shards.schema import arrays_of, tiles_per_shard
from ..storage.local import KeyStore, LocalStore
from .info import bytes_text
from .scan import SourceImage
from .settings import PrepareConfig
from .staging import Staging
from .tile_stage import Grid, cut_tiles, hr_and_lr

log = logging.getLogger(__name__)

FIRST, FIRST_ELSEWHERE = 2, 8
"""Images that are measured in this process; tasks, on workers, which finish several at about the same time."""
_TILE_ARRAYS = 3  # sharded arrays of 8-bit RGB
_TILES = 6  # of an image that are compressed


@dataclass(frozen=True)
class Estimate:
    """What the rest of a run takes."""

    images: int
    """Images whose masks are still to be made."""
    mask_seconds: float
    """Seconds for their masks."""
    tile_seconds: float
    """Seconds for the tiles of all images."""
    store_bytes: int
    """Size of the finished store."""
    staging_bytes: int
    """Size of the staging folder, which is deleted when the store is finished."""

    @property
    def bytes(self) -> int:
        """Disk space at the end of the run, before the staging folder is deleted."""
        return self.store_bytes + self.staging_bytes

    def line(self, measured: int) -> str:
        """One line for the user; `measured` is the number of images whose masks were timed."""
        of = f"{measured} images" if measured == FIRST else f"{measured} images, sizes on {FIRST}"
        return (
            f"about {duration(self.mask_seconds + self.tile_seconds)} left: masks of {self.images} image{'s' * (self.images != 1)} "
            f"{duration(self.mask_seconds)}, tiles {duration(self.tile_seconds)}; about {bytes_text(self.bytes)} on disk: store "
            f"{bytes_text(self.store_bytes)}, work in progress {bytes_text(self.staging_bytes)} (measured on {of})"
        )


@dataclass(frozen=True)
class ImageCost:
    """What the tiles of one image cost."""

    item: SourceImage
    seconds: float
    """To read, degrade, cut and compress."""
    tiles: int
    """Number of its tiles."""
    tile_bytes: int
    """Compressed tiles."""
    mask_bytes: int
    """Its record in the staging folder; the store's tables are about as large."""


def estimate(
    costs: Sequence[ImageCost], images: Sequence[SourceImage], *, tile: int, seconds_per_image: float, missing: int
) -> Estimate:
    """The estimate for a run. Pure.

    Sizes and the time of tiles are taken to be proportional to the sizes of the files, if all have the same suffix and a known size, else
    equal for all images. The time of masks is taken to be equal for all images.

    Args:
        costs: of the measured images.
        images: all images that can be used.
        tile: tile size in HR pixels.
        seconds_per_image: measured, for masks.
        missing: number of images whose masks are still to be made.
    """
    measured = [cost.item for cost in costs]
    one_format = len({PurePosixPath(item.image_file.name).suffix.lower() for item in images}) == 1
    by_size = one_format and all(item.image_file.size > 0 for item in [*images, *measured])
    weight = [item.image_file.size if by_size else 1 for item in images]
    ratio = sum(weight) / sum(item.image_file.size if by_size else 1 for item in measured)
    shards = -(-round(ratio * sum(cost.tiles for cost in costs)) // tiles_per_shard(tile))
    indices = _TILE_ARRAYS * shards * index_bytes(tiles_per_shard(tile))  # of fixed length, whatever a shard holds
    mask_bytes = round(ratio * sum(cost.mask_bytes for cost in costs))
    return Estimate(
        images=missing,
        mask_seconds=seconds_per_image * missing,
        tile_seconds=ratio * sum(cost.seconds for cost in costs),
        store_bytes=round(ratio * sum(cost.tile_bytes for cost in costs)) + indices + mask_bytes,
        staging_bytes=mask_bytes,
    )


def measure_image(
    item: SourceImage, staging: Staging, settings: PrepareConfig, *, mask_bytes: int, samples: SampleFormat = RGB8
) -> ImageCost | None:
    """Read an image, and compress a few of its tiles as the store does; None if it cannot be read any more, which a later stage reports."""
    begun = time.monotonic()
    masks = staging.load(item.key)
    degradation = settings.as_attributes({})["degradation"]
    assert isinstance(degradation, dict)
    try:
        with SourceReader() as source_reader:
            pair = hr_and_lr(
                item, source_reader, scale=settings.scale, degradation=degradation, limits=settings.limits, samples=samples
            )
    except SamdiffError:
        return None
    if masks is None or pair.hr.shape[:2] != (masks.height, masks.width):
        return None
    labels = paint_labels(masks.runs(), masks.height, masks.width)
    grid = Grid(tile=settings.tile_hr, scale=settings.scale, stride=settings.stride)
    tiles = cut_tiles(pair.hr, pair.lr, labels, grid=grid, usable=pair.usable)
    count = len(tiles.pop("corner"))
    chosen = np.unique(np.linspace(0, count - 1, min(count, _TILES)).astype(int))
    cut = time.monotonic()
    levels = {name: spec.level for path, spec in arrays_of(samples).items() if (name := path.partition("/")[2]) in tiles}
    size = sum(len(encode_chunk(values[k], levels[name])) for name, values in tiles.items() for k in chosen)
    ended = time.monotonic()
    share = count / len(chosen)
    return ImageCost(
        item, seconds=cut - begun + share * (ended - cut), tiles=count, tile_bytes=round(share * size), mask_bytes=mask_bytes
    )


class Forecast:
    """Measures the first images of a run, then reports the estimate once, with a warning if the disk is too small.

    Args:
        images: all images of the source.
        staging: of the run.
        settings: of the run.
        local: whether this process makes the masks.
        group: images that workers finish together.
        report: called with one line.
        samples: of the store.
    """

    def __init__(
        self,
        images: Sequence[SourceImage],
        staging: Staging,
        settings: PrepareConfig,
        *,
        local: bool,
        group: int = 1,
        report: Callable[[str], None],
        samples: SampleFormat = RGB8,
    ) -> None:
        self._samples = samples
        self._images = [item for item in images if not item.problem and not item.image_file.problem]
        self._staging, self._settings, self._report = staging, settings, report
        self._local, self._group = local, 0 if local else group
        self._measured = FIRST if local else FIRST_ELSEWHERE * group
        self._missing = self._done = 0
        self._first: list[tuple[SourceImage, int]] = []
        self._begun = 0.0
        self.estimate: Estimate | None = None

    def start(self, missing: int) -> None:
        """The mask stage begins, with so many images to be segmented."""
        self._missing, self._begun = missing, time.monotonic()

    def add(self, item: SourceImage, mask_bytes: int) -> None:
        """The masks of an image were saved, in so many bytes."""
        self._done += 1
        if len(self._first) < FIRST:
            self._first.append((item, mask_bytes))
        if self._done == self._group:
            self._begun = time.monotonic()  # workers have loaded their segmenters now
        if self._done == self._measured < self._missing:
            self._make((time.monotonic() - self._begun) / (self._measured - self._group))

    def shown(self) -> dict[str, str]:
        """For the progress bar: what the run needs beside the time of the masks."""
        if self.estimate is None:
            return {}
        return {"disk": bytes_text(self.estimate.bytes), "tiles": duration(self.estimate.tile_seconds)}

    def _make(self, seconds_per_image: float) -> None:
        found = [
            measure_image(item, self._staging, self._settings, mask_bytes=mask_bytes, samples=self._samples)
            for item, mask_bytes in self._first
        ]
        costs = [cost for cost in found if cost is not None]
        if not costs:
            return
        left = self._missing - self._done
        self.estimate = estimate(
            costs, self._images, tile=self._settings.tile_hr, seconds_per_image=seconds_per_image, missing=left
        )
        self._report(self.estimate.line(self._measured))
        free = free_bytes(self._staging.out)
        if free is not None and free < self.estimate.bytes:
            log.warning(
                "%s: needs about %s, but %s are free on that disk; free some space there before it is full, or stop and give an --out on "
                "another disk (after Ctrl-C or a full disk, the same command resumes)",
                self._staging.out,
                bytes_text(self.estimate.bytes),
                bytes_text(free),
            )


def embeddings_line(root: Path, *, most_bytes: int, images: int) -> str:
    """One line, before the first image is segmented: the space that `--keep-embeddings` needs. A warning if there is less.

    Args:
        root: the folder, which need not exist.
        most_bytes: needed if no embedding is kept yet.
        images: that may be segmented.
    """
    free = free_bytes(LocalStore(root / "x"))
    assert free is not None  # of a folder
    needed = f"embeddings of {images} image{'s' * (images != 1)}: at most {bytes_text(most_bytes)} in {printable(root)}"
    if free < most_bytes:
        log.warning("%s, but %s are free there; free some space, or give another --keep-embeddings", needed, bytes_text(free))
    return f"{needed}, where {bytes_text(free)} are free"


def free_bytes(place: KeyStore) -> int | None:
    """The free space of the disk of a store that may not exist yet, in bytes; None for a URL."""
    if not isinstance(place, LocalStore):
        return None
    folder = next(parent for parent in (Path.cwd() / place.root).parents if parent.is_dir())
    return shutil.disk_usage(folder).free
