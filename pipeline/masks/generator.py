"""Automatic mask generation as in segment-anything and SAM 2, for images and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, ImageError, printable
from ...settings import changed
from ..embeddings.file_format import encoder_facts
from ..embeddings.folder import EmbeddingFolder, embedding_root
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask
from ..images.decode import read_rgb
from ..images.given import ImageLike, rgb_pixels
from ..images.sources import list_source
from .engine import MaskEngine
from .nms import clean_regions, drop_duplicates
from .settings import MaskConfig, segmenter_facts, without_sam2_defaults

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base
    from segment_anything.modeling import Sam

    from ..sam.load import Segmenter


@dataclass(frozen=True)
class _Unit:
    """One crop of one image, an input of the encoder."""

    pixels: np.ndarray
    resized: Tensor | None
    """For the encoder; None: not yet."""
    crop: tuple[int, int, int, int]
    layer: int
    size: tuple[int, int]
    last: bool


@dataclass(frozen=True)
class Preprocessed:
    """An image whose crops are resized for the encoder; see `MaskGenerator.preprocess_ahead`."""

    pixels: np.ndarray
    """uint8 [H, W, 3] RGB."""
    crops: tuple[Tensor, ...]
    """One per crop, on the host."""

    @property
    def nbytes(self) -> int:
        """Of the crops."""
        return sum(crop.nbytes for crop in self.crops)


class MaskGenerator:
    """Masks of whole images by a grid of point prompts, equal to those of the model's own generator.

    That is segment-anything's SamAutomaticMaskGenerator, or SAM2AutomaticMaskGenerator for SAM 2.
    """

    def __init__(
        self,
        sam: str | Segmenter | Sam | SAM2Base = "mobile_sam",
        *,
        device: torch.device | None = None,
        weights: Path | str | None = None,
        source: str = "auto",
        settings: MaskConfig | None = None,
        keep_embeddings: Path | str | None = None,
        **parameters: Any,
    ) -> None:
        """A generator with its model on a device.

        Args:
            sam: a segmenter's name (`sam.names.SEGMENTERS`), or a loaded one.
            device: of the model; None: the CPU.
            weights: file of the weights; None: see `source`.
            source: where weights may come from, see `find_weights`.
            settings: see `MaskConfig`; None: the defaults.
            keep_embeddings: a folder for the embeddings of images, rounded to float16: those in it are not computed again; None: in float32,
                not kept.
            parameters: fields that replace those of `settings`, such as `points_per_side=16`.

        Raises:
            ConfigError: a parameter is unknown, out of range, or not supported with this segmenter; `keep_embeddings` with a model whose
                weights have no known hash.
            MissingPackageError: SAM 2 without the package sam2.
        """
        if parameters.get("point_grids") is not None:
            parameters["point_grids"] = tuple(parameters["point_grids"])
        given = changed(settings or MaskConfig(), without_sam2_defaults(parameters), "MaskGenerator")
        self.device = device or torch.device("cpu")
        self._name, self._weights, model = _resolve(sam, self.device, weights=weights, source=source)
        self.engine = MaskEngine(model, given)
        self.settings = self.engine.settings
        self.embeddings: EmbeddingFolder | None = None
        if keep_embeddings is not None:
            encoder = encoder_facts(self.describe(), self.engine.model.family)
            self.embeddings = EmbeddingFolder(embedding_root(keep_embeddings), encoder, self.settings.crops_per_image)

    def masks(self, image: ImageLike) -> MaskTable:
        """Masks of one image, by descending predicted IoU, as runs.

        Args:
            image: uint8 [H, W, 3] RGB; or a file, a PIL image, a uint8 tensor [3, H, W] or [H, W, 3].

        Raises:
            ImageError: another type, shape or dtype, or the file cannot be read.
        """
        return next(self.generate_batch([image]))

    def generate(self, image: ImageLike) -> list[CocoMask]:
        """Masks of one image (see `masks`) as segment-anything's records; `segmentation` is a COCO RLE."""
        return self.masks(image).records()

    def preprocess_ahead(self, image: np.ndarray) -> Preprocessed:
        """What `generate_batch` does with an image before the encoder; its result is given to `generate_batch` instead of the image.

        May be called in other threads while `generate_batch` runs, so that a GPU need not wait for it.

        Args:
            image: uint8 [H, W, 3] RGB.
        """
        boxes = [box for box, _ in self.engine.crops(*image.shape[:2])]
        return Preprocessed(image, tuple(self.engine.model.resized(image[y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes))

    def generate_batch(self, images: Iterable[ImageLike | Preprocessed]) -> Iterator[MaskTable]:
        """Masks of each image (see `masks`), in order; images may differ in size. At most `encoder_batch` images are in memory at once."""
        engine, parts = self.engine, []
        for group in _groups(self._units(images), engine.encoder_batch):
            embeddings = self._embeddings(group)
            for unit, embedding in zip(group, embeddings, strict=True):
                parts.append(engine.masks(embedding, unit.crop, layer=unit.layer, size=unit.size))
                if unit.last:
                    yield self._merge(parts)
                    parts = []

    def _embeddings(self, units: list[_Unit]) -> Tensor:
        """Of crops: computed, or with `keep_embeddings` taken from the folder."""
        pixels = [unit.pixels for unit in units]
        resized = [unit.pixels if unit.resized is None else unit.resized for unit in units]
        if self.embeddings is None:
            return self.engine.encode(resized)
        return self.embeddings.embeddings(pixels, self.engine.encode, self.device, resized=resized)

    def _units(self, images: Iterable[ImageLike | Preprocessed]) -> Iterator[_Unit]:
        for given in images:
            image = given.pixels if isinstance(given, Preprocessed) else _pixels(given)
            size = image.shape[:2]
            crops = self.engine.crops(*size)
            resized = given.crops if isinstance(given, Preprocessed) else (None,) * len(crops)
            for k, ((x0, y0, x1, y1), layer) in enumerate(crops):
                last = k == len(crops) - 1
                yield _Unit(image[y0:y1, x0:x1], resized[k], (x0, y0, x1, y1), layer=layer, size=size, last=last)

    def _merge(self, parts: list[MaskTable]) -> MaskTable:
        settings, table = self.settings, parts[0]
        if len(parts) > 1:
            table = drop_duplicates(MaskTable.concat(parts), settings.crop_nms_thresh)
        if settings.min_mask_region_area > 0:
            table = clean_regions(table, settings.min_mask_region_area, max(settings.box_nms_thresh, settings.crop_nms_thresh))
        return table

    def describe(self) -> dict[str, object]:
        """JSON-able: everything that decides the masks besides the image; library versions under `versions`."""
        dtype = str(self.engine.decoder.dtype).removeprefix("torch.")
        return segmenter_facts(
            self._name,
            weights=self._weights,
            settings=self.settings,
            dtype=dtype,
            family=self.engine.model.family,
            half_embeddings=self.embeddings is not None,
        )


def _resolve(
    sam: str | Segmenter | Sam | SAM2Base, device: torch.device, *, weights: Path | str | None, source: str
) -> tuple[str, Mapping[str, object], Sam | SAM2Base]:
    """(name, weights record, model in eval mode on the device) of a name, a Segmenter or a model."""
    if isinstance(sam, torch.nn.Module):
        return "custom", {"source": "given", "origin": None, "sha256": None}, sam.to(device).eval()
    if isinstance(sam, str):
        from ..sam.load import load_segmenter

        sam = load_segmenter(sam, device, weights=None if weights is None else Path(weights), source=source)
    elif weights is not None:
        raise ConfigError("weights: only with a segmenter's name; this segmenter has its weights already")
    return sam.name, sam.weights.as_attributes(), sam.model.to(device).eval()


def _groups(units: Iterator[_Unit], size: int) -> Iterator[list[_Unit]]:
    while group := list(islice(units, size)):
        yield group


def _pixels(image: ImageLike) -> np.ndarray:
    """One image as uint8 [H, W, 3]; a file is decoded as by `prepare`."""
    if not isinstance(image, str | Path):
        return rgb_pixels(image)
    files = list_source(image)
    if len(files) != 1:
        raise ImageError(f"{printable(image)}: expected one image, got {len(files)}; pass them one by one")
    return read_rgb(files[0]).pixels
