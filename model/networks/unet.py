"""The denoising U-Net of SRDiff: residual blocks without normalisation or attention, Mish, reflection padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .heads import ScaleHead, upsampling_kernel, with_auxiliary


class ConvMish(nn.Module):
    """3 x 3 convolution with reflection padding, then Mish."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W]; H and W at least 2."""
        return F.mish(self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")))


class Block(nn.Module):
    """Residual block: two convolutions, with the time embedding added between them."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int) -> None:
        super().__init__()
        self.time = nn.Linear(time_width, channels_out)
        self.first = ConvMish(channels_in, channels_out)
        self.second = ConvMish(channels_out, channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, in, H, W] and the embedded time [B, time_width] -> [B, out, H, W]."""
        shift = self.time(F.mish(time))[:, :, None, None]
        return self.second(self.first(x) + shift) + self.skip(x)


class Level(nn.Module):
    """One resolution: two blocks, then downsampling or upsampling (or neither)."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int, resample: nn.Module | None) -> None:
        super().__init__()
        self.first = Block(channels_in, channels_out, time_width)
        self.second = Block(channels_out, channels_out, time_width)
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The two blocks; the caller resamples, since it needs the output before that."""
        return self.second(self.first(x, time), time)


class Down(nn.Module):
    """Downsampling: 3 x 3 convolution of stride 2, reflection padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        return self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))


def resample(level: nn.Module, x: Tensor) -> Tensor:
    """Downsampling or upsampling of a level."""
    assert isinstance(level, Level)
    return level.resample(x)


class UNet(nn.Module):
    """Predicts the modulated noise: (x_t [B, C, H, W], t [B], condition [B, K, H/s, W/s]) -> [B, out_channels, H, W]."""

    def __init__(
        self,
        width: int,
        multipliers: Sequence[int],
        condition_channels: int,
        scale: int,
        out_channels: int = 3,
        in_channels: int = 3,
        first_scale: float | None = None,
    ) -> None:
        """
        Args:
            width: channels of the first level and of the time embedding; 64 in the published configuration.
            multipliers: channels of each level as multiples of the width; 1-2-3-4.
            condition_channels: K, see `rrdb.condition_channels`.
            scale: HR pixels per LR pixel; the condition is upsampled by one transposed convolution.
            out_channels: C, or C + 1 for the `joint` modulation.
            in_channels: C.
            first_scale: S^ of the untrained `ScaleHead`; None: there is no such head.
        """
        super().__init__()
        widths = [width * multiplier for multiplier in multipliers]
        self.width, self.multiple = width, 2 ** (len(widths) - 1)
        self.recompute = False  # gradient checkpointing: activations of each level are recomputed in the backward pass
        kernel, padding = upsampling_kernel(scale)
        self.condition = nn.ConvTranspose2d(condition_channels, width, kernel, stride=scale, padding=padding)
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        downs = zip([in_channels, *widths], widths, [*map(Down, widths[:-1]), None], strict=False)
        self.down = nn.ModuleList(Level(i, o, width, resample=resample) for i, o, resample in downs)
        self.middle = nn.ModuleList(Block(widths[-1], widths[-1], width) for _ in range(2))
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(
            Level(2 * i, o, width, resample=nn.ConvTranspose2d(o, o, 4, stride=2, padding=1)) for i, o in ups
        )
        self.final = ConvMish(width, width)
        self.out = nn.Conv2d(width, out_channels, 1)
        # last, so that the other initial weights are the same with and without it
        self.scale_head = None if first_scale is None else ScaleHead(condition_channels, width, scale, first=first_scale)
        self.auxiliary: nn.Module | None = None  # set by training, which does not publish it

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The prediction; H and W multiples of `multiple` and at least twice it (reflection needs two pixels).

        In training mode, the output of an auxiliary head is one more channel, the last.
        """
        time = self.time(time_embedding(t, self.width).to(x.dtype))
        condition = self.condition(condition)
        skips = []
        for index, level in enumerate(self.down):
            x = self._run(level, x, time)
            if index == 0:
                x = x + condition
            skips.append(x)
            x = resample(level, x)
        for block in self.middle:
            x = self._run(block, x, time)
        for level in self.up:
            x = self._run(level, torch.cat([x, skips.pop()], dim=1), time)
            x = resample(level, x)
        features = self.final(x)
        return with_auxiliary(self.out(features), features, self.auxiliary, training=self.training)

    def log_scale(self, condition: Tensor) -> Tensor:
        """log S^ [B, 1, H, W] of the scale head, from the condition [B, K, H/s, W/s]."""
        assert self.scale_head is not None
        return self.scale_head(condition)

    def _run(self, part: nn.Module, x: Tensor, time: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(part, x, time, use_reentrant=False)
        return part(x, time)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of t at `width / 2` frequencies from 1 to 1/10000: float32 [B, width] (Vaswani et al. 2017)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
