"""What a page shows of a training run: curves of its log, validation images over time, settings, time and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, ImageError, printable
from ..model.checkpoints.plain import read_object, read_object_file
from ..model.inference.image_io import open_image
from ..pipeline.prepare.info import bytes_text
from ..pipeline.storage.regular import read_regular
from ..progress import duration
from .files import ImageFiles
from .layers import as_rgb8, fit, lossless_png, resized
from .parts import Curve, Pairs, RunPart, ValidationImage, as_text
from .stores import flat

Line = Mapping[str, object]
"""A line of `log.jsonl`."""

LOG_FILE, CONFIG_FILE, SHEETS_FOLDER = "log.jsonl", "config.json", "visualization"
MOST_LOG_BYTES = 256 << 20
MOST_POINTS = 2000
"""Points of a curve; of a longer log, the means of neighbouring points are shown."""
_SHEET = re.compile(r"(.+)_(rrdb|diffusion)_([0-9]{1,15})\.png", re.DOTALL)
_VALIDATED = {
    "psnr_y": "PSNR on Y (dB)",
    "ssim_y": "SSIM on Y",
    "lpips": "LPIPS (lower is better)",
    "dists": "DISTS (lower is better)",
}
"""Metric of a validation -> name of its plot."""


def read_run(
    folder: Path, files: ImageFiles, *, images: int, side: int, advance: Callable[[], object] = lambda: None
) -> RunPart:
    """A run's folder as a part of a page.

    Args:
        folder: of the run; it may be unfinished.
        files: gets the images.
        images: how many validation sheets to take.
        side: longest side of an image in pixels.
        advance: called after each sheet.

    Raises:
        ConfigError: the settings or the log cannot be read.
    """
    try:
        settings = read_object_file(folder / CONFIG_FILE)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{printable(folder / CONFIG_FILE)}: expected the settings of a run ({printable(error)})") from error
    lines, damaged = read_log(folder / LOG_FILE)
    shown, notes = validation_images(folder / SHEETS_FOLDER, files, images=images, side=side, advance=advance)
    if damaged:
        notes = (*notes, f"{damaged} lines of {LOG_FILE} could not be read and are left out.")
    if not lines:
        notes = (*notes, f"{LOG_FILE} has no lines yet: no curves are shown.")
    elif not any("validation" in line for line in lines):
        notes = (
            *notes,
            "The run has no validation, so there is no PSNR or SSIM. To get them, train with --benchmark, or set validate.images, "
            "which holds out at most a tenth of the store's images.",
        )
    return RunPart(
        title=printable(folder),
        numbers=_numbers(lines),
        facts=_facts(lines, settings),
        settings=tuple(flat(settings)),
        notes=notes,
        curves=tuple(curves(lines)),
        images=shown,
    )


def read_log(file: Path) -> tuple[list[Line], int]:
    """The lines of a log, and the number of lines that are not JSON objects with a stage and a step. No log is an empty one.

    Raises:
        ConfigError: it cannot be read, or has more than 256 MB.
    """
    if not file.exists():
        return [], 0
    try:
        data = read_regular(file, MOST_LOG_BYTES)
    except OSError as error:
        raise ConfigError(f"{printable(file)}: cannot be read ({error.strerror or error})") from error
    lines: list[Line] = []
    damaged = 0
    for text in data.splitlines():
        try:
            line = read_object(text)
        except ValueError:
            damaged += 1
            continue
        if isinstance(line.get("stage"), str) and _is_number(line.get("step")):
            lines.append(line)
        else:
            damaged += 1
    return lines, damaged


def curves(lines: Sequence[Line]) -> list[Curve]:
    """The curves of a log: loss, learning rate and speed by stage, metrics of validations by stage and benchmark, with those of bicubic."""
    made = []
    training = {
        "loss": "Loss",
        "lr": "Learning rate",
        "samples_per_s": "Samples per second",
        "peak_memory_mb": "Peak memory (MB)",
    }
    stages = list(dict.fromkeys(str(line["stage"]) for line in lines))
    for key, plot in training.items():
        made += [_curve(plot, stage, _of(lines, key, stage=stage)) for stage in stages]
    names = list(dict.fromkeys(str(line["validation"]) for line in lines if "validation" in line))
    for key, plot in _VALIDATED.items():
        for name in names:
            bicubic: list[tuple[int, float]] = []
            for stage in stages:
                made.append(_curve(plot, f"{printable(name)}, {stage}", _of(lines, key, stage=stage, validation=name)))
                bicubic += _of(lines, f"bicubic_{key}", stage=stage, validation=name)
            made.append(_curve(plot, f"{printable(name)}, bicubic", sorted(bicubic), reference=True))
    return [curve for curve in made if curve.steps]


def validation_images(
    folder: Path, files: ImageFiles, *, images: int, side: int, advance: Callable[[], object]
) -> tuple[tuple[ValidationImage, ...], tuple[str, ...]]:
    """The validation images of a run, and notes on what is left out. A sheet is bicubic, result and HR side by side."""
    if images < 1 or not folder.is_dir():
        return (), ()
    sheets: dict[str, list[tuple[str, int, Path]]] = {}
    for file in sorted(folder.glob("*/*/*.png")):
        match = _SHEET.fullmatch(file.name)
        if match and match[1] == file.parent.name:
            sheets.setdefault(f"{file.parent.parent.name}/{match[1]}", []).append((match[2], int(match[3]), file))
    shown, left, problems = [], images, []
    for name, own in sheets.items():
        own.sort(key=lambda each: (each[0] != "rrdb", each[1]))
        taken = own[-left:] if left else []
        left -= len(taken)
        try:
            if taken:
                shown.append(_validation_image(name, taken, files, side=side))
        except ImageError as error:
            problems.append(printable(error))
        for _ in taken:
            advance()
    total = sum(map(len, sheets.values()))
    notes = [f"{images} of {total} validation sheets are shown; --images N shows more."] if total > images else []
    return tuple(shown), (*notes, *problems)


def _validation_image(name: str, sheets: Sequence[tuple[str, int, Path]], files: ImageFiles, side: int) -> ValidationImage:
    results = []
    for stage, step, file in sheets:
        sheet = as_rgb8(open_image(file))
        height, width = sheet.shape[0], sheet.shape[1] // 3
        shown = fit(height, width, side)
        bicubic, result, hr = (
            files.add(lossless_png(resized(sheet[:, k * width : (k + 1) * width], *shown)), "png") for k in range(3)
        )
        results.append((stage, step, result))
    return ValidationImage(
        name=printable(name), bicubic=bicubic, hr=hr, width=shown[1], height=shown[0], results=tuple(results)
    )


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most `most` points: if there are more, the means of groups of neighbours, at the last step of each group."""
    if len(points) <= most:
        return list(points)
    groups = np.array_split(np.arange(len(points)), most)
    return [(points[group[-1]][0], float(np.mean([points[k][1] for k in group]))) for group in groups]


def _curve(plot: str, name: str, points: Sequence[tuple[int, float]], reference: bool = False) -> Curve:
    kept = thinned(points)
    values = tuple(float(f"{value:.6g}") for _, value in kept)
    return Curve(plot=plot, name=printable(name), steps=tuple(step for step, _ in kept), values=values, reference=reference)


def _of(lines: Sequence[Line], key: str, stage: str, validation: str | None = None) -> list[tuple[int, float]]:
    """(step, value) of the lines of a stage that have a finite value; of a step that a resumed run did again, the last."""
    found: dict[int, float] = {}
    for line in lines:
        value = line.get(key)
        if line["stage"] == stage and line.get("validation") == validation and _is_number(value):
            found[int(line["step"])] = float(value)  # type: ignore[call-overload, arg-type]
    return sorted(found.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(lines: Sequence[Line]) -> Pairs:
    """The last values of the run."""
    numbers = []
    for stage in dict.fromkeys(str(line["stage"]) for line in lines):
        losses = _of(lines, "loss", stage=stage)
        if losses:
            numbers.append((f"{printable(stage)} steps", f"{losses[-1][0]:,}"))
            numbers.append((f"{printable(stage)} loss", f"{losses[-1][1]:.4f}"))
    validations = [line for line in lines if "validation" in line]
    if validations:
        last = validations[-1]
        for key, label in (("psnr_y", "PSNR on Y"), ("ssim_y", "SSIM on Y"), ("lpips", "LPIPS")):
            if _is_number(last.get(key)):
                value = float(last[key])  # type: ignore[arg-type]
                numbers.append((label, f"{value:.2f} dB" if key == "psnr_y" else f"{value:.4f}"))
    return tuple(numbers)


def _facts(lines: Sequence[Line], settings: Mapping[str, object]) -> Pairs:
    train = settings.get("train")
    batch = train.get("batch") if isinstance(train, dict) else None
    facts = []
    for stage in dict.fromkeys(str(line["stage"]) for line in lines):
        seconds, before = 0.0, 0
        for step, rate in _of(lines, "samples_per_s", stage=stage):
            if rate > 0 and _is_number(batch):
                seconds += (step - before) * float(batch) / rate  # type: ignore[arg-type]
            before = step
        if seconds:
            facts.append((f"time of {printable(stage)}", f"{duration(seconds)}, without validation and saving"))
        skipped = _of(lines, "skipped", stage=stage)
        if skipped and skipped[-1][1]:
            facts.append((f"{printable(stage)} steps skipped", f"{skipped[-1][1]:.0f}, whose loss was not finite"))
        memory = _of(lines, "peak_memory_mb", stage=stage)
        if memory:
            facts.append((f"peak memory of {printable(stage)}", bytes_text(max(value for _, value in memory) * 1e6)))
    if lines and not any("peak_memory_mb" in line for line in lines):
        facts.append(("peak memory", "not recorded in this log"))
    facts += [(key, as_text(settings[key])) for key in ("stores", "versions", "threads") if settings.get(key)]
    return tuple(facts)
