"""Settings of automatic mask generation: segment-anything's own names and defaults, checked. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime import has_native_bf16
from ...settings import check, setting
from ..fast_grid.version import GRID_VERSION
from ..sam.names import FORMS, SEGMENTERS, SOURCES, family_of

if TYPE_CHECKING:
    import numpy as np
    import torch

    Grid = np.ndarray
else:
    Grid = object

MODES = ("exact", "fast")
ENCODER_BATCH_CUDA = 8
"""Images per encoder batch on CUDA, and per task of a worker with a GPU. Calculated, not measured."""
PRED_IOU_THRESH = {"sam": 0.88, "sam2": 0.8}
"""Defaults of the families' own generators."""
_SAM2_LACKS = {
    "use_m2m": (False, "a second pass with each mask as its prompt"),
    "multimask_output": (True, "one mask per point instead of three"),
}
"""Parameters of SAM2AutomaticMaskGenerator that are not supported: their default, and what they are."""


@dataclass(frozen=True)
class SegmenterConfig:
    """Which segmenter, and where its weights come from."""

    sam: str | None = setting(
        None, choices=SEGMENTERS, forms=FORMS, none="vit_h on CUDA, mobile_sam on the CPU", panel="Common"
    )
    """The segmenter; hf:MODEL_ID: of Hugging Face; MODULE:CLASS: your own, whose code is run."""
    sam_weights: Path | None = setting(None, none="the cache, then the download")
    """File of the segmenter's weights."""
    weights_source: str = setting("auto", choices=SOURCES)
    """Source of the weights; auto tries all."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class MaskSourceConfig(SegmenterConfig):
    """Where the masks of a store come from."""

    masks_from: str = setting("hr", choices=("hr", "lr"))
    """Image that is segmented: hr, or lr (bicubic); masks of LR are scaled to HR."""
    import_masks: Path | None = setting(None, none="none")
    """Masks of another program: a COCO file, or a folder with NAME.json (COCO RLE) or a label map NAME.png for each image."""
    keep_embeddings: Path | None = setting(None, none="not kept")
    """Folder of image embeddings: those in it are used, others are added, so another grid needs no encoder; float16 changes masks a little."""


@dataclass(frozen=True)
class MaskConfig:
    """Parameters of segment-anything's SamAutomaticMaskGenerator, with its defaults, and the mode."""

    mode: str = setting("exact", choices=MODES)
    """exact: segment-anything's masks, in float32; fast: fewer points and bfloat16, which loses a few masks and changes others a little."""
    compile: bool = False
    """Use torch.compile for the segmenter, for many images; only with mode fast, because it changes masks a little."""
    points_per_side: int | None = setting(32, min=1)
    """Point prompts along each side of the image."""
    fast_share: float = setting(0.375, min=0, max=1)
    """Mode fast: share of the points that are prompted, besides a coarse grid of 8 x 8; 1: all."""
    points_per_batch: int = setting(64, min=1)
    """Largest number of prompts decoded together; the device may use fewer. It affects memory, not masks."""
    pred_iou_thresh: float | None = setting(None, min=0, max=1, none="0.88; SAM 2: 0.8")
    """Keep only masks whose predicted IoU is above this threshold; 0 keeps all."""
    stability_score_thresh: float = setting(0.95, min=0, max=1)
    """Keep only masks whose stability score is at least this threshold; 0 keeps all."""
    stability_score_offset: float = setting(1.0, min=0)
    """Offset of the stability score, which is |logit > offset| / |logit > -offset|."""
    mask_threshold: float | None = setting(None, none="the model's: 0")
    """A pixel belongs to a mask if its logit is above this threshold."""
    box_nms_thresh: float = setting(0.7, min=0, max=1)
    """IoU threshold of box NMS within a crop; the mask with the higher predicted IoU is kept."""
    crop_n_layers: int = setting(0, min=0)
    """Layers of crops in addition to the whole image; layer i has (2^i)^2 crops."""
    crop_nms_thresh: float = setting(0.7, min=0, max=1)
    """IoU threshold of box NMS between crops; the mask of the smaller crop is kept."""
    crop_overlap_ratio: float = setting(512 / 1500, min=0, max=1)
    """Overlap of the crops of layer 1, as a fraction of the image's shorter side; halved with each layer."""
    crop_n_points_downscale_factor: int = setting(1, min=1)
    """In crops of layer i, points_per_side is divided by this number to the power i."""
    point_grids: tuple[Grid, ...] | None = setting(None, python_only=True)
    """One grid per layer instead of `points_per_side`: float [n, 2], (x, y) in 0..1 of the crop."""
    min_mask_region_area: int = setting(0, min=0)
    """Remove holes and islands with fewer pixels than this; 0: off."""

    def __post_init__(self) -> None:
        check(self)
        if self.compile and self.mode != "fast":
            raise ConfigError(
                "compile: only with mode fast; compiled sums are rounded differently, and `exact` promises equal masks"
            )
        if self.mode != "fast" and self.fast_share != MaskConfig.fast_share:
            raise ConfigError("fast_share: only with mode fast; `exact` prompts every point")
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ConfigError("points_per_side, point_grids: expected exactly one of them; the other must be None")
        if self.point_grids is not None:
            self._check_grids()
        elif (self.points_per_side or 0) // self.crop_n_points_downscale_factor**self.crop_n_layers < 1:
            raise ConfigError(
                f"crop_n_points_downscale_factor: no point is left in layer {self.crop_n_layers} "
                f"of {self.points_per_side} per side; lower it or crop_n_layers"
            )

    def _check_grids(self) -> None:
        import numpy as np

        assert self.point_grids is not None
        if len(self.point_grids) != self.crop_n_layers + 1:
            raise ConfigError(
                f"point_grids: expected {self.crop_n_layers + 1} grids (crop_n_layers + 1), got {len(self.point_grids)}"
            )
        for layer, grid in enumerate(self.point_grids):
            ok = isinstance(grid, np.ndarray) and grid.ndim == 2 and grid.shape[0] > 0 and grid.shape[1] == 2
            if not ok or not ((grid >= 0) & (grid <= 1)).all():
                raise ConfigError(f"point_grids: layer {layer}: expected an array [n, 2] of (x, y) in 0..1, n > 0")

    def resolved(self, family: str) -> MaskConfig:
        """The settings with the defaults of a family of models, `sam` or `sam2`.

        Raises:
            ConfigError: a setting that the family's own generator does not have.
        """
        if family == "sam2" and self.min_mask_region_area > 0:
            raise ConfigError(
                "min_mask_region_area: not supported with SAM 2, whose generator uses it in another way (on logits of 256 x 256, on CUDA "
                "only); leave it 0"
            )
        return self if self.pred_iou_thresh is not None else replace(self, pred_iou_thresh=PRED_IOU_THRESH[family])

    @property
    def crops_per_image(self) -> int:
        """Inputs of the encoder for each image: the image, and the crops of every layer."""
        return sum(4**layer for layer in range(self.crop_n_layers + 1))

    def amg_arguments(self) -> dict[str, object]:
        """Keyword arguments of segment-anything's own generator for the same masks."""
        others = ("mode", "compile", "mask_threshold", "fast_share")
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in others}
        given["pred_iou_thresh"] = self.resolved("sam").pred_iou_thresh
        return {**given, "point_grids": None if self.point_grids is None else list(self.point_grids)}

    def as_attributes(self) -> dict[str, object]:
        """JSON-able: the mode, and every generator parameter that decides the masks, under its own name.

        `points_per_batch` is not among them (see `uncompared`): a run that was out of memory can be resumed with a smaller one.
        """
        grids = None if self.point_grids is None else [grid.tolist() for grid in self.point_grids]
        deciding = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "points_per_batch"}
        deciding["pred_iou_thresh"] = self.resolved("sam").pred_iou_thresh
        if not self.compile:
            del deciding["compile"]  # older stores do not have it
        if self.mode == "fast":
            deciding["fast_grid"] = GRID_VERSION
        else:
            del deciding["fast_share"]  # likewise
        if self.mask_threshold is None:
            del deciding["mask_threshold"]  # likewise
        return {**deciding, "point_grids": grids}

    def uncompared(self) -> dict[str, object]:
        """JSON-able: the parameters that do not change the masks."""
        return {"points_per_batch": self.points_per_batch}


def number_type(mode: str, device: torch.device) -> str:
    """The dtype of the decoder's image tokens: `bfloat16` in mode fast if that is faster on the device, else `float32`."""
    return "bfloat16" if mode == "fast" and has_native_bf16(device) else "float32"


def without_sam2_defaults(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters without those of SAM2AutomaticMaskGenerator that samdiff lacks, where they have their default.

    Raises:
        ConfigError: one has another value.
    """
    for name, (default, what) in _SAM2_LACKS.items():
        if parameters.get(name, default) != default:
            raise ConfigError(f"{name}: {what} is not supported; leave it out, or use sam2's own generator (docs/masks.md)")
    return {name: value for name, value in parameters.items() if name not in _SAM2_LACKS}


def segmenter_facts(
    name: str,
    weights: Mapping[str, object] | None,
    settings: MaskConfig,
    dtype: str,
    family: str | None = None,
    *,
    half_embeddings: bool = False,
) -> dict[str, object]:
    """The facts that a generator records, see `prepare.MaskSource.describe`.

    Args:
        name: of the segmenter.
        weights: None before they are downloaded.
        settings: of the generator.
        dtype: of the decoder's image tokens.
        family: `sam` or `sam2`; None: that of the name.
        half_embeddings: whether embeddings are rounded to float16, as with `--keep-embeddings`.
    """
    family = family or family_of(name)
    libraries = ("torch", "torchvision", "segment-anything", *(("rf-sam-2",) if family == "sam2" else ()))
    return {
        "name": name,
        "weights": weights,
        "dtype": dtype,
        **({"embeddings": "float16"} if half_embeddings else {}),
        **settings.resolved(family).as_attributes(),
        "masks_from": "hr",
        "uncompared": settings.uncompared(),
        "versions": {library: _version(library) for library in libraries},
    }


def _version(library: str) -> str:
    """The installed version; sam2 may come from a distribution of another name."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"
