"""Small heads on the features of the two networks: the scale of the noise, which inference needs, and an auxiliary one, which it drops."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AUXILIARY = "auxiliary."
"""Beginning of the names of the auxiliary head's tensors."""


class ScaleHead(nn.Module):
    """log S^ [B, 1, s h, s w] from the condition [B, K, h, w], see `diffusion/noise_scale.py`."""

    def __init__(self, channels: int, width: int, scale: int, first: float) -> None:
        """
        Args:
            channels: K.
            width: channels of the two hidden layers.
            scale: s.
            first: S^ of the untrained head, everywhere.
        """
        super().__init__()
        kernel, padding = upsampling_kernel(scale)
        self.first = nn.Conv2d(channels, width, 3, padding=1, padding_mode="replicate")
        self.second = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.up = nn.ConvTranspose2d(width, 1, kernel, stride=scale, padding=padding)
        nn.init.zeros_(self.up.weight)
        assert self.up.bias is not None
        nn.init.constant_(self.up.bias, math.log(first))

    def forward(self, condition: Tensor) -> Tensor:
        """log S^, not limited to `noise_scale.bounds`."""
        return self.up(F.mish(self.second(F.mish(self.first(condition)))))


def auxiliary_head(features: int) -> nn.Conv2d:
    """One output channel from the last feature map [B, features, H, W] of a network; 0 before training."""
    head = nn.Conv2d(features, 1, 1)
    nn.init.zeros_(head.weight)
    assert head.bias is not None
    nn.init.zeros_(head.bias)
    return head


def auxiliary_shapes(features: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the auxiliary head's tensors in its network."""
    return {f"{AUXILIARY}weight": (1, features, 1, 1), f"{AUXILIARY}bias": (1,)}


def without_auxiliary(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that inference needs."""
    return {name: value for name, value in weights.items() if not name.startswith(AUXILIARY)}


def with_auxiliary(prediction: Tensor, features: Tensor, head: nn.Module | None, training: bool) -> Tensor:
    """The prediction of a network; in training, its auxiliary head's is one more channel, the last."""
    return prediction if head is None or not training else torch.cat([prediction, head(features)], dim=1)


def upsampling_kernel(scale: int) -> tuple[int, int]:
    """(kernel, padding) of the transposed convolution with stride `scale` that upsamples exactly by `scale`."""
    if scale == 1:
        return 3, 1
    return (2 * scale, scale // 2) if scale % 2 == 0 else (2 * scale - 1, (scale - 1) // 2)
