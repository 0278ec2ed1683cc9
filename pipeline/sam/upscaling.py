"""The last part of SAM's mask decoder: image tokens 64 x 64 -> logits 256 x 256, as matrix products. Pure, given the layers.

SAM 2 adds two finer feature maps of the image, before the normalisation and before the last GELU.

A transposed convolution of kernel 2 and stride 2 is a matrix product per pixel whose outputs are its 2 x 2 children. The children
stay where the product leaves them; only the finished logits are put into rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .matmul import bmm, linear, linear_gelu


class Upscale:
    """`output_upscaling` of segment-anything's MaskDecoder, times the masks' vectors.

    Args:
        layers: ConvTranspose2d(C, C/4, 2, 2), LayerNorm2d, GELU, ConvTranspose2d(C/4, C/8, 2, 2), GELU.
        columns: of the image tokens (64).
        dtype: to compute in.
    """

    def __init__(self, layers: Iterable[Any], columns: int, dtype: torch.dtype) -> None:
        up1, norm, _, up2, _ = layers
        # Children in the order x, y: then a row of logits is a regular stride over the tokens and their x-children.
        weight1 = up1.weight.permute(3, 2, 1, 0)  # [dx, dy, C/4, C]
        # LayerNorm2d first subtracts the mean over channels. Taken from the weights, the mean of the product is 0 already.
        weight1, bias1 = weight1 - weight1.mean(2, keepdim=True), up1.bias - up1.bias.mean()
        self.weight1, self.bias1 = weight1.flatten(0, 2).to(dtype).contiguous(), bias1.repeat(4).to(dtype)
        self.norm_weight, self.norm_bias, self.eps = norm.weight.to(dtype), norm.bias.to(dtype), norm.eps
        self.weight2 = up2.weight.permute(2, 3, 1, 0).flatten(0, 2).to(dtype).contiguous()  # [(dy dx C/8), C/4]
        self.bias2 = up2.bias.repeat(4).to(dtype)
        self.columns, self.dtype = columns, dtype

    def features(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """SAM 2's finer maps of one image in the order of the products here, with the biases of the layers that they are added to.

        Args:
            packed: float32 [3 C, 64, 64], see `point_models.sam2.pack`: C/4 channels at twice, C/8 at four times the resolution.

        Returns:
            [64, 64, 4, C/4] and [64, 64, 4, 4 C/8]: tokens, their 2 x 2 children, and their children's children as channels.
        """
        quarter = len(self.norm_weight)
        finer, finest = packed[: 4 * quarter], packed[4 * quarter :]
        finer = finer.unflatten(0, (-1, 2, 2)).permute(3, 4, 2, 1, 0).flatten(2, 3)  # [y, x, (dx dy), C/4]
        finer = finer - finer.mean(-1, keepdim=True)  # as the product's, see above: the mean of the sum is 0
        finest = finest.unflatten(0, (-1, 2, 2, 2, 2))  # [C/8, dy, dy2, dx, dx2, y, x]
        finest = finest.permute(5, 6, 3, 1, 2, 4, 0).flatten(4).flatten(2, 3)  # [y, x, (dx dy), (dy2 dx2 C/8)]
        first, second = finer + self.bias1[:quarter], finest + self.bias2
        return first.to(self.dtype).contiguous(), second.to(self.dtype).contiguous()

    def __call__(
        self,
        keys: Tensor,
        vectors: Tensor,
        rows: int,
        columns: int,
        *,
        stride: int | None = None,
        features: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Logits of some masks of each point.

        Args:
            keys: image tokens [b, P, C].
            vectors: of m masks per point, float32 [b, m, C/8].
            rows: upscale only the first so many rows of tokens.
            columns: likewise.
            stride: tokens of one row in `keys`; None: all 64.
            features: of `features`, for SAM 2.

        Returns:
            float32 [b, m, 4 rows, 4 columns].
        """
        keys = keys.unflatten(1, (-1, stride or self.columns))[:, :rows, :columns].flatten(1, 2)  # [b, p, C]
        x = linear(keys, self.weight1, self.bias1 if features is None else None).unflatten(-1, (4, -1))  # [b, p, 4, C/4]
        if features is not None:
            x = x.add_(features[0][:rows, :columns].flatten(0, 1))
        x = F.gelu(F.rms_norm(x, x.shape[-1:], self.norm_weight, self.eps).add_(self.norm_bias))
        if features is None:
            x = linear_gelu(x, self.weight2, self.bias2)
        else:
            x = F.gelu(linear(x, self.weight2).add_(features[1][:rows, :columns].flatten(0, 1)))
        x = x.view(len(keys), -1, vectors.shape[2])  # [b, p 4 4, C/8]
        maps = bmm(vectors.to(self.dtype), x.transpose(1, 2))  # [b, m, p 4 4]
        return _in_rows(maps.flatten(0, 1), rows, columns).unflatten(0, vectors.shape[:2])


def _in_rows(maps: Tensor, rows: int, columns: int) -> Tensor:
    """[n, (y x dx dy dy2 dx2)] -> float32 [n, (y dy dy2), (x dx dx2)]: a pixel shuffle of both levels at once."""
    maps = maps.view(len(maps), rows, columns, 2, 2, 2, 2).permute(0, 1, 4, 5, 2, 3, 6)
    out = torch.empty(maps.shape, dtype=torch.float32, device=maps.device)
    return out.copy_(maps).view(len(maps), rows * 4, columns * 4)
