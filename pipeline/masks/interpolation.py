"""Interpolation of low-resolution logits to an image, as one small matrix per axis. Pure.

Segment-anything enlarges logits 256 -> 1024, crops the padding, and resizes to the image, both bilinear; SAM 2 resizes 256 -> image in
one step. Per axis that is one banded matrix of at most 3 taps. Pixels with the same first tap form a band; a band of rows and one of columns make a cell, whose
pixels are all weighted means of the same 3 x 3 logits.

Letters: u x v low-resolution logits, H x W pixels, J x I bands, R pixels in the longest band.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..point_models.resizing import inside

TAPS = 3


@dataclass(frozen=True)
class Axis:
    """One axis of the resizing, its pixels in bands of the same taps."""

    matrix: Tensor
    """float32 [pixels, used]: the whole axis as a matrix, without the logits that no pixel needs."""
    low: Tensor
    """int64 [J]: first of the three taps of each band."""
    start: Tensor
    """int64 [J]: first pixel of each band."""
    length: Tensor
    """int64 [J]: pixels of each band."""
    weights: Tensor
    """float32 [J, TAPS, R]: weights of each band's pixels; NaN where a band has fewer than R."""

    @property
    def n_low(self) -> int:
        """Logits that are needed, a multiple of 4: the others are padding."""
        return self.matrix.shape[1]

    @property
    def n_out(self) -> int:
        """Pixels."""
        return self.matrix.shape[0]


def make_axis(n_low: int, n_model: int | None, n_inside: int, n_out: int, device: torch.device) -> Axis:
    """The axis that enlarges n_low to n_model, keeps the first n_inside and resizes them to n_out pixels; n_model None: n_low to n_out.

    The matrix is what PyTorch's own `interpolate` makes of the identity: its rounding of coordinates comes with it.
    """
    steps = torch.eye(n_low)[None, :, :, None]
    if n_model is not None:
        steps = F.interpolate(steps, (n_model, 1), mode="bilinear", align_corners=False)[:, :, :n_inside]
    steps = F.interpolate(steps, (n_out, 1), mode="bilinear", align_corners=False)
    matrix = steps[0, :, :, 0].t()  # [n_out, n_low]
    used = int((matrix != 0).any(0).nonzero()[-1]) + 1
    matrix = matrix[:, : -(-used // 4) * 4].contiguous()
    first = (matrix != 0).int().argmax(1).clamp(max=matrix.shape[1] - TAPS)
    low, start = _bands(first)
    length = torch.diff(start, append=torch.tensor([n_out]))
    within = torch.arange(int(length.max()))
    pixel = (start[:, None] + within).clamp(max=n_out - 1)  # [J, R]
    taps = torch.stack([matrix[pixel, low[:, None] + tap] for tap in range(TAPS)], dim=1)
    weights = torch.where((within < length[:, None])[:, None], taps, torch.nan)
    return Axis(*(part.to(device) for part in (matrix, low, start, length, weights.contiguous())))


def _bands(first: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of equal `first` [pixels], none longer than those inside: (first of each run, pixel where it starts)."""
    changes = torch.cat([torch.zeros(1, dtype=torch.int64), (first[1:] != first[:-1]).nonzero()[:, 0] + 1])
    length = torch.diff(changes, append=torch.tensor([len(first)]))
    # At the borders the outermost logits also serve the pixels beyond their centres: such runs are cut.
    longest = int((length[1:-1] if len(length) > 2 else length).max())
    starts = torch.cat(
        [torch.arange(begin, begin + size, longest) for begin, size in zip(changes.tolist(), length.tolist(), strict=True)]
    )
    return first[starts], starts


@dataclass(frozen=True)
class Frame:
    """Interpolation of the logits of one crop to its H x W pixels."""

    y: Axis
    x: Axis

    @property
    def token_rows(self) -> int:
        """Rows of image tokens that are needed."""
        return self.y.n_low // 4

    @property
    def token_columns(self) -> int:
        """Columns of image tokens that are needed."""
        return self.x.n_low // 4

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.y.n_out, self.x.n_out


def make_frame(height: int, width: int, *, n_low: int, n_model: int | None, device: torch.device) -> Frame:
    """The frame of an image [height, width] whose longer side is n_model pixels at the input of the model; None: it is stretched to it."""
    inside_y, inside_x = (n_low, n_low) if n_model is None else inside(height, width, n_model)
    y = make_axis(n_low, n_model, n_inside=inside_y, n_out=height, device=device)
    return Frame(y, make_axis(n_low, n_model, n_inside=inside_x, n_out=width, device=device))
