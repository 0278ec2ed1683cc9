"""TinyViT-5M (Wu et al. 2022) as MobileSAM's image encoder: [B, 3, 1024, 1024] -> [B, 256, 64, 64].

Parameter names are those of `mobile_sam.pt`, so its weights load as they are. The last merging keeps its resolution (stride 1), where
other libraries' TinyViT halves it. `norm_head` and `head` belong to the layout and are not used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

DIMS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)


class ConvBN(nn.Sequential):
    """Convolution without bias, then batch norm."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module(
            "c", nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        )
        self.add_module("bn", nn.BatchNorm2d(channels_out))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 per channel, 1 x 1 (MBConv without squeeze); with a residual, or as a change of resolution without one."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels_in, hidden)
        self.conv2 = ConvBN(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.conv3 = ConvBN(hidden, channels_out)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        y = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(x + y) if self.residual else y


class Attention(nn.Module):
    """Attention within windows of N = window^2 pixels, biased by the distance of two pixels."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """[windows, N, dim] -> the same."""
        windows, n, dim = x.shape
        q, k, v = self.qkv(self.norm(x)).view(windows, n, self.heads, 3, dim // self.heads).permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, bias_indices(self.window).to(x.device)]  # [heads, N, N]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(y.transpose(1, 2).reshape(windows, n, dim))


class MLP(nn.Module):
    """Two linear layers after a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[…, dim] -> the same."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class AttentionBlock(nn.Module):
    """Window attention, a 3 x 3 convolution per channel, an MLP; channels last: [B, H, W, dim]."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, window)
        self.local_conv = ConvBN(dim, dim, kernel=3, groups=dim)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, dim] -> the same; sides are padded to whole windows with zeros, as in training."""
        batch, height, width, dim = x.shape
        size = self.attn.window
        down, right = -height % size, -width % size
        y = F.pad(x, (0, 0, 0, right, 0, down))
        rows, columns = (height + down) // size, (width + right) // size
        y = y.view(batch, rows, size, columns, size, dim).transpose(2, 3).reshape(-1, size * size, dim)
        y = self.attn(y).view(batch, rows, columns, size, size, dim).transpose(2, 3)
        x = x + y.reshape(batch, height + down, width + right, dim)[:, :height, :width]
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)


class Stage(nn.Module):
    """Blocks of one resolution, then the merging to the next (none after the last)."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if downsample is not None:
            self.downsample = downsample


class TinyViT(nn.Module):
    """MobileSAM's image encoder; segment-anything's `Sam` reads `img_size`, the side of its input in pixels."""

    img_size = 1024

    def __init__(self) -> None:
        super().__init__()
        first = DIMS[0]
        self.patch_embed = nn.Module()
        self.patch_embed.seq = nn.Sequential(
            ConvBN(3, first // 2, kernel=3, stride=2), nn.GELU(), ConvBN(first // 2, first, kernel=3, stride=2)
        )
        self.layers = nn.ModuleList(self._stage(index) for index in range(4))
        self.norm_head = nn.LayerNorm(DIMS[-1])
        self.head = nn.Linear(DIMS[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[-1], 256, 1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    @staticmethod
    def _stage(index: int) -> Stage:
        dim = DIMS[index]
        if index == 0:
            blocks: list[nn.Module] = [
                Bottleneck(dim, hidden=4 * dim, channels_out=dim, stride=1, residual=True) for _ in range(DEPTHS[0])
            ]
        else:
            blocks = [AttentionBlock(dim, HEADS[index], WINDOWS[index]) for _ in range(DEPTHS[index])]
        if index == 3:
            return Stage(blocks, None)
        after = DIMS[index + 1]
        return Stage(blocks, Bottleneck(dim, hidden=after, channels_out=after, stride=1 if index == 2 else 2, residual=False))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised, padded images [B, 3, 1024, 1024] -> [B, 256, 64, 64]."""
        embed: Any = self.patch_embed
        x = embed.seq(x)
        stage: Any
        for index, stage in enumerate(self.layers):
            x = x if index == 0 else x.permute(0, 2, 3, 1)
            for block in stage.blocks:
                x = block(x)
            x = x if index == 0 else x.permute(0, 3, 1, 2)
            if index < 3:
                x = stage.downsample(x)
        return self.neck(x)


def bias_indices(window: int) -> Tensor:
    """int64 [N, N]: which bias two pixels of a window share, |dy| window + |dx|."""
    line = torch.arange(window)
    distance = (line[:, None] - line).abs()
    n = window * window
    return (distance[:, None, :, None] * window + distance[None, :, None, :]).reshape(n, n)
