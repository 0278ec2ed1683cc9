"""Structural position encoding (SPE): a label map and one code per mask; E_SAM is the lookup of the codes by label. Pure.

SAM-DiffSR, arXiv 2402.17133, section 3.2: x_RoPE is a rotary embedding of an H x W array of ones (position = row, dim = W,
theta 10000), and `E_SAM = sum_i M_i mean(x_RoPE over M_i)`. Masks overlap, so they are painted in order, later over earlier;
each mean is over the whole mask, and pixels outside all masks are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...errors import SamdiffError
from .rle import CocoMask, area, counts_of, paint_labels, spans

THETA = 10000.0
"""Base of the rotary frequencies (the default of rotary-embedding-torch)."""


def rope_table(height: int, width: int) -> np.ndarray:
    """x_RoPE: float32 [H, W], in [-sqrt 2, sqrt 2]; the last column of an odd width is 1.

    x[r, 2k] = cos(r th_k) - sin(r th_k), x[r, 2k+1] = cos(r th_k) + sin(r th_k), th_k = 10000^(-2k/W).
    """
    out = np.ones((height, width), np.float32)
    turn = np.exp(1j * _frequencies(width)[: width - 1 : 2])  # [W // 2]
    block = turn ** np.arange(min(height, 64))[:, None]  # rows 0..63; later blocks are these, rotated further
    for y in range(0, height, 64):
        z = (block * turn**y)[: height - y]
        out[y : y + 64, 0 : width - 1 : 2] = z.real - z.imag
        out[y : y + 64, 1::2] = z.real + z.imag
    return out


class RopeSums:
    """Prefix sums of x_RoPE in column-major order, in O(W) memory: the sum over a column is a geometric series.

    Reusable for all images of the same size, see `encode_structure`.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        # One extra column: position H W is row 0 of column W.
        self._frequency = np.append(_frequencies(width), 1.0)
        sign = np.where(np.arange(width + 1) % 2, 1.0, -1.0)
        half_cot = 0.5 / np.tan(self._frequency / 2)  # 1 / (1 - e^(i th)) = 1/2 + i/2 cot(th/2)
        self._rise, self._swing = 0.5 + sign * half_cot, half_cot - 0.5 * sign
        columns = self._in_column(np.arange(width), np.full(width, height))
        self._before = np.concatenate([[0.0], np.cumsum(columns)])  # [W + 1]: all columns to the left

    def upto(self, position: np.ndarray) -> np.ndarray:
        """Sum over pixels 0 .. position - 1, column-major: int64 [n], 0..H W -> float64 [n]."""
        column, row = np.divmod(position, max(1, self.height))
        return self._before[column] + self._in_column(column, row)

    def over(self, counts: np.ndarray) -> float:
        """Sum over a mask given as runs, uint32 [R] (`rle.counts_of`)."""
        start, stop = spans(counts)
        return float(self.upto(stop).sum() - self.upto(start).sum())

    def _in_column(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Sum over rows 0 .. row - 1 of a column: Re G -+ Im G with G = sum_r e^(i r th) = (1 - e^(i row th)) / (1 - e^(i th))."""
        angle = row * self._frequency[column]
        total = (1 - np.cos(angle)) * self._rise[column] + np.sin(angle) * self._swing[column]
        if self.width % 2:
            total = np.where(column == self.width - 1, row, total)  # the last column of an odd width is not rotated: all ones
        return total


@dataclass(frozen=True)
class Structure:
    """Masks of one image in the form that a store keeps."""

    labels: np.ndarray
    """uint16 [H, W]: 0 = no mask, k = the k-th mask (1-based), later painted over earlier."""
    codes: np.ndarray
    """float32 [M, 2]: sum of x_RoPE over the mask, divided by its area (paper) and by H W (official script)."""

    def e_sam(self, mean: Literal["mask", "image"] = "mask") -> np.ndarray:
        """E_SAM, float32 [H, W].

        Args:
            mean: `mask` divides the sum over a mask by its area, as in the paper; `image` by H W, as in the official script.

        Raises:
            SamdiffError: `mean` is neither.
        """
        if mean not in ("mask", "image"):
            raise SamdiffError(f"mean: expected mask or image, got {mean!r}")
        column = self.codes[:, 0 if mean == "mask" else 1]
        return np.concatenate([np.zeros(1, np.float32), column])[self.labels]


def encode_structure(
    masks: Sequence[CocoMask | np.ndarray] | np.ndarray, height: int, width: int, sums: RopeSums | None = None
) -> Structure:
    """Labels and codes of an image's masks.

    Args:
        masks: in painting order; COCO RLE dicts (compressed or not), runs (uint32 [R] each) or bool [M, H, W].
        height: H of the full image.
        width: W of the full image.
        sums: prefix sums for this size, to be reused between images; None: computed here.

    Raises:
        SamdiffError: a mask of another size, damaged runs, or more than 65535 masks.
    """
    runs = [_checked_runs(k, mask, height=height, width=width) for k, mask in enumerate(masks)]
    sums = sums or RopeSums(height, width)
    assert (sums.height, sums.width) == (height, width), "sums are for another size"
    areas = np.array([area(counts) for counts in runs], np.float64)
    totals = np.array([sums.over(counts) for counts in runs], np.float64)
    codes = np.stack([totals / np.maximum(areas, 1), totals / max(1, height * width)], axis=1)  # an empty mask has code 0
    return Structure(paint_labels(runs, height, width), codes.astype(np.float32))


def _frequencies(width: int) -> np.ndarray:
    """th of each column, float64 [W]; columns 2k and 2k+1 have the same th_k = theta^(-2k/dim).

    For an odd width rotary-embedding-torch rotates W - 1 columns, with the frequencies of dim = W.
    """
    return THETA ** (-2.0 * (np.arange(width) // 2) / max(1, width))


def _checked_runs(k: int, mask: CocoMask | np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Runs of the k-th mask; an error names its index."""
    try:
        return counts_of(mask, height, width)
    except SamdiffError as error:
        raise SamdiffError(f"mask {k}: {error}") from error
