"""Conversion between images and residuals, which the diffusion models. Pure.

Images are in [-1, 1]; x_0 = clip((HR - up(LR)) * 2, -1, 1) (SRDiff, Li et al. 2022), up = MATLAB's bicubic.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...pipeline.degrade.imresize import resize_weights
from ...pipeline.scientific.sample_format import RGB8, SampleFormat
from ..names import RESCALE as RESCALE


def to_model_range(pixels: Tensor, samples: SampleFormat = RGB8) -> Tensor:
    """Stored samples [B, H, W, C], for 8-bit RGB uint8 [B, H, W, 3] -> float32 [B, C, H, W] in [-1, 1], clipped to the range of each band."""
    values = pixels.permute(0, 3, 1, 2).to(torch.float32)
    if samples.is_rgb8:
        return values / 127.5 - 1
    low, high = _ends(samples, values)
    return ((values - low) / (high - low) * 2 - 1).clamp_(-1, 1)


def to_pixels(image: Tensor) -> Tensor:
    """float [B, 3, H, W] in [-1, 1] (clipped) -> uint8 [B, H, W, 3], rounded."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def from_model_range(image: Tensor, samples: SampleFormat) -> np.ndarray:
    """float [B, C, H, W] in [-1, 1] (clipped) -> stored samples [B, H, W, C] of the format's dtype; integers are rounded."""
    if samples.is_rgb8:
        return to_pixels(image).cpu().numpy()
    exact = image.float().cpu().double().clamp(-1, 1)  # on the CPU, since not every device has float64
    low, high = (ends.double() for ends in _ends(samples, exact))
    values = ((exact + 1) / 2 * (high - low) + low).permute(0, 2, 3, 1).numpy()
    return (values.round() if samples.dtype != "float32" else values).astype(samples.dtype)


def _ends(samples: SampleFormat, like: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper end of each band's range, float32 [1, C, 1, 1]."""
    ends = torch.tensor(samples.stored_ranges, dtype=torch.float32, device=like.device)
    return ends[:, 0].view(1, -1, 1, 1), ends[:, 1].view(1, -1, 1, 1)


def to_residual(hr: Tensor, base: Tensor, rescale: float = RESCALE) -> Tensor:
    """x_0 of an image [B, 3, H, W] and its base, the upsampled LR or the RRDB's image."""
    return ((hr - base) * rescale).clamp(-1, 1)


def from_residual(x_0: Tensor, base: Tensor, rescale: float = RESCALE) -> Tensor:
    """The image of a residual, not clipped to [-1, 1]."""
    return x_0.clamp(-1, 1) / rescale + base


def upsample(lr: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic upsampling of float images [B, C, h, w] -> [B, C, s h, s w], on their device (no rounding, no clipping)."""
    return upsample_rows(lr, scale, top=0, bottom=lr.shape[2] * scale)


def upsample_rows(lr: Tensor, scale: int, top: int, bottom: int) -> Tensor:
    """Rows top … bottom - 1 of `upsample`, from the LR rows that they depend on."""
    if scale == 1:
        return lr[:, :, top:bottom]
    indices, weights = resize_weights(lr.shape[2], lr.shape[2] * scale, scale)
    needed, weights = indices[top:bottom], weights[top:bottom]
    first, last = int(needed.min()), int(needed.max()) + 1
    wide = _weighted_sum(lr[:, :, first:last], 3, *resize_weights(lr.shape[3], lr.shape[3] * scale, scale))
    return _weighted_sum(wide, 2, indices=needed - first, weights=weights)


def base_image(lr: Tensor, scale: int, levels: int = 255) -> Tensor:
    """The upsampled LR as the base of residuals: pixels / 255, or / 256 as in the official code."""
    return base_rows(lr, scale, top=0, bottom=lr.shape[2] * scale, levels=levels)


def base_rows(lr: Tensor, scale: int, top: int, bottom: int, levels: int = 255) -> Tensor:
    """Rows top … bottom - 1 of `base_image`."""
    upsampled = upsample_rows(lr, scale, top=top, bottom=bottom)
    return upsampled if levels == 255 else (upsampled + 1) * (255 / levels) - 1


def reduce(image: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic downsampling with antialiasing of float images [B, C, s h, s w] -> [B, C, h, w] (no rounding, no clipping)."""
    if scale == 1:
        return image
    height, width = image.shape[2:]
    low = _weighted_sum(image, 2, *resize_weights(height, height // scale, 1 / scale))
    return _weighted_sum(low, 3, *resize_weights(width, width // scale, 1 / scale))


def _weighted_sum(x: Tensor, axis: int, indices: np.ndarray, weights: np.ndarray) -> Tensor:
    """Along an axis, each output is a weighted sum of a few neighbours, accumulated tap by tap to save memory."""
    index, weight = torch.from_numpy(indices).to(x.device), torch.from_numpy(weights).to(x.device, x.dtype)
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    out = x.index_select(axis, index[:, 0]) * weight[:, 0].view(shape)
    for tap in range(1, index.shape[1]):
        out.addcmul_(x.index_select(axis, index[:, tap]), weight[:, tap].view(shape))
    return out
