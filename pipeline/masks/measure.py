"""Stability, boxes and runs at full resolution from low-resolution logits, without a full-resolution tensor per mask. Pure.

Where all nine logits of a cell (see `interpolation`) lie on one side of a threshold, so do all of its pixels. Only the other cells
are computed, and only for masks that bounds cannot decide.

Letters: n masks, u x v low-resolution logits, H x W pixels, J x I cells, K cells to compute, R x S pixels in the largest cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .host_copy import to_host
from .interpolation import TAPS, Axis, Frame

_PIXELS = 1 << 18
"""Pixels to compute at once: they stay in a CPU's cache."""
_PIXELS_CUDA = 1 << 24
_STRIP = 1 << 22
"""Pixels of a mask to enlarge at once when its runs are made."""


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of logits."""

    mask: float
    """A pixel belongs to the mask if its logit is above."""
    offset: float
    """Stability compares the areas above mask + offset and above mask - offset."""


@dataclass(frozen=True)
class Bounds:
    """Bounds from the nine logits of each cell, without computing a pixel."""

    lowest: Tensor
    """float32 [n, J, I]: smallest of the nine."""
    highest: Tensor
    """float32 [n, J, I]: largest."""
    box_inner: Tensor
    """int64 [n, 4]: box of the cells that are certainly mask, x0, y0, x1, y1, inclusive; x1 < x0 if there are none."""
    box_outer: Tensor
    """int64 [n, 4]: box of the cells that may be mask."""
    stability: Tensor
    """float64 [n]: not less than the mask's stability."""
    straddling: Tensor
    """int64 [n]: cells that `measure` has to compute."""


def bound(logits: Tensor, frame: Frame, cut: Thresholds) -> Bounds:
    """Bounds of n masks; logits float32 [n, u, v]."""
    lowest = _over_cells(logits, frame, torch.minimum)
    highest = _over_cells(logits, frame, torch.maximum)
    above = _area(highest > cut.mask + cut.offset, frame)
    below = _area(lowest > cut.mask - cut.offset, frame)
    return Bounds(
        lowest,
        highest,
        box_inner=_box(lowest > cut.mask, frame),
        box_outer=_box(highest > cut.mask, frame),
        stability=(above / below).nan_to_num(nan=1.0),
        straddling=_straddling(lowest, highest, cut).sum((1, 2)),
    )


def _straddling(lowest: Tensor, highest: Tensor, cut: Thresholds) -> Tensor:
    """Cells on both sides of one of the thresholds, bool [n, J, I]."""
    return (lowest <= cut.mask + cut.offset) & (highest > cut.mask - cut.offset)


@dataclass(frozen=True)
class Measured:
    """Measurements of n masks at full resolution."""

    above: Tensor
    """int64 [n]: pixels above mask + offset."""
    below: Tensor
    """int64 [n]: pixels above mask - offset."""
    box: Tensor
    """int64 [n, 4]: x0, y0, x1, y1 of the mask, inclusive, as segment-anything has it: all 0 if it is empty."""

    @property
    def stability(self) -> Tensor:
        """float32 [n]; NaN where no pixel is above mask - offset."""
        return self.above.float() / self.below.float()


def measure(logits: Tensor, bounds: Bounds, *, n_cells: int, frame: Frame, cut: Thresholds) -> Measured:
    """Exact measurements of n masks.

    Args:
        logits: float32 [n, u, v].
        bounds: of the same masks.
        n_cells: the sum of their `straddling`, passed so that the host does not synchronise once more.
        frame: of the crop.
        cut: thresholds.

    The host does not synchronise here; therefore no tensor is created from host data, which would.
    """
    lowest, highest = bounds.lowest, bounds.highest
    high, low = cut.mask + cut.offset, cut.mask - cut.offset
    above = _area(lowest > high, frame).long()
    below = _area(lowest > low, frame).long()
    inner = bounds.box_inner
    nothing = inner[:, 2:3] < inner[:, :1]
    sides = torch.cat([inner[:, :2].masked_fill(nothing, 1 << 40), inner[:, 2:].masked_fill(nothing, -1)], dim=1)
    cells = _places(_straddling(lowest, highest, cut).flatten(), n_cells)
    n_rows, n_columns = len(frame.y.low), len(frame.x.low)
    most = (_PIXELS_CUDA if logits.is_cuda else _PIXELS) // (frame.y.weights.shape[2] * frame.x.weights.shape[2])
    for part in cells.split(max(16, most)):
        i = part % n_columns
        j, mask = part // n_columns % n_rows, part // (n_columns * n_rows)
        pixels = _pixels(logits, mask, j=j, i=i, frame=frame)  # [R, S, K]
        # Pixels of a cell that does not straddle a threshold were counted with the whole cells.
        whole = lowest.flatten()[part]
        above.index_add_(0, mask, _count(pixels, high))
        below.index_add_(0, mask, _count(pixels, low) * (whole <= low))
        _stretch(sides, mask, pixels > cut.mask, y=frame.y.start[j], x=frame.x.start[i])
    return Measured(above, below, torch.where(sides[:, 2:3] < 0, 0, sides))


def _places(flags: Tensor, n: int) -> Tensor:
    """Where bool [m] is true, int64 [n], n of them. On CUDA `torch.nonzero_static` came with PyTorch 2.7 only."""
    if not flags.is_cuda:
        return torch.nonzero_static(flags, size=n)[:, 0]
    return compacted(flags, n)


def compacted(flags: Tensor, n: int) -> Tensor:
    """`_places` for a device of any kind, without a wait."""
    places = torch.empty(n + 1, dtype=torch.int64, device=flags.device)  # the last one takes what is false
    slot = torch.where(flags, flags.cumsum(0) - 1, n)
    return places.index_copy_(0, slot, torch.arange(len(flags), device=flags.device))[:n]


def runs(
    masks: Sequence[tuple[Tensor, list[int]]], frame: Frame, cut: Thresholds, *, corner: tuple[int, int], size: tuple[int, int]
) -> list[np.ndarray]:
    """Runs (`rle`) of masks: uint32 [r] each.

    Args:
        masks: logits float32 [u, v] and the box from `measure`, in the crop; nothing outside the box is computed.
        frame: of the crop.
        cut: thresholds.
        corner: x0, y0 of the crop in the image.
        size: H, W of the image.
    """
    edges: list[list[np.ndarray]] = [[] for _ in masks]
    for (k, first), inside in to_host(_strips(masks, frame, cut)):
        edges[k].append(_edges(inside) + first * (inside.shape[1] + 1))
    return [_joined(np.concatenate(some), box, corner=corner, size=size) for some, (_, box) in zip(edges, masks, strict=True)]


def _strips(
    masks: Sequence[tuple[Tensor, list[int]]], frame: Frame, cut: Thresholds
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """The masks inside their boxes at full resolution, piece by piece: (mask, first column), bool [columns, h]."""
    for k, (logits, (x0, y0, x1, y1)) in enumerate(masks):
        rows, columns = frame.y.matrix[y0 : y1 + 1], frame.x.matrix[x0 : x1 + 1]
        down = torch.mm(logits.t(), rows.t())  # [v, h]
        strip = max(1, _STRIP // len(rows))
        for first in range(0, len(columns), strip):
            yield (k, first), torch.mm(columns[first : first + strip], down) > cut.mask  # down the columns, as runs go


def _joined(edges: np.ndarray, box: list[int], *, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Places where a mask changes inside its box -> runs in the image."""
    x0, y0, _, y1 = box
    height = y1 + 1 - y0
    column, row = np.divmod(edges, height + 1)
    pixel = (column + x0 + corner[0]) * size[0] + row + y0 + corner[1]  # starts and stops in turn
    if height == size[0]:  # a run can continue from the bottom of a column to the top of the next
        again = np.flatnonzero(pixel[1:-1:2] == pixel[2::2])
        pixel = np.delete(pixel, np.concatenate([2 * again + 1, 2 * again + 2]))
    return _lengths(pixel, size[0] * size[1])


def _lengths(edges: np.ndarray, n_pixels: int) -> np.ndarray:
    """Starts and stops in turn -> runs; the last one is not empty, as everywhere in COCO."""
    counts = np.diff(np.concatenate([[0], edges, [n_pixels]]))
    return (counts if counts[-1] or len(counts) == 1 else counts[:-1]).astype(np.uint32)


def _edges(inside: np.ndarray) -> np.ndarray:
    """Where values change in each row of bool [c, h] between zeros: places in a [c, h + 1] array, ascending."""
    padded = np.zeros((inside.shape[0], inside.shape[1] + 2), bool)
    padded[:, 1:-1] = inside
    return np.flatnonzero(padded[:, 1:] != padded[:, :-1])


def _over_cells(logits: Tensor, frame: Frame, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Smallest or largest of the nine logits of each cell: [n, u, v] -> [n, J, I]."""
    rows = pick(pick(logits[:, :-2], logits[:, 1:-1]), logits[:, 2:])
    nine = pick(pick(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
    return nine.index_select(1, frame.y.low).index_select(2, frame.x.low)


def _area(cells: Tensor, frame: Frame) -> Tensor:
    """Pixels of the chosen cells, bool [n, J, I] -> float64 [n]."""
    return (cells.float() @ frame.x.length.float()).double() @ frame.y.length.double()


def _box(cells: Tensor, frame: Frame) -> Tensor:
    """Box of the chosen cells, inclusive: int64 [n, 4]; x1 < x0 if there are none."""
    x0, x1 = _extent(cells.any(1), frame.x)
    y0, y1 = _extent(cells.any(2), frame.y)
    return torch.stack([x0, y0, x1, y1], dim=1)


def _extent(bands: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    first = torch.where(bands, axis.start, axis.n_out).amin(1)
    last = torch.where(bands, axis.start + axis.length - 1, -1).amax(1)
    return first, last


def _pixels(logits: Tensor, mask: Tensor, frame: Frame, *, j: Tensor, i: Tensor) -> Tensor:
    """Full-resolution logits of K cells: [R, S, K], NaN beyond a cell's own pixels."""
    _, u, v = logits.shape
    corner = (mask * u + frame.y.low[j]) * v + frame.x.low[i]
    three = torch.arange(TAPS, device=corner.device)
    steps = (three[:, None] * v + three).flatten()
    nine = logits.flatten()[corner + steps[:, None]].unflatten(0, (TAPS, 1, TAPS))  # [TAPS, 1, TAPS, K]
    across = frame.x.weights[i].permute(1, 2, 0).contiguous()  # [TAPS, S, K]
    down = frame.y.weights[j].permute(1, 2, 0).contiguous()[:, :, None]  # [TAPS, R, 1, K]
    lines = nine[:, :, 0] * across[0]  # [TAPS, S, K]: each of the three rows of logits, enlarged
    for tap in range(1, TAPS):
        lines.addcmul_(nine[:, :, tap], across[tap])
    out = down[0] * lines[0]
    for tap in range(1, TAPS):
        out.addcmul_(down[tap], lines[tap])
    return out


def _count(pixels: Tensor, threshold: float) -> Tensor:
    """Pixels above: [R, S, K] -> int64 [K]."""
    return (pixels > threshold).float().flatten(0, 1).sum(0).long()


def _stretch(sides: Tensor, mask: Tensor, inside: Tensor, *, y: Tensor, x: Tensor) -> None:
    """Stretch boxes [n, 4] to hold the pixels inside, bool [R, S, K], of cells that start at y, x [K]; in place."""
    rows, columns = inside.any(1), inside.any(0)  # [R, K], [S, K]
    for side, hit, start in ((0, columns, x), (1, rows, y)):
        place = start + torch.arange(len(hit), device=x.device)[:, None]
        first = torch.where(hit, place, 1 << 40).amin(0)
        last = torch.where(hit, place, -1).amax(0)
        sides[:, side].scatter_reduce_(0, mask, first, "amin")
        sides[:, side + 2].scatter_reduce_(0, mask, last, "amax")
