"""What a page shows of an evaluation: its table, the metrics of each image, and the results side by side with HR."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, ImageError, brief, printable
from ..model.inference.image_io import open_image
from ..model.names import DIGITS, HR
from ..pipeline.storage.regular import read_regular
from .files import ImageFiles
from .layers import as_rgb8, difference_layer, fit, lossless_png, resized
from .parts import EvaluationPart, Pairs, ResultImage, as_text

METRICS_FILE, UNFINISHED_FILE, IMAGES_FOLDER = "figures.json", "unfinished.jsonl", "pictures"
MOST_BYTES = 256 << 20
_KEYS = {"benchmark", "picture", "method", "seed"}
_HIGHER = ("psnr", "ssim", "maniqa", "musiq", "clipiqa", "topiq", "hyperiqa", "dbcnn", "nima")
"""Beginnings of the names of metrics whose higher values are better."""

_SHOWN = {"psnr_y": ("PSNR on Y", 2, " dB"), "lpips": ("LPIPS", 3, "")}
"""Metrics at the top of the page: label, decimals, unit."""

Values = tuple[float | None, ...]
Row = tuple[str, str, str, Values]
"""Benchmark, image, method, values of the metrics."""


def read_evaluation(
    folder: Path, files: ImageFiles, *, images: int, side: int, advance: Callable[[], object] = lambda: None
) -> EvaluationPart:
    """The folder of `samdiff evaluate` as a part of a page.

    Args:
        folder: with `figures.json`; and with `pictures`, if the images were saved.
        files: gets the images.
        images: for how many images the results are shown: of more, the worst and the best.
        side: longest side of an image in pixels.
        advance: called after each image.

    Raises:
        ConfigError: `figures.json` cannot be read or is of another form.
    """
    content = _read(folder / METRICS_FILE)
    lines, summary = _objects(content, "pictures"), _objects(content, "summary")
    metrics = tuple(dict.fromkeys(key for line in lines for key in line if key not in _KEYS))
    rows = tuple(_row(line, metrics) for line in lines)
    chosen, found = chosen_images(rows, metrics, images), 0
    shown, problems = [], []
    for benchmark, name in chosen:
        try:
            results = _saved(folder / IMAGES_FOLDER, benchmark, name)
            if results:
                found += 1
                shown.append(_result_image(benchmark, name, results, files=files, side=side))
        except (ImageError, OSError) as error:
            problems.append(printable(error))
        advance()
    return EvaluationPart(
        title=printable(folder),
        numbers=_numbers(summary),
        facts=_facts(content),
        notes=(*_notes(found, chosen=len(chosen), total=len(_images(rows)), shown=shown), *problems),
        metrics=metrics,
        lower_is_better=tuple(name for name in metrics if not name.startswith(_HIGHER)),
        digits={name: DIGITS.get(name, 3) for name in metrics},
        summary=tuple(_summary_row(line, metrics) for line in summary),
        rows=rows,
        skipped=_skipped(content),
        images=tuple(shown),
    )


def chosen_images(rows: Sequence[Row], metrics: Sequence[str], count: int) -> list[tuple[str, str]]:
    """(benchmark, name) of at most `count` images: all, or half of them the worst and half the best by the first metric of samdiff."""
    everything = _images(rows)
    if len(everything) <= count:
        return everything
    scores: dict[tuple[str, str], list[float]] = {}
    for benchmark, image, method, values in rows:
        if method.startswith("samdiff") and values and values[0] is not None:
            scores.setdefault((benchmark, image), []).append(values[0])
    better = -1.0 if metrics and not metrics[0].startswith(_HIGHER) else 1.0
    ordered = sorted(everything, key=lambda image: better * float(np.mean(scores.get(image, [0.0]))))
    return [*ordered[: -(-count // 2)], *ordered[len(ordered) - count // 2 :]]


def _images(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((benchmark, image) for benchmark, image, _, _ in rows if image))


def _read(file: Path) -> Mapping[str, object]:
    try:
        content = json.loads(read_regular(file, MOST_BYTES))
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(
            f"{printable(file)}: expected the metrics of samdiff evaluate, got a file that cannot be read ({printable(error)})"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{printable(file)}: expected the metrics of samdiff evaluate, got {brief(content)}")
    return content


def _objects(content: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    value = content.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ConfigError(f"{METRICS_FILE}: {key}: expected a list of objects, got {brief(value)}; evaluate again")
    return value


def _row(line: Mapping[str, object], metrics: Sequence[str]) -> Row:
    method = printable(line.get("method", ""))
    name = f"{method}-seed{printable(line.get('seed', 0))}" if method == "samdiff" else method
    values = tuple(_number(line.get(metric)) for metric in metrics)
    return printable(line.get("benchmark", "")), printable(line.get("picture", "")), name, values


def _summary_row(line: Mapping[str, object], metrics: Sequence[str]) -> tuple[str, str, Values, Values]:
    cells = [line.get(metric) for metric in metrics]
    means, errors = (
        tuple(_number(cell.get(key)) if isinstance(cell, dict) else None for cell in cells)
        for key in ("mean", "standard_error")
    )
    return printable(line.get("benchmark", "")), printable(line.get("method", "")), means, errors


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _saved(folder: Path, benchmark: str, name: str) -> dict[str, Path]:
    """Method -> file of the saved results of an image. `figures.json` has printable names, so those of the disk are compared in that form."""
    for place in _entries(folder):
        if printable(place.name) == benchmark and place.is_dir():
            break
    else:
        return {}
    found = {}
    for file in _entries(place):
        stem = printable(file.stem)
        method = stem.removeprefix(f"{name}_")
        known = method in ("bicubic", "rrdb", HR) or (method.startswith("samdiff-seed") and method[12:].isdigit())
        if stem != method and known and file.suffix == ".png":
            found[method] = file
    order = ["bicubic", "rrdb", *sorted(each for each in found if each.startswith("samdiff")), HR]
    return {method: found[method] for method in order if method in found}


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _result_image(benchmark: str, name: str, results: Mapping[str, Path], *, files: ImageFiles, side: int) -> ResultImage:
    pixels = {method: as_rgb8(open_image(file)) for method, file in results.items()}
    sizes = {image.shape for image in pixels.values()}
    if len(sizes) > 1:
        raise ImageError(f"{benchmark}/{name}: the saved images have different sizes; evaluate again")
    height, width, _ = sizes.pop()
    shown = fit(height, width, side)
    truth = pixels.get(HR)
    entries = []
    for method, image in pixels.items():
        difference = "" if truth is None or method == HR else files.add(_reduced_difference(image, truth, shown), "png")
        entries.append((method, files.add(lossless_png(resized(image, *shown)), "png"), difference))
    return ResultImage(
        benchmark=benchmark,
        name=name,
        width=shown[1],
        height=shown[0],
        reduced=shown != (height, width),
        results=tuple(entries),
    )


def _reduced_difference(image: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> bytes:
    return difference_layer(resized(image, *size), resized(truth, *size))


def _numbers(summary: Sequence[Mapping[str, object]]) -> Pairs:
    """Mean PSNR and LPIPS of samdiff and their difference from bicubic, of each benchmark."""
    means: dict[tuple[str, str, str], float] = {}
    for line in summary:
        for metric in _SHOWN:
            cell = line.get(metric)
            mean = _number(cell.get("mean")) if isinstance(cell, dict) else None
            if mean is not None:
                means[printable(line.get("benchmark", "")), str(line.get("method")), metric] = mean
    numbers = []
    for (benchmark, method, metric), mean in means.items():
        label, digits, unit = _SHOWN[metric]
        bicubic = means.get((benchmark, "bicubic", metric))
        if method == "samdiff":
            than = "" if bicubic is None else f", {mean - bicubic:+.{digits}f} to bicubic"
            numbers.append((f"{benchmark}: {label}{than}", f"{mean:.{digits}f}{unit}"))
    return tuple(numbers[:6])


def _facts(content: Mapping[str, object]) -> Pairs:
    facts = [(key, content[key]) for key in content if key not in ("summary", "pictures", "skipped")]
    return tuple((printable(key), as_text(value)) for key, value in facts if value not in ({}, [], None))


def _skipped(content: Mapping[str, object]) -> Pairs:
    skipped = content.get("skipped")
    return tuple((printable(name), as_text(reason)) for name, reason in skipped.items()) if isinstance(skipped, dict) else ()


def _notes(found: int, *, chosen: int, total: int, shown: Sequence[ResultImage]) -> tuple[str, ...]:
    notes = []
    if chosen and not found:
        notes.append("The evaluation has no images: samdiff evaluate --save keeps them, and then they can be compared here.")
    elif chosen < total:
        notes.append(f"The images of the {chosen} worst and best of {total} are shown; --images N shows more.")
    if shown and not any(method == HR for image in shown for method, _, _ in image.results):
        notes.append("HR was not saved with these results, so there are no difference maps: evaluate again with --save.")
    if reduced := [image.name for image in shown if image.reduced]:
        notes.append(f"{len(reduced)} images are larger than --result-side and are shown reduced: their pixels are not exact.")
    return tuple(notes)
