"""From candidate masks of one crop to the ones that stay: stability, edges, box NMS, in as few full-resolution steps as possible. Pure.

Segment-anything measures every candidate, then runs box NMS by descending predicted IoU. Here the walk comes first: a candidate
that bounds show to be suppressed or unstable is never measured. The result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from segment_anything.utils.amg import is_box_near_crop_edge
from torch import Tensor

from .enlarge import Frame
from .mask_settings import MaskSettings
from .postprocess import Bounds, Measured, Thresholds, bound, measure, runs

_TOGETHER = 16
"""Candidates looked at together: more means fewer waits for the device, and some that a neighbour would have suppressed."""


@dataclass
class Pool:
    """Candidates above the threshold of predicted IoU, in the order of the points."""

    logits: list[Tensor] = field(default_factory=list)
    """float32 [n, u, v] each."""
    predicted_iou: list[np.ndarray] = field(default_factory=list)
    """float32 [n] each."""
    points: list[np.ndarray] = field(default_factory=list)
    """float64 [n, 2] each: (x, y) in the crop."""

    def add(self, logits: Tensor, predicted_iou: np.ndarray, points: np.ndarray) -> None:
        """Append n candidates."""
        self.logits.append(logits)
        self.predicted_iou.append(predicted_iou)
        self.points.append(points)


@dataclass(frozen=True)
class Kept:
    """Masks of one crop that stay, by descending predicted IoU."""

    counts: list[np.ndarray]
    """Runs of each in the whole image, uint32 [r]."""
    boxes: np.ndarray
    """int64 [M, 4]: x0, y0, x1, y1 in the crop, inclusive."""
    predicted_iou: np.ndarray
    """float32 [M]."""
    stability: np.ndarray
    """float32 [M]."""
    points: np.ndarray
    """float64 [M, 2]: (x, y) in the crop."""


def choose(
    pool: Pool, frame: Frame, settings: MaskSettings, cut: Thresholds, crop: Sequence[int], image: Sequence[int]
) -> Kept:
    """The candidates that segment-anything would keep of one crop.

    Args:
        pool: candidates.
        frame: of the crop.
        settings: thresholds.
        cut: thresholds of the logits.
        crop: x0, y0, x1, y1 of the crop in the image, half-open.
        image: the same of the image itself.
    """
    scores = np.concatenate([np.zeros(0, np.float32), *pool.predicted_iou])
    where = [(k, n) for k, part in enumerate(pool.predicted_iou) for n in range(len(part))]
    order = np.argsort(-scores, kind="stable")  # ties in the order of the points, as torchvision's nms
    kept: list[int] = []
    boxes, stability, counts = np.zeros((0, 4), np.int64), [], []
    for start in range(0, len(order), _TOGETHER):
        some = order[start : start + _TOGETHER]
        logits = torch.stack([pool.logits[where[k][0]][where[k][1]] for k in some])
        alive, measured = _measure_some(logits, boxes, frame, settings, cut)
        for n, k in enumerate(alive):
            box, steady = measured.box[n], measured.stability[n]
            if settings.stability_score_thresh > 0 and not steady >= settings.stability_score_thresh:
                continue
            if _near_edge(box, crop, image) or bool((overlap(box, boxes) > settings.box_nms_thresh).any()):
                continue
            kept.append(int(some[k]))
            boxes = np.concatenate([boxes, box[None]])
            stability.append(steady)
            counts.append(runs(logits[k], box.tolist(), frame, cut, (crop[0], crop[1]), (image[3], image[2])))
    return Kept(
        counts, boxes, scores[kept], np.array(stability, np.float32), np.concatenate([np.zeros((0, 2)), *pool.points])[kept]
    )


@dataclass(frozen=True)
class _OnHost:
    box: np.ndarray
    stability: np.ndarray


def _measure_some(
    logits: Tensor, boxes: np.ndarray, frame: Frame, settings: MaskSettings, cut: Thresholds
) -> tuple[list[int], _OnHost]:
    """Which of n candidates bounds cannot rule out, and their facts."""
    bounds = bound(logits, frame, cut)
    host = torch.cat([bounds.box_inner, bounds.box_outer], dim=1).cpu().numpy()
    steady = (bounds.stability.cpu().numpy() >= settings.stability_score_thresh) | (settings.stability_score_thresh == 0)
    alive = [
        n
        for n, inner_outer in enumerate(host)
        if steady[n] and not bool((least_overlap(inner_outer[:4], inner_outer[4:], boxes) > settings.box_nms_thresh).any())
    ]
    chosen = torch.tensor(alive, dtype=torch.int64, device=logits.device)
    fewer = Bounds(*(getattr(bounds, name)[chosen] for name in Bounds.__dataclass_fields__))
    found: Measured = measure(logits[chosen], fewer, frame, cut)
    return alive, _OnHost(found.box.cpu().numpy(), found.stability.cpu().numpy())


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of a box [4] with boxes [M, 4] as torchvision's nms has it: float32 [M]; sides are x1 - x0; NaN for two empty boxes."""
    a, b = box.astype(np.float32), boxes.astype(np.float32)
    sides = np.maximum(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0)
    shared = sides[:, 0] * sides[:, 1]
    with np.errstate(invalid="ignore"):
        return shared / (_size(a[None]) + _size(b) - shared)


def least_overlap(inner: np.ndarray, outer: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Smallest IoU that any box between `inner` and `outer` [4] can have with boxes [M, 4]: float32 [M], less a little."""
    a, b = inner.astype(np.float32), boxes.astype(np.float32)
    if a[2] < a[0]:
        return np.zeros(len(boxes), np.float32)
    sides = np.maximum(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0)
    shared = sides[:, 0] * sides[:, 1]
    with np.errstate(invalid="ignore"):
        return shared / (_size(outer.astype(np.float32)[None]) + _size(b) - shared) - 1e-4


def _size(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _near_edge(box: np.ndarray, crop: Sequence[int], image: Sequence[int]) -> bool:
    return bool(is_box_near_crop_edge(torch.from_numpy(box[None]), list(crop), list(image))[0])
