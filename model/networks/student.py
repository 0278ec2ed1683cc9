"""The student: a network of one step for small devices. Plain convolutions on LR, one pixel shuffle, the bicubic upsampling as base.

It contains only Conv, LeakyReLU, Add, edge padding and pixel shuffle, which every runtime has and which int8 suits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError
from ..names import SCALES
from .base_image import REACH, base_image, bicubic_kernel

SLOPE = 0.1
"""Of LeakyReLU below 0."""
_FIRST_NOISE = 0.1  # of the usual initial weights, beside the identity


class Student(nn.Module):
    """LR [B, 3, h, w] in [-1, 1] -> HR [B, 3, s h, s w] in [-1, 1], not clipped."""

    base: Tensor

    def __init__(self, width: int, layers: int, scale: int) -> None:
        """
        Args:
            width: channels.
            layers: convolutions between the first and the last.
            scale: s.

        Raises:
            ConfigError: an unsupported scale.
        """
        super().__init__()
        if scale not in SCALES:
            raise ConfigError(f"scale: expected one of {', '.join(map(str, SCALES))}, got {scale}")
        self.scale = scale
        self.recompute = False  # gradient checkpointing
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers))
        self.last = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        self.register_buffer("base", bicubic_kernel(scale), persistent=False)  # a constant, not a weight
        self._start()

    def _start(self) -> None:
        """Each layer starts near the identity, as if it had a skip connection, and the output as the base image."""
        for conv in self.body:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            with torch.no_grad():
                conv.weight.mul_(_FIRST_NOISE)
                for channel in range(conv.weight.shape[0]):
                    conv.weight[channel, channel, 1, 1] += 1
            nn.init.zeros_(conv.bias)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def radius(self) -> int:
        """LR pixels on each side that an output pixel depends on."""
        return max(len(self.body) + 2, REACH)

    def base_image(self, lr: Tensor) -> Tensor:
        """MATLAB's bicubic upsampling before the pixel shuffle, [B, 3 s s, h, w], in any range; at the borders LR is extended by its last pixel."""
        return base_image(lr, self.base)

    def residual(self, lr: Tensor) -> Tensor:
        """What the network adds to the base image, before the pixel shuffle, [B, 3 s s, h, w]; images in [0, 1]."""
        x = self._layer(self.first, lr)
        for conv in self.body:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(self._layer, conv, x, use_reentrant=False)
            else:
                x = self._layer(conv, x)
        return self.last(x)

    def forward(self, lr: Tensor) -> Tensor:
        """The HR image, not clipped, so that a loss has gradients everywhere."""
        return self.unit((lr + 1) / 2) * 2 - 1

    def unit(self, lr: Tensor) -> Tensor:
        """`forward` for images in [0, 1]: what an exported network computes."""
        return F.pixel_shuffle(self.base_image(lr) + self.residual(lr), self.scale)

    @staticmethod
    def _layer(conv: nn.Module, x: Tensor) -> Tensor:
        return F.leaky_relu(conv(x), SLOPE)
