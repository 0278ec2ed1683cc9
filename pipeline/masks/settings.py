"""Settings of automatic mask generation: segment-anything's own names and defaults, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import ConfigError
from ...runtime import has_bf16

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MaskConfig:
    """Parameters of segment-anything's SamAutomaticMaskGenerator, with its defaults, and the mode."""

    mode: Literal["exact", "fast"] | str = "exact"
    """`exact`: the stock generator's masks, float32; `fast`: the decoder in bfloat16, which changes masks a little."""
    compile: bool = False
    """`torch.compile` encoder and decoder; only with `fast`, for it changes masks a little more."""
    points_per_side: int | None = 32
    """Points along one side of the image; None with `point_grids`."""
    points_per_batch: int = 64
    """At most so many points go through the decoder together; the device may take fewer. It changes memory, not masks."""
    pred_iou_thresh: float = 0.88
    """Masks whose predicted IoU is not above it are dropped; 0 keeps all."""
    stability_score_thresh: float = 0.95
    """Masks whose stability is below it are dropped; 0 keeps all."""
    stability_score_offset: float = 1.0
    """Stability is |logit > offset| / |logit > -offset|."""
    box_nms_thresh: float = 0.7
    """Of two masks of a crop whose boxes have an IoU above it, the one of lower predicted IoU goes."""
    crop_n_layers: int = 0
    """Layers of crops beside the whole image; layer i has (2^i)^2 crops."""
    crop_nms_thresh: float = 0.7
    """As `box_nms_thresh`, between crops; the mask of the smaller crop stays."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of the crops of layer 1, as a fraction of the image's shorter side; halved with each layer."""
    crop_n_points_downscale_factor: int = 1
    """Points per side in layer i are divided by its i-th power."""
    point_grids: tuple[np.ndarray, ...] | None = None
    """One grid per layer instead of `points_per_side`: float [n, 2], (x, y) in 0..1 of the crop."""
    min_mask_region_area: int = 0
    """Holes and islands smaller than this many pixels are removed; 0: none."""

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "fast"):
            raise ConfigError(f"mode: expected exact or fast, got {self.mode!r}")
        if self.compile and self.mode != "fast":
            raise ConfigError(
                "compile: only with mode fast; compiled sums are rounded differently, and `exact` promises equal masks"
            )
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ConfigError("points_per_side, point_grids: expected exactly one of them; the other must be None")
        self._at_least("points_per_side", 1)
        self._at_least("points_per_batch", 1)
        self._at_least("crop_n_layers", 0)
        self._at_least("crop_n_points_downscale_factor", 1)
        self._at_least("min_mask_region_area", 0)
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh", "crop_overlap_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)}")
        if not (np.isfinite(self.stability_score_offset) and self.stability_score_offset >= 0):
            raise ConfigError(f"stability_score_offset: expected a number >= 0, got {self.stability_score_offset}")
        if self.point_grids is not None:
            self._check_grids()
        elif self.points_per_side // self.crop_n_points_downscale_factor**self.crop_n_layers < 1:
            raise ConfigError(
                f"crop_n_points_downscale_factor: no point is left in layer {self.crop_n_layers} "
                f"of {self.points_per_side} per side; lower it or crop_n_layers"
            )

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"{name}: expected an integer >= {least}, got {value!r}")

    def _check_grids(self) -> None:
        assert self.point_grids is not None
        if len(self.point_grids) != self.crop_n_layers + 1:
            raise ConfigError(
                f"point_grids: expected {self.crop_n_layers + 1} grids (crop_n_layers + 1), got {len(self.point_grids)}"
            )
        for layer, grid in enumerate(self.point_grids):
            ok = isinstance(grid, np.ndarray) and grid.ndim == 2 and grid.shape[0] > 0 and grid.shape[1] == 2
            if not ok or not ((grid >= 0) & (grid <= 1)).all():
                raise ConfigError(f"point_grids: layer {layer}: expected an array [n, 2] of (x, y) in 0..1, n > 0")

    def amg_arguments(self) -> dict[str, Any]:
        """Keyword arguments of segment-anything's own generator for the same masks."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("mode", "compile")}
        return {**given, "point_grids": None if self.point_grids is None else list(self.point_grids)}

    def as_attributes(self) -> dict[str, Any]:
        """JSON-able: the mode, and every generator parameter that decides the masks, under its own name.

        `points_per_batch` is none of these (see `uncompared`): a store begun with it can go on with less of it after running out of memory.
        """
        grids = None if self.point_grids is None else [grid.tolist() for grid in self.point_grids]
        deciding = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "points_per_batch"}
        if not self.compile:
            del deciding["compile"]  # stores from before there was a choice stay the same
        return {**deciding, "point_grids": grids}

    def uncompared(self) -> dict[str, Any]:
        """JSON-able: the parameters that change no mask."""
        return {"points_per_batch": self.points_per_batch}


def number_type(mode: str, device: torch.device) -> str:
    """In which the decoder's image tokens are computed on a device: `bfloat16` in mode fast, if the device has it, else `float32`."""
    return "bfloat16" if mode == "fast" and has_bf16(device) else "float32"


def segmenter_facts(name: str, weights: Mapping[str, Any] | None, settings: MaskConfig, dtype: str) -> dict[str, Any]:
    """What a generator says of itself, see `prepare.MaskSource.describe`; known before its weights are there (None) or loaded."""
    return {
        "name": name,
        "weights": weights,
        "dtype": dtype,
        **settings.as_attributes(),
        "masks_from": "hr",
        "uncompared": settings.uncompared(),
        "versions": {library: version(library) for library in ("torch", "torchvision", "segment-anything")},
    }
