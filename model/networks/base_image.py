"""MATLAB's bicubic upsampling as a convolution and a pixel shuffle: the image that a network's output is added to. Pure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pipeline.degrade.imresize import resize_weights

REACH = 2
"""LR pixels on each side that a bicubic weight can reach."""


def base_image(lr: Tensor, kernel: Tensor) -> Tensor:
    """Bicubic upsampling before the pixel shuffle, [B, C s s, h, w], in any range; at the borders LR is extended by its last pixel.

    Args:
        lr: [B, C, h, w].
        kernel: of `bicubic_kernel`.
    """
    return F.conv2d(F.pad(lr, (REACH,) * 4, mode="replicate"), kernel, groups=lr.shape[1])


def bicubic_kernel(scale: int, bands: int = 3) -> Tensor:
    """The upsampling as a convolution of C groups followed by a pixel shuffle: float32 [C s s, 1, 5, 5]."""
    side = 2 * REACH + 1
    axis = torch.zeros(scale, side, device="cpu")
    if scale == 1:
        axis[0, REACH] = 1
    else:
        indices, weights = resize_weights(3 * side, 3 * side * scale, scale)
        centre = 3 * side // 2
        for phase in range(scale):
            row = centre * scale + phase
            for index, weight in zip(indices[row], weights[row], strict=True):
                if weight:
                    axis[phase, int(index) - centre + REACH] += float(weight)
    kernel = torch.einsum("pi,qj->pqij", axis, axis).reshape(scale**2, 1, side, side)
    return kernel.repeat(bands, 1, 1, 1)
