"""Regions of a label map as tensors on its device: areas, means, boundaries. Pure; without a loop over regions.

A region is all pixels of one label within the map; the pixels without a mask (label 0) are one more region. Sums are of integers
(values of 2^-32), so that they do not depend on the order in which a GPU adds them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FIXED_POINT = 2.0**32


def areas(labels: Tensor, count: int) -> Tensor:
    """The area of each pixel's region: int64 [B, H, W].

    Args:
        labels: integers [B, H, W] from 0 to count - 1.
        count: number of labels that may occur.
    """
    index = labels.long().flatten(1)
    return _sums(torch.ones_like(index), index, count).view(labels.shape)


def region_means(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """The mean of the values over each pixel's region: float [B, H, W].

    Args:
        values: float [B, H, W], at least 0; the sum over a region must stay below 2^31.
        labels: integers [B, H, W] from 0 to count - 1.
        count: number of labels that may occur.
    """
    index = labels.long().flatten(1)
    sums = _sums((values * _FIXED_POINT).round().long().flatten(1), index, count).view(values.shape)
    return sums.to(values.dtype) / (areas(labels, count).to(values.dtype) * _FIXED_POINT)


def near_boundary(labels: Tensor, width: int) -> Tensor:
    """Whether a pixel lies within `width` pixels (in rows and columns) of a boundary between two labels: bool [B, H, W].

    With width 1: the pixels that have another label above, below, left or right of them.
    """
    labels = labels.int()
    edge = torch.zeros_like(labels, dtype=torch.bool)
    rows, columns = labels[:, 1:] != labels[:, :-1], labels[:, :, 1:] != labels[:, :, :-1]
    edge[:, 1:] |= rows
    edge[:, :-1] |= rows
    edge[:, :, 1:] |= columns
    edge[:, :, :-1] |= columns
    if width == 1:
        return edge
    reach, span = width - 1, 2 * width - 1
    wide = F.max_pool2d(edge.float(), (span, 1), stride=1, padding=(reach, 0))
    return F.max_pool2d(wide, (1, span), stride=1, padding=(0, reach)) > 0


def _sums(values: Tensor, index: Tensor, count: int) -> Tensor:
    """For each pixel, the sum of int64 values [B, N] over the pixels of the same index."""
    return values.new_zeros(len(values), count).scatter_add_(1, index, values).gather(1, index)
