"""What the mask engine needs of a model that is prompted with points, where SAM and SAM 2 differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ...errors import ConfigError

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base


class PointModel(Protocol):
    """A model in eval mode on its device: its parts, and how images and points become its input."""

    family: str
    """`sam` or `sam2`."""
    side: int
    """Pixels of the input along each side (1024)."""
    mask_threshold: float
    """A pixel belongs to a mask if its logit is above."""
    n_step: int | None
    """Logits are interpolated to this side first, then to the image; None: to the image at once."""
    mask_decoder: Any
    """A module of the model's own package; see `GridDecoder`."""
    prompt_encoder: Any
    """A module of the model's own package."""

    @property
    def point_type(self) -> type[np.floating[Any]]:
        """NumPy type of the points' coordinates."""

    @property
    def device(self) -> torch.device:
        """Of the weights."""

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, side, side] -> all that the decoder needs of the images, float32 [B, C', 64, 64] (`GridDecoder.image_side`)."""

    def resized(self, image: np.ndarray) -> Tensor:
        """An image uint8 [H, W, 3] in the size of the encoder's input, on the host, for `pixels`. May be called in another thread, ahead."""

    def pixels(self, resized: Tensor) -> Tensor:
        """The encoder's input for one image, on the device: float32 [1, 3, side, side]."""

    def inside(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the input that an image of this size fills; what is below and to the right is padding."""

    def prompts(self, points: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Embeddings of points (x, y) [n, 2] in an image of `size` (H, W): float32 [n, 2, C]."""


def point_model(model: Sam | SAM2Base) -> PointModel:
    """The interface to a model of segment-anything or of the package sam2.

    Raises:
        ConfigError: another type.
    """
    if isinstance(model, Sam):
        from .sam1 import Sam1

        return Sam1(model)
    if hasattr(model, "sam_mask_decoder") and hasattr(model, "sam_prompt_encoder"):
        from .sam2 import Sam2

        return Sam2(model)
    raise ConfigError(f"segmenter: expected a name, segment_anything's Sam or sam2's SAM2Base, got {type(model).__name__}")
