"""Makes an image consistent with its LR by back-projection (Irani and Peleg 1991). Pure.

A sample may drift in colour, so that its bicubic downsampling differs from LR. Two projections correct this: the difference is upsampled
and added, and each pixel is clamped to the range of its LR neighbourhood (`reach`), so that a flat colour stays flat.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.residual import reduce, upsample_rows

ROUNDS = 8
REACH = 1.0  # how far beyond the neighbourhood's range, in units of that range, a pixel may lie
_ROWS = 256


def make_consistent(image: Tensor, lr: Tensor, scale: int, rounds: int = ROUNDS, reach: float | None = REACH) -> Tensor:
    """Change an image in place until MATLAB's bicubic downsampling of it equals LR.

    Args:
        image: [1, 3, s h, s w] in [-1, 1].
        lr: [1, 3, h, w] in [-1, 1].
        scale: s.
        rounds: iterations of back-projection.
        reach: a pixel is clamped to the range of its 5 x 5 LR neighbourhood, widened at both ends by `reach` times that range; None: not
            clamped.
    """
    if reach is not None:
        _bound(image, lr, scale, reach=reach)
    for _ in range(rounds):
        for channel in range(image.shape[1]):  # one at a time, which bounds the memory
            part = image[:, channel : channel + 1]
            difference = lr[:, channel : channel + 1] - reduce(part, scale)
            for top in range(0, part.shape[2], _ROWS):
                rows = part[:, :, top : top + _ROWS]
                rows += upsample_rows(difference, scale, top=top, bottom=top + rows.shape[2])
                rows.clamp_(-1, 1)
    return image


def _bound(image: Tensor, lr: Tensor, scale: int, reach: float) -> None:
    padded = F.pad(lr, (2, 2, 2, 2), mode="replicate")
    high, low = F.max_pool2d(padded, 5, 1), -F.max_pool2d(-padded, 5, 1)
    span = reach * (high - low)
    high, low = high + span, low - span
    for row in range(lr.shape[2]):
        lines = image[:, :, row * scale : (row + 1) * scale]
        lines.copy_(
            torch.minimum(torch.maximum(lines, _wide(low[:, :, row : row + 1], scale)), _wide(high[:, :, row : row + 1], scale))
        )


def _wide(row: Tensor, scale: int) -> Tensor:
    return row.repeat_interleave(scale, dim=3)
