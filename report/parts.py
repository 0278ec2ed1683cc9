"""What a page shows, as frozen dataclasses of plain values: the content of the page's JSON. Pure.

Images are named by keys, see `files.ImageFiles`. All text may come from untrusted files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

from ..errors import printable

Pairs = tuple[tuple[str, str], ...]
"""(label, text) of a table."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of values in bins."""

    title: str
    label: str
    """Of the x axis, with the unit."""
    of: str
    """What is counted: `images` or `masks`."""
    edges: tuple[float, ...]
    """Of the bins: one more than counts."""
    counts: tuple[int, ...]
    logarithmic: bool = False
    """Whether the edges are equally spaced on a logarithmic axis."""
    note: str = ""
    """Such as how many values were left out."""


@dataclass(frozen=True, kw_only=True)
class DrawnImage:
    """An image of a store with its layers, all of the same size in pixels."""

    index: int
    """Row in the store."""
    thumb: str
    base: str
    """HR, as far as tiles cover it."""
    lr: str
    masks: str
    """Transparent where no mask is, like the next two."""
    edges: str
    structure: str
    width: int
    """Of the layers, which may be reduced."""
    height: int
    tiles: tuple[tuple[int, int], ...]
    """(y, x) of each tile in HR pixels."""
    points: tuple[tuple[float, ...], ...]
    """Label, x, y (in HR pixels, inside the mask), area, predicted IoU, stability of the largest masks."""
    coverage: float
    """Fraction of the pixels inside any mask."""


@dataclass(frozen=True, kw_only=True)
class StorePart:
    """A store."""

    title: str
    facts: Pairs
    numbers: Pairs
    """The most important ones."""
    settings: Pairs
    notes: tuple[str, ...]
    tile: int
    """HR pixels."""
    scale: int
    histograms: tuple[Histogram, ...]
    names: tuple[str, ...]
    """Of all images; the next tuples have the same length."""
    widths: tuple[int, ...]
    heights: tuple[int, ...]
    masks: tuple[int, ...]
    tiles: tuple[int, ...]
    skipped: Mapping[str, str]
    """Row of a skipped image (as text) -> reason."""
    drawn: tuple[DrawnImage, ...]
    kind: str = "store"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values by step."""

    plot: str
    """Curves of the same name are in one plot."""
    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    reference: bool = False
    """Drawn dashed, such as bicubic upsampling."""


@dataclass(frozen=True, kw_only=True)
class ValidationImage:
    """A validation image over time."""

    name: str
    bicubic: str
    hr: str
    width: int
    height: int
    results: tuple[tuple[str, int, str], ...]
    """(stage, step, key of the image)."""


@dataclass(frozen=True, kw_only=True)
class RunPart:
    """A training run."""

    title: str
    numbers: Pairs
    facts: Pairs
    settings: Pairs
    notes: tuple[str, ...]
    curves: tuple[Curve, ...]
    images: tuple[ValidationImage, ...]
    kind: str = "run"


@dataclass(frozen=True, kw_only=True)
class ResultImage:
    """An image of an evaluation with the results of all methods."""

    benchmark: str
    name: str
    width: int
    height: int
    reduced: bool
    """Whether the images are smaller than the results, so that their pixels are not exact."""
    results: tuple[tuple[str, str, str], ...]
    """(method, key of the image, key of its difference map; empty without HR). HR is one of the methods."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPart:
    """An evaluation."""

    title: str
    numbers: Pairs
    facts: Pairs
    notes: tuple[str, ...]
    metrics: tuple[str, ...]
    lower_is_better: tuple[str, ...]
    digits: Mapping[str, int]
    """Metric -> decimals."""
    summary: tuple[tuple[str, str, tuple[float | None, ...], tuple[float | None, ...]], ...]
    """(benchmark, method, means, standard errors), in the order of `metrics`."""
    rows: tuple[tuple[str, str, str, tuple[float | None, ...]], ...]
    """(benchmark, image, method, values)."""
    skipped: Pairs
    images: tuple[ResultImage, ...]
    kind: str = "evaluation"


Part = StorePart | RunPart | EvaluationPart


def as_text(value: object) -> str:
    """A value of a JSON file as one line for people."""
    if isinstance(value, dict):
        return "; ".join(f"{printable(key)}: {as_text(each)}" for key, each in value.items())
    return ", ".join(map(as_text, value)) if isinstance(value, list) else printable(value)


def as_values(value: object) -> object:
    """A part as JSON values: dataclasses become objects, NaN and infinity null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_values(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_values(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_values(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
