"""SAM as the mask engine uses it: images are resized by PIL and padded, points are float64."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from .resizing import inside


class Sam1:
    """See `PointModel`. Source: segment-anything 1.0, `predictor.py`, `automatic_mask_generator.py`.

    Args:
        sam: in eval mode, on its device.
    """

    family = "sam"
    point_type = np.float64

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.side: int = sam.image_encoder.img_size
        self.n_step: int | None = self.side
        self.mask_threshold: float = sam.mask_threshold
        self.mask_decoder, self.prompt_encoder = sam.mask_decoder, sam.prompt_encoder

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.sam.pixel_mean.device

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, side, side] -> [B, C, 64, 64]."""
        embedding: Tensor = self.sam.image_encoder(pixels)
        return embedding

    def resized(self, image: np.ndarray) -> Tensor:
        """uint8 [h, w, 3] on the host: PIL, bilinear, as segment-anything does."""
        height, width = self.inside(image.shape[0], image.shape[1])
        small = torch.from_numpy(np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)))
        return small.pin_memory() if self.device.type == "cuda" else small

    def pixels(self, resized: Tensor) -> Tensor:
        """Normalised and padded: float32 [1, 3, side, side]."""
        height, width = resized.shape[:2]
        pixels = resized.to(self.device, non_blocking=True).permute(2, 0, 1)[None]
        normal: Tensor = (pixels - self.sam.pixel_mean) / self.sam.pixel_std
        return F.pad(normal, (0, self.side - width, 0, self.side - height))

    def inside(self, height: int, width: int) -> tuple[int, int]:
        """The resized image."""
        return inside(height, width, self.side)

    def prompts(self, points: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Points float64 [n, 2] -> float32 [n, 2, C]."""
        height, width = size
        rows, columns = self.inside(height, width)
        coordinates = torch.as_tensor(points * np.array([columns / width, rows / height]), device=self.device)
        labels = torch.ones(len(points), 1, dtype=torch.int, device=self.device)
        embedding: Tensor = self.prompt_encoder(points=(coordinates[:, None], labels), boxes=None, masks=None)[0]
        return embedding
