"""Selects the masks above the threshold of predicted IoU, chunk by chunk; two filters with the same result. Pure, given a decoder.

`EagerFilter` selects on the host after each chunk: on a CPU this costs nothing, and masks below the threshold are not upscaled.
`StaticFilter` selects on the device: every mask is upscaled, those that pass are moved to the front of a buffer, and the host
synchronises once, after the last chunk. Its shapes depend on the settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import WeightsError
from ..sam.grid_decoder import POINT_MASKS, Decoded, GridDecoder
from .host_copy import fetch
from .interpolation import Frame


@dataclass(frozen=True)
class Survivors:
    """n masks above the threshold of predicted IoU, in the order of the points."""

    logits: Tensor
    """float32 [n, u, v], on the device."""
    predicted_iou: np.ndarray
    """float32 [n]."""
    point: np.ndarray
    """int64 [n]: index of the point of each mask."""


class Collector(Protocol):
    """Collects the masks above the threshold from decoded chunks."""

    def add(self, decoded: Decoded, first: int, real: int) -> None:
        """Add a chunk that starts at point `first`; its points after the first `real` ones are padding."""

    def passing(self) -> Survivors | None:
        """All masks that passed; None: there are none.

        Raises:
            WeightsError: predicted IoU is not finite.
        """


class EagerFilter:
    """Selects on the host after each chunk; only masks that pass are upscaled.

    Args:
        decoder: that decodes the chunks.
        frame: of the crop.
        threshold: predicted IoU must be above it; 0 keeps all.
    """

    def __init__(self, decoder: GridDecoder, frame: Frame, threshold: float) -> None:
        self.decoder, self.frame, self.threshold = decoder, frame, threshold
        self._passed: list[tuple[Tensor, np.ndarray, np.ndarray]] = []

    def add(self, decoded: Decoded, first: int, real: int) -> None:
        """See `Collector`."""
        predicted = decoded.predicted_iou[:real].cpu().numpy()
        _check(bool(np.isfinite(predicted).all()))
        point, mask = np.nonzero(_passes(predicted, self.threshold))
        if len(point):
            rows, columns = self.frame.token_rows, self.frame.token_columns
            logits = self.decoder.logits(decoded, point.tolist(), mask.tolist(), rows=rows, columns=columns)
            self._passed.append((logits, predicted[point, mask], first + point))

    def passing(self) -> Survivors | None:
        """See `Collector`."""
        if not self._passed:
            return None
        logits, predicted, point = zip(*self._passed, strict=True)
        return Survivors(logits[0] if len(logits) == 1 else torch.cat(logits), np.concatenate(predicted), np.concatenate(point))


class StaticFilter:
    """Selects on the device; the host does not synchronise before `passing`.

    Args:
        decoder: that decodes the chunks.
        frame: of the crop.
        threshold: predicted IoU must be above it; 0 keeps all.
        points: total number of points; the buffer has room for all of their masks.
        device: of the decoder.
    """

    def __init__(self, decoder: GridDecoder, frame: Frame, threshold: float, *, points: int, device: torch.device) -> None:
        self.decoder, self.frame, self.threshold = decoder, frame, threshold
        self.bin = points * POINT_MASKS  # an additional row, for the masks that do not pass
        self.logits = torch.empty(self.bin + 1, frame.y.n_low, frame.x.n_low, device=device)
        self.predicted = torch.empty(self.bin + 1, device=device)
        self.point = torch.empty(self.bin + 1, dtype=torch.int64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)

    def add(self, decoded: Decoded, first: int, real: int) -> None:
        """See `Collector`."""
        predicted = decoded.predicted_iou
        number = torch.arange(len(predicted), device=predicted.device)[:, None].expand_as(predicted)
        passes = (_passes(predicted, self.threshold) & (number < real)).flatten()
        slot = torch.where(passes, self.count + passes.cumsum(0) - 1, self.bin)
        logits = self.decoder.all_logits(decoded, self.frame.token_rows, self.frame.token_columns)
        self.logits.index_copy_(0, slot, logits.flatten(0, 1))
        self.predicted.index_copy_(0, slot, predicted.flatten())
        self.point.index_copy_(0, slot, first + number.flatten())
        self.count += passes.sum()
        self.finite &= predicted.isfinite().all()

    def passing(self) -> Survivors | None:
        """See `Collector`."""
        count, finite, predicted, point = fetch(self.count, self.finite, self.predicted, self.point)  # the one wait
        _check(bool(finite))
        n = int(count)
        return Survivors(self.logits[:n].clone(), predicted[:n], point[:n]) if n else None  # a view would keep the whole buffer


_Scores = TypeVar("_Scores", Tensor, np.ndarray)


def _passes(predicted: _Scores, threshold: float) -> _Scores:
    """Whether each predicted IoU passes: bool of the same shape."""
    return predicted > (threshold if threshold > 0 else -torch.inf)


def _check(finite: bool) -> None:
    if not finite:
        raise WeightsError("the mask decoder's predicted IoU has NaN or infinity: its weights are damaged; download them again")
