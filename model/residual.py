"""Pictures and residuals: what the diffusion works on. Pure.

Pictures are in [-1, 1]; x_0 = clip((HR - up(LR)) * 2, -1, 1) (SRDiff, Li et al. 2022), up = MATLAB's bicubic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..pipeline.resize import resize_weights

RESCALE = 2.0  # residuals are small: stretched so that they fill [-1, 1]


def to_picture_range(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_pixels(picture: Tensor) -> Tensor:
    """float [B, 3, H, W] in [-1, 1] (clipped) -> uint8 [B, H, W, 3], rounded."""
    return ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def to_residual(hr: Tensor, lr_up: Tensor) -> Tensor:
    """x_0 of a picture [B, 3, H, W] and the enlarged LR."""
    return ((hr - lr_up) * RESCALE).clamp(-1, 1)


def from_residual(x_0: Tensor, lr_up: Tensor) -> Tensor:
    """The picture of a residual, not clipped to [-1, 1]."""
    return x_0.clamp(-1, 1) / RESCALE + lr_up


def upsample(lr: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic enlargement of float pictures [B, C, h, w] -> [B, C, s h, s w], on their device (no rounding, no clipping)."""
    if scale == 1:
        return lr
    return _enlarge_last(_enlarge_last(lr.mT, scale).mT, scale)


def base_picture(lr: Tensor, scale: int, levels: int = 255) -> Tensor:
    """The enlarged LR that residuals refer to: pixels / 255, or / 256 as the official code has it (its weights know the difference)."""
    enlarged = upsample(lr, scale)
    return enlarged if levels == 255 else (enlarged + 1) * (255 / levels) - 1


def _enlarge_last(x: Tensor, scale: int) -> Tensor:
    """Along the last axis: each output is a weighted sum of a few neighbours, summed tap by tap so that no big table is made."""
    indices, weights = resize_weights(x.shape[-1], x.shape[-1] * scale, scale)
    index, weight = torch.from_numpy(indices).to(x.device), torch.from_numpy(weights).to(x.device, x.dtype)
    out = x[..., index[:, 0]] * weight[:, 0]
    for tap in range(1, index.shape[1]):
        out = out + x[..., index[:, tap]] * weight[:, tap]
    return out
