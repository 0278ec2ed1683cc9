"""From low-resolution logits to stability, boxes and runs at full resolution, without a full-resolution tensor per mask. Pure.

Segment-anything enlarges logits 256 -> 1024, cuts the padding off, and resizes to the image, both bilinear. Per axis that is one
banded matrix of at most 3 taps. Pixels with the same first taps form a cell: each of its pixels is a weighted mean of the same
3 x 3 logits. Where all nine lie on one side of a threshold, so does the whole cell; only the other cells are computed.

Letters: n masks, u x v low-resolution logits, H x W pixels, J x I cells, K cells to compute, R x S pixels in the largest cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = 3


@dataclass(frozen=True)
class Axis:
    """One axis of the resizing, its pixels in bands of the same taps."""

    matrix: Tensor
    """float32 [pixels, low]: the whole axis as a matrix."""
    low: Tensor
    """int64 [J]: first of the three taps of each band."""
    start: Tensor
    """int64 [J + 1]: first pixel of each band, and the number of pixels."""
    weights: Tensor
    """float32 [TAPS, R, J]: weights of each band's pixels; NaN where a band has fewer than R."""

    @property
    def length(self) -> Tensor:
        """int64 [J]: pixels of each band."""
        return self.start[1:] - self.start[:-1]


def make_axis(n_low: int, n_model: int, n_inside: int, n_out: int, device: torch.device) -> Axis:
    """The axis that enlarges n_low to n_model, keeps the first n_inside and resizes them to n_out pixels.

    The matrix is what PyTorch's own `interpolate` makes of the identity: its rounding of coordinates comes with it.
    """
    steps = F.interpolate(torch.eye(n_low)[None, :, :, None], (n_model, 1), mode="bilinear", align_corners=False)
    steps = F.interpolate(steps[:, :, :n_inside], (n_out, 1), mode="bilinear", align_corners=False)
    matrix = steps[0, :, :, 0].t().contiguous()  # [n_out, n_low]
    first = (matrix != 0).int().argmax(1).clamp(max=max(0, n_low - TAPS))
    low, start = _bands(first)
    used = torch.cat([start, torch.tensor([n_out])])
    most = int((used[1:] - used[:-1]).max())
    pixel = start + torch.arange(most)[:, None]  # [R, J]
    inside = pixel < used[1:]
    taps = torch.stack([matrix[pixel.clamp(max=n_out - 1), (low + tap).clamp(max=n_low - 1)] for tap in range(TAPS)])
    weights = torch.where(inside, taps, torch.nan)
    return Axis(matrix.to(device), low.to(device), used.to(device), weights.contiguous().to(device))


def _bands(first: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of equal `first` [pixels], none much longer than the others: (first of each run, pixel where it starts)."""
    changes = torch.cat([torch.zeros(1, dtype=torch.int64), (first[1:] != first[:-1]).nonzero()[:, 0] + 1])
    length = torch.diff(changes, append=torch.tensor([len(first)]))
    usual = int(length.median()) + 1  # at the borders the outermost logits also serve the pixels beyond their centres
    starts = torch.cat([torch.arange(begin, begin + size, usual) for begin, size in zip(changes, length, strict=True)])
    return first[starts], starts
