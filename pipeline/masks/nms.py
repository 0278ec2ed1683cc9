"""Selects the masks of one crop among its candidates: stability, edges, box NMS, with few computations at full resolution. Pure.

Segment-anything measures every candidate, then runs box NMS by descending predicted IoU. Here NMS runs while measuring: a candidate
that its bounds show to be suppressed or unstable is not measured. The result is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from segment_anything.utils.amg import is_box_near_crop_edge, remove_small_regions
from torch import Tensor
from torchvision.ops import nms

from ..encode.mask_table import MaskTable
from ..encode.rle import area, box, decode, encode
from .host_copy import fetch
from .interpolation import Frame
from .measure import Bounds, Thresholds, bound, measure, runs
from .settings import MaskConfig

_TOGETHER = 16
"""Candidates per step: more need fewer synchronisations, but measure some that a neighbour would have suppressed."""
_TOGETHER_CUDA = 64


@dataclass(frozen=True)
class Facts:
    """Box, stability and runs of a measured candidate."""

    box: np.ndarray
    """int64 [4]: x0, y0, x1, y1 in the crop, inclusive."""
    stability: np.float32
    counts: np.ndarray | None = None
    """Runs in the whole image, uint32 [r]; None while the logits are still in the pool."""


@dataclass(frozen=True)
class CropContext:
    """Position of a crop in its image, and the interpolation of its logits."""

    frame: Frame
    crop: tuple[int, int, int, int]
    """x0, y0, x1, y1 in the image, half-open."""
    image: tuple[int, int]
    """H, W of the image."""
    cut: Thresholds


@dataclass
class Pool:
    """Candidates of one crop above the threshold of predicted IoU, in the order of the points."""

    place: CropContext
    settings: MaskConfig
    max_bytes: int
    """Bound on the bytes of logits; beyond it all candidates are measured, and only the stable ones are kept, as runs."""
    candidates: list[Tensor | Facts] = field(default_factory=list)
    """Logits float32 [u, v] of each candidate, or its facts."""
    predicted_iou: list[np.float32] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    """float64 [2] each: (x, y) in the crop."""
    _bytes: int = 0

    @property
    def together(self) -> int:
        """Candidates per step."""
        return _TOGETHER_CUDA if self.place.frame.y.matrix.is_cuda else _TOGETHER

    def add(self, logits: Tensor, predicted_iou: np.ndarray, points: np.ndarray) -> None:
        """Append n candidates: logits float32 [n, u, v], predicted IoU float32 [n], points float64 [n, 2]."""
        self.candidates += logits.unbind()
        self.predicted_iou += list(predicted_iou)
        self.points += list(points)
        self._bytes += logits.numel() * 4
        if self._bytes > self.max_bytes:
            self._settle()

    def _settle(self) -> None:
        """Measure every candidate; drop the unstable ones, which suppress no others, and the logits of the stable ones."""
        stay = []
        nobody = np.zeros((0, 4), np.int64)
        for start in range(0, len(self.candidates), self.together):
            numbers = list(range(start, min(start + self.together, len(self.candidates))))
            steady = [
                (k, facts) for k, facts in measure_some(self, numbers, nobody) if is_stable(facts.stability, self.settings)
            ]
            for (k, facts), counts in zip(steady, all_runs(self, steady), strict=True):
                self.candidates[k] = replace(facts, counts=counts)
                stay.append(k)
        self.candidates = [self.candidates[k] for k in stay]
        self.predicted_iou = [self.predicted_iou[k] for k in stay]
        self.points = [self.points[k] for k in stay]
        self._bytes = 0


@dataclass(frozen=True)
class Kept:
    """The selected masks of one crop, by descending predicted IoU."""

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


def choose(pool: Pool) -> Kept:
    """The candidates that segment-anything would keep of one crop."""
    scores, settings = np.array(pool.predicted_iou, np.float32), pool.settings
    order = np.argsort(-scores, kind="stable")  # ties in the order of the points, as torchvision's nms
    kept: list[tuple[int, Facts]] = []
    boxes = np.zeros((0, 4), np.int64)
    for start in range(0, len(order), pool.together):
        for k, facts in measure_some(pool, order[start : start + pool.together].tolist(), boxes):
            if not is_stable(facts.stability, settings) or _near_edge(facts.box, pool.place):
                continue
            if bool((overlap(facts.box, boxes) > settings.box_nms_thresh).any()):
                continue
            kept.append((k, facts))
            boxes = np.concatenate([boxes, facts.box[None]])
    numbers = [k for k, _ in kept]
    return Kept(
        all_runs(pool, kept),
        boxes,
        predicted_iou=scores[numbers],
        stability=np.array([facts.stability for _, facts in kept], np.float32),
        points=np.array([pool.points[k] for k in numbers]).reshape(-1, 2),
    )


def is_stable(stability: np.float32, settings: MaskConfig) -> bool:
    """Whether a mask passes the threshold of stability; NaN (an empty mask) passes only the threshold 0."""
    return settings.stability_score_thresh == 0 or bool(stability >= settings.stability_score_thresh)


def measure_some(pool: Pool, numbers: list[int], boxes: np.ndarray) -> list[tuple[int, Facts]]:
    """Facts of those candidates that their bounds do not rule out, in order; `boxes` [M, 4] are of the masks selected so far."""
    raw = {k: logits for k in numbers if isinstance(logits := pool.candidates[k], Tensor)}
    known = {k: facts for k in numbers if isinstance(facts := pool.candidates[k], Facts)}
    if raw:
        frame, cut, settings = pool.place.frame, pool.place.cut, pool.settings
        logits = torch.stack(list(raw.values()))
        bounds = bound(logits, frame, cut)
        host, may_pass, straddling = fetch(
            torch.cat([bounds.box_inner, bounds.box_outer], dim=1), bounds.stability, bounds.straddling
        )
        alive = [
            n
            for n, box in enumerate(host)
            if (settings.stability_score_thresh == 0 or may_pass[n] >= settings.stability_score_thresh)
            and not bool((least_overlap(box[:4], box[4:], boxes) > settings.box_nms_thresh).any())
        ]
        chosen = torch.tensor(alive, dtype=torch.int64, device=logits.device)
        fewer = Bounds(*(getattr(bounds, item.name)[chosen] for item in fields(Bounds)))
        exact = measure(logits[chosen], fewer, n_cells=int(straddling[alive].sum()), frame=frame, cut=cut)
        for n, box, stability in zip(alive, *fetch(exact.box, exact.stability), strict=True):
            known[list(raw)[n]] = Facts(box, stability)
    return [(k, known[k]) for k in numbers if k in known]


def all_runs(pool: Pool, measured: list[tuple[int, Facts]]) -> list[np.ndarray]:
    """Runs of measured candidates in the whole image, uint32 [r] each."""
    place, missing = pool.place, [(k, facts) for k, facts in measured if facts.counts is None]
    raw = [(logits, facts.box.tolist()) for k, facts in missing if isinstance(logits := pool.candidates[k], Tensor)]
    made = iter(runs(raw, place.frame, place.cut, corner=place.crop[:2], size=place.image))
    return [next(made) if facts.counts is None else facts.counts for _, facts in measured]


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of a box [4] with boxes [M, 4] as in torchvision's nms: float32 [M]; sides are x1 - x0; NaN for two empty boxes."""
    a, b = box.astype(np.float32), boxes.astype(np.float32)
    sides = np.maximum(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0)
    shared = sides[:, 0] * sides[:, 1]
    with np.errstate(invalid="ignore"):
        return shared / (_size(a[None]) + _size(b) - shared)


def least_overlap(inner: np.ndarray, outer: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Lower bound, float32 [M], of the IoU with boxes [M, 4] of any box between `inner` and `outer` [4]; 1e-4 less for rounding."""
    a, b = inner.astype(np.float32), boxes.astype(np.float32)
    if a[2] < a[0]:
        return np.zeros(len(boxes), np.float32)
    sides = np.maximum(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0)
    shared = sides[:, 0] * sides[:, 1]
    with np.errstate(invalid="ignore"):
        return shared / (_size(outer.astype(np.float32)[None]) + _size(b) - shared) - 1e-4


def _size(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _near_edge(box: np.ndarray, place: CropContext) -> bool:
    height, width = place.image
    return bool(is_box_near_crop_edge(torch.from_numpy(box[None]), list(place.crop), [0, 0, width, height])[0])


def drop_duplicates(table: MaskTable, threshold: float) -> MaskTable:
    """Box NMS between crops, in which the smaller crop wins (segment-anything, `_generate_masks`)."""
    x0, y0, x1, y1 = table.crop_box.T.astype(np.int64)
    score = 1 / torch.from_numpy((x1 - x0) * (y1 - y0))
    return table.take(nms(_inclusive(table.box), score, threshold).numpy())


def clean_regions(table: MaskTable, min_area: int, threshold: float) -> MaskTable:
    """Fill holes and drop islands below `min_area` pixels, then box NMS in which unchanged masks win (`postprocess_small_regions`)."""
    counts, changed = [], []
    for before in table.counts:
        mask = decode(before, table.height, table.width)
        mask, holes = remove_small_regions(mask, min_area, mode="holes")
        mask, islands = remove_small_regions(mask, min_area, mode="islands")
        counts.append(encode(mask) if holes or islands else before)
        changed.append(holes or islands)
    boxes = np.array([box(runs, table.height) for runs in counts], np.int32).reshape(-1, 4)
    areas = np.array([area(runs) for runs in counts], np.int64)
    score = 1 - torch.tensor(changed, dtype=torch.float32)
    kept = nms(_inclusive(boxes), score, threshold).numpy()
    return replace(table, counts=counts, box=boxes, area=areas).take(kept)


def _inclusive(boxes: np.ndarray) -> torch.Tensor:
    """Half-open int boxes as segment-anything's: the last pixel, not the one after it; an empty mask has zeros."""
    return torch.from_numpy(boxes - (boxes[:, 2:3] > 0) * np.array([0, 0, 1, 1], np.int32)).float()
