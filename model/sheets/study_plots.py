"""The plots of a study, by matplotlib (the extra `samdiff[study]`): the trade-off, and the differences with their intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import missing_package

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "samdiff study"
"""Key of the text entry of our PNG files, by which they are known again."""


@dataclass(frozen=True)
class Curve:
    """One curve: metrics of a setting with one sampler, by number of steps."""

    label: str
    steps: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """One difference with its interval."""

    label: str
    mean: float
    low: float
    high: float


def check_plots() -> None:
    """MissingPackageError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise missing_package(error, extra="study", what="the plots of a study") from error


def tradeoff(curves: Sequence[Curve], *, x_label: str, y_label: str, title: str) -> bytes:
    """A PNG of all curves, each point labelled with its number of steps."""
    figure = _figure(9, 6.5)
    axes = figure.subplots()
    for curve in curves:
        (line,) = axes.plot(curve.x, curve.y, marker="o", markersize=4, linewidth=1.3, label=curve.label)
        for steps, x, y in zip(curve.steps, curve.x, curve.y, strict=True):
            axes.annotate(str(steps), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7, color=line.get_color())
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(fontsize=8)
    return _png(figure)


def forest(panels: Sequence[tuple[str, Sequence[Interval]]], *, title: str) -> bytes:
    """A PNG with one panel per metric: each difference with its interval, and a line at 0."""
    rows = max((len(intervals) for _, intervals in panels), default=1)
    figure = _figure(4.5 * max(1, len(panels)), 1.6 + 0.35 * rows)
    grid = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for axes, (name, intervals) in zip(grid, panels, strict=False):
        places = range(len(intervals))
        errors = [[each.mean - each.low for each in intervals], [each.high - each.mean for each in intervals]]
        axes.errorbar([each.mean for each in intervals], places, xerr=errors, fmt="o", markersize=4, capsize=3)
        axes.axvline(0, color="0.5", linewidth=1)
        axes.set_yticks(places, [each.label for each in intervals], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    check_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot, which would look for a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={MARK: "1"})
    return out.getvalue()
