"""Metrics of a model, bicubic upsampling and the RRDB on benchmarks, by named protocols.

| metric | protocol |
|---|---|
| psnr_y, ssim_y | the field's tables: Y of BT.601 (16 … 235, not rounded), borders of `scale` pixels cropped |
| psnr_y_full, ssim_y_full | the official SAM-DiffSR code: the same without cropping |
| psnr_rgb | RGB, borders of `scale` pixels cropped |
| psnr_lr | consistency: the result downsampled by MATLAB's bicubic against LR, RGB, not cropped |
| ldl | mean of LDL's artifact map (see `ldl.py`), with the RRDB's image as reference; lower is better |

Models of measured values are evaluated by the metrics of `samples/range_metrics.py` instead, with the range of their store.

Grey HR files are evaluated on grey values, with grey LR. SAM-DiffSR's own "artifact" measure has no published definition.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import printable
from ...pipeline.degrade.imresize import imresize
from ...pipeline.scientific.sample_format import RGB8, SampleFormat
from ..inference.image_io import save_image
from ..names import DIGITS
from ..samples.range_metrics import range_metrics, range_psnr
from .benchmark import Pair
from .ldl import LDL_SIDE, artifact_map
from .metrics import SSIM_SIDE, mean_of_defined, psnr, psnr_y, ssim_y
from .perceptual import FolderMetric, ImageMetric, Measures

if TYPE_CHECKING:
    from .unfinished import Unfinished

Upscale = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Row:
    """The metrics of one image, or of a whole benchmark (such as FID), by one method."""

    benchmark: str
    """Name of the folder."""
    image: str
    """Name of the image; empty for the whole benchmark."""
    method: str
    """bicubic, rrdb or samdiff; a network of one step has no rrdb."""
    seed: int
    """Of the sample; 0 for the deterministic methods."""
    metrics: Mapping[str, float]
    """Metric -> value."""


def methods(seeds: Sequence[int], *, has_rrdb: bool = True) -> list[str]:
    """The method names that `evaluate` passes to `on_image`."""
    return ["bicubic", *(["rrdb"] if has_rrdb else []), *(f"samdiff-seed{seed}" for seed in seeds)]


def undefined_metrics(pair: Pair, scale: int) -> list[tuple[str, str]]:
    """(metric, reason) for the metrics that an image is too small for; their values are NaN."""
    side, shaved = min(pair.hr.shape[:2]), min(pair.hr.shape[:2]) - 2 * scale
    needs = {
        "psnr_y": (1, shaved),
        "ssim_y": (SSIM_SIDE, shaved),
        "ssim_y_full": (SSIM_SIDE, side),
        "psnr_rgb": (1, shaved),
        "ldl": (LDL_SIDE, side),
    }
    height, width = pair.hr.shape[:2]
    return [
        (
            name,
            f"{name} needs {least} pixels per side{' after cropping the border' if got == shaved else ''}, the image has {width} x {height}",
        )
        for name, (least, got) in needs.items()
        if got < least
    ]


def metrics_of(
    sr: np.ndarray,
    pair: Pair,
    scale: int,
    reference: np.ndarray | None,
    extras: Mapping[str, ImageMetric],
    samples: SampleFormat = RGB8,
) -> dict[str, float]:
    """All metrics of one result.

    Args:
        sr: the result, like `pair.hr`.
        pair: LR and HR.
        scale: s.
        reference: the stable result for LDL's map (the RRDB's image); None: without this metric.
        extras: more metrics by name, of (result, HR), such as LPIPS; for 8-bit RGB only.
        samples: of all images.
    """
    if not samples.is_rgb8:
        back, (height, width) = imresize(np.ascontiguousarray(sr), 1 / scale), pair.lr.shape[:2]
        own = range_metrics(sr, pair.hr, samples, scale=scale, valid=pair.valid)
        blocks = None if pair.valid is None else pair.valid.reshape(height, scale, width, scale).min(axis=(1, 3))
        return own | {"psnr_lr": range_psnr(back, pair.lr, samples, blocks)}
    hr, back = pair.hr, imresize(np.ascontiguousarray(sr), 1 / scale)
    tiny = {name for name, _ in undefined_metrics(pair, scale)}
    ours = {
        "psnr_y": psnr_y(sr, hr, scale),
        "ssim_y": ssim_y(sr, hr, scale),
        "psnr_y_full": psnr_y(sr, hr, 0),
        "ssim_y_full": ssim_y(sr, hr, 0),
        "psnr_rgb": psnr(sr, hr, scale),
        "psnr_lr": psnr(back, pair.lr),
    }
    if reference is not None:
        ours["ldl"] = math.nan if "ldl" in tiny else float(artifact_map(sr, hr, reference).mean())
    return ours | {name: measure(sr, hr) for name, measure in extras.items()}


def evaluate(
    pairs: Sequence[Pair],
    benchmark: str,
    scale: int,
    regress: Callable[[np.ndarray], np.ndarray] | None,
    upscale: Upscale,
    seeds: Sequence[int],
    extras: Measures | None = None,
    on_image: Callable[[str, str, np.ndarray], None] = lambda *_: None,
    unfinished: Unfinished | None = None,
    samples: SampleFormat = RGB8,
    on_row: Callable[[Row], object] = lambda _: None,
) -> list[Row]:
    """Evaluate bicubic upsampling, the RRDB and samples of all seeds on a benchmark.

    Args:
        pairs: see `read_pairs`.
        benchmark: its name.
        scale: s.
        regress: LR -> the RRDB's image; None: the model has no RRDB.
        upscale: (LR, seed) -> sample.
        seeds: of the samples.
        extras: more metrics, see `load_measures`.
        on_image: called with image name, method and result, to save it or show progress.
        unfinished: the finished images of an interrupted evaluation, and the place to record new ones. Not used if `extras` has
            metrics of whole folders, which need all results.
        samples: of all images.
        on_row: called with the metrics of each result as soon as they are known, also with those that were finished before.
    """
    rows: list[Row] = []
    more = extras or Measures()
    kept = None if more.folders else unfinished
    with tempfile.TemporaryDirectory() as scratch:
        for number, pair in enumerate(pairs):
            before = kept.rows(benchmark, pair) if kept else None
            if before is not None:
                rows += before
                for row in before:
                    on_row(row)
                continue
            first, rrdb = len(rows), None if regress is None else regress(pair.lr)
            made = [("bicubic", 0, imresize(pair.lr, scale)), *([] if rrdb is None else [("rrdb", 0, rrdb)])]
            made += [("samdiff", seed, upscale(pair.lr, seed)) for seed in seeds]
            for method, seed, sr in made:
                rows.append(
                    Row(
                        benchmark,
                        pair.name,
                        method,
                        seed=seed,
                        metrics=metrics_of(sr, pair, scale, reference=rrdb, extras=more.images, samples=samples),
                    )
                )
                on_row(rows[-1])
                if more.folders:
                    save_image(sr, Path(scratch, f"{method}-{seed}", f"{number}.png"))
                on_image(pair.name, method if method != "samdiff" else f"{method}-seed{seed}", sr)
            made_now = rows[first:]
            if kept and not any(
                math.isnan(value) for row in made_now for value in row.metrics.values()
            ):  # so that its reason is reported again
                kept.finished(benchmark, pair, made_now)
            if more.folders:
                save_image(pair.hr, Path(scratch, "HR", f"{number}.png"))
        return rows + (_of_folders(rows, Path(scratch), more.folders) if more.folders else [])


def _of_folders(rows: Sequence[Row], folder: Path, measures: Mapping[str, FolderMetric]) -> list[Row]:
    """A row for the whole benchmark per method and seed."""
    return [
        Row(
            benchmark,
            "",
            method,
            seed=seed,
            metrics={name: of(folder / f"{method}-{seed}", folder / "HR") for name, of in measures.items()},
        )
        for benchmark, method, seed in dict.fromkeys((row.benchmark, row.method, row.seed) for row in rows)
    ]


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def summarise(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """(benchmark, method) -> metric -> (mean over the images and seeds, standard error over the seeds' means; NaN for one seed)."""
    summary: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for key in dict.fromkeys((row.benchmark, row.method) for row in rows):
        own = [row for row in rows if (row.benchmark, row.method) == key]
        seeds = sorted({row.seed for row in own})
        summary[key] = {}
        for name in _names(own):
            each = [[row.metrics[name] for row in own if row.seed == seed and name in row.metrics] for seed in seeds]
            means = [mean_of_defined(values) for values in each]
            with np.errstate(invalid="ignore"):  # infinite values
                error = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
            summary[key][name] = (float(np.mean(means)), error)
    return summary


def lr_lines(lr_from: Mapping[str, str]) -> list[str]:
    """The source of the LR images, one line per benchmark."""
    return [f"LR of {printable(benchmark)}: {printable(source)}" for benchmark, source in lr_from.items()]


def as_markdown(
    summary: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]], models: Mapping[str, str] | None = None
) -> str:
    """A table, one line per benchmark and method; ± is the standard error over seeds.

    Args:
        summary: see `summarise`.
        models: metric -> its exact model, listed below the table.
    """
    names = list(next(iter(summary.values())))
    lines = ["| benchmark | method | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for (benchmark, method), metrics in summary.items():
        cells = []
        for name in names:
            mean, error = metrics[name]
            digits = DIGITS.get(name, 3)
            cells.append(f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}"))
        lines.append(f"| {printable(benchmark)} | {printable(method)} | " + " | ".join(cells) + " |")
    notes = [f"{printable(name)}: {printable(model)}" for name, model in (models or {}).items()]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def as_csv(rows: Sequence[Row]) -> str:
    """One line per image, method and seed; rows for the whole benchmark have no image name."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["benchmark", "picture", "method", "seed", *_names(rows)])
    for row in rows:
        cells = [f"{row.metrics[name]:.6f}" if name in row.metrics else "" for name in _names(rows)]
        writer.writerow([printable(row.benchmark), printable(row.image), row.method, row.seed, *cells])
    return out.getvalue()


def as_json(rows: Sequence[Row], facts: Mapping[str, object]) -> str:
    """Facts about the run, all rows and the summary; null for NaN and infinity, which JSON lacks."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    summary = [
        {"benchmark": printable(benchmark), "method": method}
        | {name: {"mean": number(mean), "standard_error": number(error)} for name, (mean, error) in metrics.items()}
        for (benchmark, method), metrics in summarise(rows).items()
    ]
    lines = [
        {"benchmark": printable(row.benchmark), "picture": printable(row.image), "method": row.method, "seed": row.seed}
        | {name: number(value) for name, value in row.metrics.items()}
        for row in rows
    ]
    return json.dumps({**facts, "summary": summary, "pictures": lines}, indent=1)
