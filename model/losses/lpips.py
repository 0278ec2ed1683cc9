"""LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924): differences of normalised features, weighted by channel. Equal to the package `lpips`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from .features import ALEX_CHANNELS, VGG_CHANNELS, alexnet, vgg16

Trunk = Literal["alex", "vgg"]

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the authors' scaling layer, for images in [-1, 1]
_EPS = 1e-10  # added to the norm, as in the package


class LPIPS(nn.Module):
    """Distance of two images by features of AlexNet (used in most tables) or VGG16 (the usual training loss).

    Its parameters are frozen: only the images get gradients. Compute it in float32: under autocast the convolutions use its precision, and
    only the differences are float32.

    Args:
        trunk: `alex` or `vgg`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk = "alex") -> None:
        super().__init__()
        self.trunk = alexnet() if trunk == "alex" else vgg16()
        channels = ALEX_CHANNELS if trunk == "alex" else VGG_CHANNELS
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(count)) for count in channels])
        """One weight per channel of each layer, not negative."""
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.min_side = 31 if trunk == "alex" else 16
        """Minimum side of an image in pixels."""
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair: float32 [B], 0 or more, lower is more similar.

        Args:
            a: float [B, 3, H, W], sRGB scaled to [-1, 1].
            b: likewise.

        Raises:
            ValueError: wrong shapes, or sides that are too short.
        """
        total = torch.zeros(a.shape[0], device=a.device)
        for difference in self._differences(a, b):
            total = total + difference.mean((1, 2))
        return total

    def spatial(self, a: Tensor, b: Tensor) -> Tensor:
        """The map of differences of each pair: float32 [B, H, W], the layers' maps upsampled bilinearly to H x W and added.

        It is what the package `lpips` returns with `spatial=True`. Its mean is close to `forward`, not equal: the upsampling weights
        border pixels differently. Arguments and errors as of `forward`.
        """
        size, total = a.shape[2:], torch.zeros(a.shape[0], *a.shape[2:], device=a.device)
        for difference in self._differences(a, b):
            total = total + F.interpolate(difference[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        return total

    def _differences(self, a: Tensor, b: Tensor) -> Iterator[Tensor]:
        """The weighted squared difference of each layer, float32 [B, H', W']."""
        check_pair(a, b, min_side=self.min_side)
        a, b = (a - self.shift) / self.scale, (b - self.shift) / self.scale
        for stage, head in zip(self.trunk.stages, self.heads, strict=True):
            a, b = stage(a), stage(b)
            difference = (_unit(a.float()) - _unit(b.float())) ** 2
            yield (difference * head.view(1, -1, 1, 1)).sum(1)


def check_pair(a: Tensor, b: Tensor, *, min_side: int) -> None:
    """Raises ValueError unless both are [B, 3, H, W] of one shape with sides of at least `min_side`."""
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
        raise ValueError(f"expected two batches [B, 3, H, W] of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if min(a.shape[2:]) < min_side:
        raise ValueError(f"expected images with sides of at least {min_side} pixels, got {tuple(a.shape[2:])}")


def _unit(features: Tensor) -> Tensor:
    """Features normalised over the channels. Zero features give zero, with gradient zero (the package's gradient is NaN)."""
    squared = (features**2).sum(1, keepdim=True)
    return features / (squared.clamp(min=1e-30).sqrt() + _EPS)
