"""Masks of other stores, reused for images whose pixels and segmenter are equal.

Every store of format version 1 can give masks, whatever its tile, stride or degradation: its tiles cover each image, so the pixels that the
segmenter saw are in the store, and they are compared, not the files. Only masks are taken; codes are computed again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import ConfigError, SamdiffError, StoreError, printable
from ...runtime import progress
from ..encode.mask_table import MaskTable
from ..export.stored_masks import mask_table
from ..images.decode import map_ahead
from ..scientific.sample_format import SampleFormat
from ..shards.reader import Store, open_store
from ..storage.local import Location
from .mask_stage import Read, masks_of
from .scan import SourceImage
from .settings import comparable
from .staging import Staging, differences


@dataclass(frozen=True)
class Reused:
    """What the stores of `--reuse` gave."""

    keys: frozenset[str]
    """The keys (`SourceImage.key`) of the images whose masks are saved now."""
    images: Mapping[str, int]
    """Store -> number of images whose masks came from it."""

    def nothing(self, total: int) -> StoreError:
        """The error of a run of `total` images that got no masks from any store."""
        return StoreError(
            f"--reuse {', '.join(map(printable, self.images))}: has none of the {total} images, compared by their pixels after the crop to "
            "a multiple of the scale; leave out --reuse to segment them all, or give the store of these images"
        )


def reuse_differences(attributes: Mapping[str, object], settings: Mapping[str, object]) -> list[str]:
    """One sentence per setting that determines masks and differs between a store and the request. Pure.

    The tile, the stride and the degradation do not determine masks of HR. For masks of LR the degradation and the scale do.

    Args:
        attributes: of the store that has masks; may be untrusted.
        settings: of the request, from `PrepareConfig.as_attributes`.
    """
    before, now = _deciding(attributes), _deciding(settings)
    segmenter = now["segmenter"]
    assert isinstance(segmenter, Mapping)
    if "weights" in segmenter and segmenter["weights"] is None:
        return ["segmenter.weights: their SHA-256 is not known, so it cannot be compared"]
    return [printable(line) for line in differences(before, now)]


def _deciding(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that determine the masks of given pixels."""
    segmenter = settings.get("segmenter")
    facts = comparable(segmenter) if isinstance(segmenter, Mapping) else {}
    of_lr = {key: settings.get(key) for key in ("scale", "degradation")} if facts.get("masks_from") == "lr" else {}
    return {"segmenter": facts, **of_lr}


def open_reused(places: Sequence[Location], settings: Mapping[str, object]) -> list[ReusedStore]:
    """The stores of `--reuse`, each made with the requested segmenter.

    Raises:
        ConfigError: the segmenter of a store differs; one line per such store says how.
        StoreError: a store cannot be opened.
    """
    stores = [open_store(place) for place in dict.fromkeys(places)]
    problems = {str(store.place): reuse_differences(store.attrs, settings) for store in stores}
    lines = [
        f"--reuse {place}: its masks cannot be used, because they were made with other settings ({'; '.join(found[:6])})"
        for place, found in problems.items()
        if found
    ]
    if lines:
        raise ConfigError("\n".join([*lines, "give the settings of the store, or leave out this --reuse"]))
    return [ReusedStore(store) for store in stores]


def check_donors(donors: Sequence[ReusedStore], samples: SampleFormat) -> None:
    """ConfigError unless each store of `--reuse` has the samples of the new one, since images are compared by them."""
    for donor in donors:
        if donor.store.samples != samples:
            raise ConfigError(
                f"--reuse {printable(donor.store.place)}: has other samples ({donor.store.samples.describe()}) than the images "
                f"({samples.describe()}); give the same --bands, --range, --nodata and --view-bands, or leave out this --reuse"
            )


def plan_reuse(places: Sequence[Location], settings: Mapping[str, object], images: Sequence[SourceImage]) -> list[str]:
    """One line per store of `--reuse`: how many images have a file that it was made of. Nothing is decoded or written.

    Args:
        places: the stores.
        settings: see `reuse_differences`; if the hash of the weights is not known yet, it is taken to be the store's.
        images: from `scan`.

    Raises:
        ConfigError: see `open_reused`.
        StoreError: see `open_reused`.
    """
    lines = []
    for place in places:
        before = open_store(place).attrs.get("segmenter")
        segmenter = settings["segmenter"]
        if isinstance(before, Mapping) and isinstance(segmenter, Mapping) and segmenter.get("weights", "") is None:
            settings = {**settings, "segmenter": {**segmenter, "weights": before.get("weights")}}
        (reused,) = open_reused([place], settings)
        same = sum(reused.has_file(item.sha256) for item in images)
        lines.append(f"reuse   {printable(reused.store.place)}: has the files of {same} of {len(images)} images")
    return lines


class ReusedStore:
    """A store whose masks are looked up by pixels.

    Args:
        store: an open store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        status, sizes = store.table("images/status"), (store.table("images/height"), store.table("images/width"))
        self._used = {k: (int(sizes[0][k]), int(sizes[1][k])) for k in np.flatnonzero(status == 0).tolist()}
        self._files = {store.table("images/sha256")[k].tobytes().hex(): k for k in self._used}
        self._first_tiles: dict[tuple[int, int], dict[bytes, list[int]]] = {}

    def find(self, pixels: np.ndarray) -> int | None:
        """The row of an image with these samples, [H, W, C]; None if there is none.

        Images of the same size are looked up by a hash of their first tile, then compared tile by tile.

        Raises:
            StoreError: a file of the store is missing or damaged.
        """
        size = (pixels.shape[0], pixels.shape[1])
        if size not in self._first_tiles:
            self._first_tiles[size] = self._index(size)
        side = self.store.tile
        candidates = self._first_tiles[size].get(_digest(pixels[:side, :side]), [])
        return next((image for image in candidates if self._equal(image, pixels)), None)

    def masks_of_pixels(self, pixels: np.ndarray) -> MaskTable | None:
        """The masks of the image with these pixels, uint8 [H, W, 3]; None if there is none.

        Raises:
            StoreError: a file of the store is missing or damaged.
        """
        try:
            image = self.find(pixels)
            return None if image is None else self.masks(image)
        except StoreError as error:
            raise StoreError(f"{error}; or leave out this --reuse") from error

    def has_file(self, sha256: str) -> bool:
        """Whether an image was made of a file with this SHA-256, hexadecimal."""
        return sha256 in self._files

    def masks(self, image: int) -> MaskTable:
        """The masks of an image; area and box are computed again from the runs.

        Raises:
            StoreError: the masks are damaged.
        """
        table = mask_table(self.store, image)
        try:
            again = MaskTable.of_runs(table.counts, [{}] * len(table), height=table.height, width=table.width)
        except SamdiffError as error:
            raise StoreError(f"{self.store.place}: {error}") from error
        return replace(table, area=again.area, box=again.box)

    def _index(self, size: tuple[int, int]) -> dict[bytes, list[int]]:
        """Hash of the first tile -> rows of all images of a size."""
        index: dict[bytes, list[int]] = {}
        for image in [image for image, own in self._used.items() if own == size]:
            index.setdefault(_digest(self._tile(image, 0)), []).append(image)
        return index

    def _equal(self, image: int, pixels: np.ndarray) -> bool:
        """Whether the tiles of an image cover these pixels and are equal to them."""
        side, covered = self.store.tile, np.zeros(pixels.shape[:2], bool)
        first, count = int(self.store.table("images/first_tile")[image]), int(self.store.table("images/n_tiles")[image])
        places = self.store.rows("tiles/place", np.arange(first, first + count))
        for number, (_, y, x) in enumerate(places.tolist()):
            inside = (slice(y, y + side), slice(x, x + side))
            if not np.array_equal(self._tile(image, number), pixels[inside]):
                return False
            covered[inside] = True
        return bool(covered.all())

    def _tile(self, image: int, number: int) -> np.ndarray:
        return self.store.read_tiles("hr", [int(self.store.table("images/first_tile")[image]) + number])[0]


def _digest(tile: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(tile).tobytes()).digest()


def reuse_masks(
    missing: Sequence[SourceImage],
    stores: Sequence[ReusedStore],
    staging: Staging,
    *,
    read: Read,
    images: Mapping[str, int],
    report: Callable[[str], None],
) -> Reused:
    """Save the masks of all images whose pixels are in one of the stores; the others remain to be segmented.

    Args:
        missing: the images without masks.
        stores: from `open_reused`; the first that has an image is used.
        staging: receives the masks.
        read: reads an image as the mask stage does.
        images: key -> number of images of the source with this key.
        report: called with one line per store.

    Raises:
        StoreError: a store is damaged.
        ChangedError: a file changed since `scan`.
    """
    keys: set[str] = set()
    taken, other_pixels = Counter[int](), Counter[int]()
    with progress(desc="reuse", total=len(missing), unit="image") as bar:
        for item, decoded in map_ahead(read, missing) if stores else ():
            bar.update()
            if isinstance(decoded, Exception):
                continue  # the mask stage reads it again, and reports the reason
            for number, reused in enumerate(stores):
                masks = reused.masks_of_pixels(decoded.samples.values)
                if masks is not None:
                    staging.save(item.key, masks_of(decoded, masks))
                    keys.add(item.key)
                    taken[number] += images[item.key]
                    break
                other_pixels[number] += images[item.key] * reused.has_file(item.sha256)
    total = sum(images[item.key] for item in missing)
    for number, reused in enumerate(stores if missing else ()):
        report(_line(str(reused.store.place), taken[number], total, other=other_pixels[number]))
    return Reused(frozenset(keys), {str(reused.store.place): taken[number] for number, reused in enumerate(stores)})


def _line(place: str, taken: int, total: int, *, other: int) -> str:
    line = f"masks of {taken} of {total} images reused from {printable(place)}"
    if other:
        line += (
            f"; it has the files of {other} more, but with other pixels (another crop to a multiple of the scale, or another "
            "reader of images), so they are segmented"
        )
    return line
