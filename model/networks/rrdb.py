"""RRDB: the generator of ESRGAN (Wang et al. 2018), which SRDiff and SAM-DiffSR pretrain and freeze as their condition network."""

from __future__ import annotations

from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError
from ..names import SCALES
from .base_image import base_image, bicubic_kernel
from .heads import with_auxiliary

_RESIDUAL = 0.2  # residual scaling, ESRGAN section 3.1


class DenseBlock(nn.Module):
    """Five densely connected convolutions; each of the first four adds `growth` channels."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        widths = [growth] * 4 + [features]
        self.convs = nn.ModuleList(nn.Conv2d(features + i * growth, width, 3, padding=1) for i, width in enumerate(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> the same."""
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), 0.2)], dim=1)
        return x + _RESIDUAL * self.convs[-1](seen)


class ResidualBlock(nn.Module):
    """Three dense blocks with a residual connection."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> the same."""
        return x + _RESIDUAL * self.dense(x)


class RRDB(nn.Module):
    """LR [B, C, h, w] in [-1, 1] -> HR [B, C, s h, s w] in [-1, 1]."""

    def __init__(self, blocks: int, features: int, growth: int, scale: int, *, bands: int = 3, skip: bool = False) -> None:
        """
        Args:
            blocks: residual blocks; the published configuration has 17.
            features: channels; 64.
            growth: channels that each dense convolution adds; 32.
            scale: 1, 2, 3, 4 or 8; powers of two are upsampled in steps of 2, each followed by a convolution.
            bands: C.
            skip: whether the output is added to the bicubic upsampling of LR, from which an untrained network then starts.
        """
        super().__init__()
        if scale not in SCALES:
            raise ConfigError(f"scale: expected one of {SCALES}, got {scale}")
        self.growth, self.scale = growth, scale
        self.recompute = False  # gradient checkpointing: activations of each block are recomputed in the backward pass
        self.factors = (3,) if scale == 3 else (2,) * (scale.bit_length() - 1)
        self.first = nn.Conv2d(bands, features, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(features, growth) for _ in range(blocks))
        self.trunk = nn.Conv2d(features, features, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in self.factors)
        self.hr = nn.Conv2d(features, features, 3, padding=1)
        self.last = nn.Conv2d(features, bands, 3, padding=1)
        self.base: Tensor | None
        self.register_buffer(
            "base", bicubic_kernel(scale, bands) if skip else None, persistent=False
        )  # a constant, not a weight
        if skip:
            assert self.last.bias is not None
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)
        self.auxiliary: nn.Module | None = None  # set by training, which does not publish it

    def features(self, lr: Tensor) -> list[Tensor]:
        """Feature maps [B, features, h, w]: the output of each block, and last the output of the trunk with its residual."""
        x = first = self.first((lr + 1) / 2)
        maps = []
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and torch.is_grad_enabled() else block(x)
            maps.append(x)
        return [*maps, first + self.trunk(x)]

    def image(self, last: Tensor, lr: Tensor) -> Tensor:
        """The HR image from the last feature map and LR, not clipped."""
        return self._to_image(self._hr_features(last), (lr + 1) / 2) * 2 - 1

    def unit(self, lr: Tensor) -> Tensor:
        """`forward` for images in [0, 1], without the conversions of range: what an exported network computes."""
        first = x = self.first(lr)
        for block in self.blocks:
            x = block(x)
        return self._to_image(self._hr_features(first + self.trunk(x)), lr)

    @property
    def radius(self) -> int:
        """LR pixels on each side that an output pixel depends on."""
        after = sum(1 / prod(self.factors[: count + 1]) for count in range(len(self.factors)))  # upsampling convolutions
        return 2 + 15 * len(self.blocks) + ceil(after + 2 / prod(self.factors))

    def _hr_features(self, last: Tensor) -> Tensor:
        x = last
        for factor, conv in zip(self.factors, self.up, strict=True):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=factor, mode="nearest")), 0.2)
        return F.leaky_relu(self.hr(x), 0.2)

    def _to_image(self, features: Tensor, lr: Tensor) -> Tensor:
        """The image in [0, 1] from the features at HR's size; LR likewise in [0, 1]."""
        image = self.last(features)
        return image if self.base is None else image + F.pixel_shuffle(base_image(lr, self.base), self.scale).to(image.dtype)

    def forward(self, lr: Tensor) -> Tensor:
        """The HR image, not clipped, so that a loss has gradients everywhere.

        In training mode, the output of an auxiliary head is one more channel, the last.
        """
        features = self._hr_features(self.features(lr)[-1])
        image = self._to_image(features, (lr + 1) / 2) * 2 - 1
        return with_auxiliary(image, features, self.auxiliary, training=self.training)


def condition(maps: list[Tensor]) -> Tensor:
    """Every third feature map, concatenated: the U-Net's condition [B, n features, h, w] (official code: `[2::3]`)."""
    return torch.cat(maps[2::3], dim=1)


def condition_channels(blocks: int, features: int) -> int:
    """Channels of `condition`."""
    return len(range(2, blocks + 1, 3)) * features
