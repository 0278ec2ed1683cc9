"""How much an image's embedding differs from its surroundings, at each point of a grid. Pure.

A point prompt finds a mask that no other point finds where there is a small object. The encoder has seen it already: its embedding
there differs from the mean of the tokens around it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOWS = (3, 5)
"""Sides of the surroundings, in image tokens. Each contrast is divided by its mean over the image, then they are added."""


def contrast(embedding: Tensor) -> Tensor:
    """The contrast of each image token.

    Args:
        embedding: float32 [C, h, w], h and w > 0; the tokens of the image alone, without padding.

    Returns:
        float32 [h, w], >= 0; the sum of `WINDOWS` contrasts with mean 1 each, or 0 everywhere if all tokens are equal.
    """
    parts = []
    for side in WINDOWS:
        around = F.avg_pool2d(embedding[None], side, stride=1, padding=side // 2, count_include_pad=False)[0]
        part = (embedding - around).square().sum(0).sqrt()
        parts.append(part / part.mean().clamp(min=1e-12))
    return torch.stack(parts).sum(0)


def at_points(values: Tensor, points: Tensor) -> Tensor:
    """Values between tokens, bilinear.

    Args:
        values: float32 [h, w]; the centre of the first one is at (.5, .5).
        points: float32 [n, 2]: (x, y), in tokens.

    Returns:
        float32 [n]; beyond the outermost centres, their value.
    """
    size = torch.empty_like(points[:1])
    size[:, 0], size[:, 1] = values.shape[1], values.shape[0]
    places = points / size * 2 - 1
    sampled = F.grid_sample(values[None, None], places[None, None], padding_mode="border", align_corners=False)
    return sampled[0, 0, 0]
