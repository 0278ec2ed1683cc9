"""SAM 2 as the mask engine uses it: images are stretched to a square, points are float32, logits go to the image in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize, resize

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Sam2:
    """See `PointModel`. Source: Ravi et al., SAM 2, arXiv 2408.00714; package sam2, `sam2_image_predictor.py`, `utils/transforms.py`.

    Args:
        model: sam2's SAM2Base in eval mode, on its device; its video parts are not used.
    """

    family = "sam2"
    point_type = np.float32

    def __init__(self, model: SAM2Base) -> None:
        self.model = model
        self.side: int = model.image_size
        self.n_step: int | None = None
        self.mask_threshold = 0.0  # SAM2AutomaticMaskGenerator's default, see `MaskConfig.mask_threshold`
        self.mask_decoder, self.prompt_encoder = model.sam_mask_decoder, model.sam_prompt_encoder

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        device: torch.device = self.model.device
        return device

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, side, side] -> [B, C (1 + 3), 64, 64]: the embedding, then both finer maps, packed (`pack`)."""
        finest, finer, embedding = self.model.forward_image(pixels)["backbone_fpn"]
        if self.model.directly_add_no_mem_embed:
            embedding = embedding + self.model.no_mem_embed.view(1, -1, 1, 1)
        return pack(embedding, finer, finest)

    def resized(self, image: np.ndarray) -> Tensor:
        """float32 [1, 3, side, side] on the host: stretched to a square (bilinear, antialiased, in float32) and normalised."""
        given = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
        pixels: Tensor = resize(given.float().div(255), [self.side, self.side], antialias=True)
        normal = normalize(pixels, _MEAN, _STD)[None]
        return normal.pin_memory() if self.device.type == "cuda" else normal

    def pixels(self, resized: Tensor) -> Tensor:
        """The same on the device."""
        return resized.to(self.device, non_blocking=True)

    def inside(self, height: int, width: int) -> tuple[int, int]:
        """The whole input."""
        return self.side, self.side

    def prompts(self, points: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Points float32 [n, 2] -> float32 [n, 2, C]."""
        height, width = size
        given = torch.as_tensor(points, dtype=torch.float32, device=self.device)
        coordinates = torch.stack([given[:, 0] / width, given[:, 1] / height], dim=1) * self.side
        labels = torch.ones(len(points), 1, dtype=torch.int, device=self.device)
        embedding: Tensor = self.prompt_encoder(points=(coordinates[:, None], labels), boxes=None, masks=None)[0]
        return embedding


def pack(embedding: Tensor, finer: Tensor, finest: Tensor) -> Tensor:
    """One tensor per image: [B, C, h, w], [B, C/4, 2h, 2w], [B, C/8, 4h, 4w] -> [B, 4 C, h, w]; finer pixels become channels."""
    return torch.cat([embedding, F.pixel_unshuffle(finer, 2), F.pixel_unshuffle(finest, 4)], dim=1)
