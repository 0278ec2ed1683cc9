"""Which masks of a chunk of points go on, chunk by chunk; two ways with the same result. Pure, given a decoder.

`EagerFilter` asks the host after each chunk: on a CPU that costs nothing, and masks below the threshold are never upscaled. `StaticFilter` lets
the device decide: every mask is upscaled, those that pass move to the front of one buffer, and the host learns how many there are
when the last chunk is through. Its shapes depend on the settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

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
    """int64 [n]: number of the point that it is of."""


class Collector(Protocol):
    """Takes decoded chunks, gives what passes."""

    def add(self, decoded: Decoded, first: int, real: int) -> None:
        """A chunk that begins at point `first`; its points after the first `real` ones are padding."""

    def passing(self) -> Survivors | None:
        """All that passed, None if nothing did.

        Raises:
            WeightsError: predicted IoU is not finite.
        """


class EagerFilter:
    """The host decides after each chunk; only what passes is upscaled.

    Args:
        decoder: that decodes the chunks.
        frame: of the crop.
        threshold: predicted IoU must be above it; 0 keeps all.
    """

    def __init__(self, decoder: GridDecoder, frame: Frame, threshold: float) -> None:
        self.decoder, self.frame, self.threshold = decoder, frame, threshold
        self._found: list[tuple[Tensor, np.ndarray, np.ndarray]] = []

    def add(self, decoded: Decoded, first: int, real: int) -> None:
        """See `Collector`."""
        predicted = decoded.predicted_iou[:real].cpu().numpy()
        _check(bool(np.isfinite(predicted).all()))
        point, mask = np.nonzero(_passes(predicted, self.threshold))
        if len(point):
            rows, columns = self.frame.token_rows, self.frame.token_columns
            logits = self.decoder.logits(decoded, point.tolist(), mask.tolist(), rows, columns)
            self._found.append((logits, predicted[point, mask], first + point))

    def passing(self) -> Survivors | None:
        """See `Collector`."""
        if not self._found:
            return None
        logits, predicted, point = zip(*self._found, strict=True)
        return Survivors(logits[0] if len(logits) == 1 else torch.cat(logits), np.concatenate(predicted), np.concatenate(point))


class StaticFilter:
    """The device decides; nothing waits before `passing`.

    Args:
        decoder: that decodes the chunks.
        frame: of the crop.
        threshold: predicted IoU must be above it; 0 keeps all.
        points: how many there will be in all: the buffer holds all of their masks.
        device: of the decoder.
    """

    def __init__(self, decoder: GridDecoder, frame: Frame, threshold: float, points: int, device: torch.device) -> None:
        self.decoder, self.frame, self.threshold = decoder, frame, threshold
        self.bin = points * POINT_MASKS  # one row more than there can be masks: all that does not pass goes there
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


def _passes(predicted: Any, threshold: float) -> Any:
    """Tensor or array, bool of the same shape."""
    return predicted > (threshold if threshold > 0 else -torch.inf)


def _check(finite: bool) -> None:
    if not finite:
        raise WeightsError("the mask decoder's predicted IoU holds NaN or infinity: its weights are damaged; load them again")
