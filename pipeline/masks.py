"""Automatic mask generation: segment-anything's masks for whole images and whole data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import ConfigError, ImageError
from .mask_settings import MaskSettings
from .mask_table import MaskTable

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from .sam import Segmenter


class MaskGenerator:
    """Masks of whole images by a grid of point prompts, as segment-anything's SamAutomaticMaskGenerator makes them."""

    def __init__(
        self,
        sam: str | Segmenter | Sam = "mobile_sam",
        *,
        mode: str = "exact",
        device: torch.device | None = None,
        weights: Path | str | None = None,
        source: str = "auto",
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
    ) -> None:
        self.settings = MaskSettings(
            mode=mode,
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            point_grids=None if point_grids is None else tuple(point_grids),
            min_mask_region_area=min_mask_region_area,
        )
        self.device = device or torch.device("cpu")
        self._name, self._weights, self._sam = _resolve(sam, self.device, weights, source)

    def masks(self, image: np.ndarray) -> MaskTable:
        """Masks of one image, uint8 [H, W, 3] RGB, by descending predicted IoU, as runs."""
        return next(self.mask_tables([image]))

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Masks of one image, uint8 [H, W, 3] RGB, as segment-anything's records (`segmentation` is a COCO RLE)."""
        return self.masks(image).records()

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """Records of each image, in order; images may have different sizes."""
        for table in self.mask_tables(images):
            yield table.records()

    def mask_tables(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable]:
        """Masks of each image, in order; images may have different sizes."""
        from segment_anything import SamAutomaticMaskGenerator

        stock = SamAutomaticMaskGenerator(self._sam, output_mode="uncompressed_rle", **self.settings.amg_arguments())
        for image in images:
            _check_image(image)
            try:
                found = stock.generate(image)
            except IndexError:  # no candidate at all: segment-anything 1.0 fails on an empty list
                found = []
            yield MaskTable.of_records(found, image.shape[0], image.shape[1])

    def describe(self) -> dict[str, Any]:
        """JSON-able: all that decides the masks besides the image; library versions under `versions`."""
        return {
            "name": self._name,
            **self._weights,
            "dtype": "float32",
            **self.settings.as_attributes(),
            "versions": {name: version(name) for name in ("torch", "torchvision", "segment-anything")},
        }


def _resolve(sam: Any, device: torch.device, weights: Any, source: str) -> tuple[str, dict[str, Any], Any]:
    """(name, weights record, model in eval mode on the device) of a name, a Segmenter or a Sam."""
    from segment_anything.modeling import Sam

    if isinstance(sam, Sam):
        return "custom", {"weights": {"source": "given", "origin": None, "sha256": None}}, sam.to(device).eval()
    if isinstance(sam, str):
        from .sam import load_segmenter

        sam = load_segmenter(sam, device, weights=weights, source=source)
    elif weights is not None:
        raise ConfigError("weights: only with a segmenter's name; this segmenter has its weights already")
    record = sam.weights
    return (
        sam.name,
        {"weights": {"source": record.source, "origin": str(record.origin), "sha256": record.sha256}},
        sam.model.to(device).eval(),
    )


def _check_image(image: np.ndarray) -> None:
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or 0 in image.shape
    ):
        got = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"masks: expected an image uint8 [H, W, 3] RGB with at least one pixel, got {got}")
