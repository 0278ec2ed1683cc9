"""Upscales many files: what `samdiff infer` does around a model."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import ConfigError, ImageError, SamdiffError, printable
from ...pipeline.decoding.pillow_modes import eight_bit, sixteen_bit
from ...pipeline.images.inputs import InputFile, header_size, inputs_of_folder
from ...pipeline.images.inputs import list_inputs as list_inputs
from ...pipeline.storage.outputs import EXISTS, ITSELF, Outputs, folder_problem, place_problem, sweep_outputs, try_place
from ...pipeline.storage.regular import read_regular
from ...progress import TotalTime
from ...runtime import progress
from ..checkpoints.publish import checkpoint_files
from ..infer_config import FORMATS, InferConfig
from ..infer_config import OutputConfig as OutputConfig
from ..samples.raster_file import read_sample_file, upscale_raster
from .image_io import MAX_BYTES, has_provenance, is_result, plan_write, read_image_file, write_planned
from .result_file import provenance as provenance
from .upscaler import Upscaler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One output file to be written."""

    source: Path
    """The input."""
    target: Path
    """The output."""
    problem: str = ""
    """Why it cannot be written, if that is known beforehand: words that follow the target's name."""
    unreadable: str = ""
    """Why its source cannot be read, if that is known from the listing."""


@dataclass(frozen=True)
class FileResult:
    """What became of one input."""

    source: Path
    """The input."""
    target: Path
    """The output."""
    status: str
    """`written`, `kept` (an output of the same input, model and settings was there), `skipped`, or `planned` by a dry run."""
    reason: str = ""
    """Why it was skipped."""
    size: tuple[int, int] | None = None
    """Width and height of the input, if it was read."""
    output_size: tuple[int, int] | None = None
    """Width and height of the output, if it was written."""
    notes: tuple[str, ...] = ()
    """What reading or writing changed or left out."""
    seconds: float | None = None
    """Wall time from reading to writing, if it was written."""

    def line(self) -> str:
        """One line for people, not for `skipped`."""
        if self.status == "planned" and (self.size is None or self.output_size is None):
            return f"{self.source} -> {self.target}"
        if self.size is None or self.output_size is None:
            return f"kept {self.target}, made from {self.source} before"
        (width, height), (large_width, large_height) = self.size, self.output_size
        line = f"{self.source} {width} x {height} -> {self.target} {large_width} x {large_height}"
        return f"{line} ({printable('; '.join(self.notes))})" if self.notes else line


def foreign_results(inputs: Sequence[str | Path], suffix: str, recursive: bool = False, out: Path | None = None) -> list[Path]:
    """Files that `list_inputs` skips because their names end like results, but that samdiff did not write. They must not be overwritten."""
    folders = [Path(given) for given in inputs if os.path.isdir(given)]
    results = [file for folder in folders for file in inputs_of_folder(folder, suffix, recursive=recursive, out=out)[1]]
    return [file.path for file in results if not is_result(file.path)]


def plan_outputs(inputs: Sequence[InputFile | Path], settings: OutputConfig, read: Iterable[Path] = ()) -> list[Job]:
    """Decide which output is written for which input, before anything is computed.

    An output is never an input of the same run: a job for which it would be has the reason in `problem`.

    Args:
        inputs: from `list_inputs`, or paths.
        settings: where the results go.
        read: more files that the run reads, such as the checkpoint's.

    Raises:
        ConfigError: several inputs for one file, two inputs for one name, an unknown format, one input whose output may not be written, or
            no folder in which a file can be made.
    """
    out = settings.out
    files = [file if isinstance(file, InputFile) else InputFile(file) for file in inputs]
    if settings.is_file() and len(inputs) > 1:
        raise ConfigError(f"--out: {len(inputs)} images cannot go to one file {out}; give a folder")
    if out is not None and not settings.is_file() and out.suffix and not out.is_dir():
        raise ConfigError(f"--out: expected a folder or a file ending in {', '.join(FORMATS)}, got {out}")
    name = f"{settings.ending}.{settings.format or 'png'}"
    targets = [
        out
        if settings.is_file() and out is not None
        else (out / file.inside if out is not None else file.path.parent) / f"{file.path.stem}{name}"
        for file in files
    ]
    guard = Outputs([*(file.path for file in files), *read], settings.overwrite, resumes=True)
    double = guard.clash(targets)
    if double is not None:
        raise ConfigError(f"--out: two of the images would both become {printable(double)}; rename one, or run them apart")
    jobs = [
        Job(file.path, target, guard.problem(target, file.path), unreadable=file.problem)
        for file, target in zip(files, targets, strict=True)
    ]
    if len(jobs) == 1 and jobs[0].unreadable:
        raise ImageError(f"{printable(jobs[0].source)}: {jobs[0].unreadable}")
    if len(jobs) == 1 and jobs[0].problem:
        raise ConfigError(f"{printable(jobs[0].target)}: {jobs[0].problem}")
    _check_folders(jobs)
    return jobs


def _check_folders(jobs: Sequence[Job]) -> None:
    """ConfigError if no file of the run can be written, since none of their folders can: one error, not one per image."""
    first = {job.target.parent: job.target for job in reversed(jobs) if not job.problem and not job.unreadable}
    reasons: list[str] = []
    for folder, target in reversed(first.items()):
        reason = folder_problem(folder) or place_problem(target)
        if not reason:
            return
        reasons.append(f"{printable(folder)}: {reason}")
    if reasons:
        more = f" (and {len(reasons) - 1} more folders)" if len(reasons) > 1 else ""
        raise ConfigError(f"--out {reasons[0]}{more}")


def upscale_files(
    model: Upscaler,
    jobs: Sequence[Job],
    settings: InferConfig,
    output: OutputConfig,
    report: Callable[[str], None],
    on_result: Callable[[FileResult], object] = lambda _: None,
) -> dict[str, str]:
    """Upscale the files of `plan_outputs`. Returns name -> reason for the inputs that failed; a failure does not stop the others.

    `report` is called with a line for each file that was written or kept, `on_result` with what became of each file. An output that exists is kept if its provenance shows the same input, model and settings, so the same command resumes.

    Raises:
        ConfigError: settings that do not fit the model.
        ImageError: the only input cannot be read, or its output cannot be written.
    """
    settings = model.resolve(settings)
    model.sampling_plan(settings)  # an error before the first image
    guard = Outputs([*(job.source for job in jobs), *checkpoint_files(Path(model.name))], output.overwrite)
    sweep_outputs(job.target for job in jobs)
    bar = progress(desc="images", total=len(jobs), unit="%")
    advance = TotalTime(bar, sizes=[math.prod(header_size(job.source) or (0,)) for job in jobs], report=report)
    failed: dict[str, str] = {}
    for number, job in enumerate(jobs, start=1):
        begun = time.monotonic()
        bar.set_description(printable(job.source.name) + (f" {number}/{len(jobs)}" if len(jobs) > 1 else ""))
        try:
            result = _unchanged(model, job, settings, output=output)
            if result is None:
                result = _upscale_file(model, job, settings, output=output, guard=guard, on_progress=advance)
                result = replace(result, seconds=round(time.monotonic() - begun, 3))
        except Exception as error:  # noqa: BLE001 - any other error is reported for this file, and the other files are processed
            known = isinstance(error, SamdiffError)
            if len(jobs) == 1:
                bar.close()
                if known:
                    raise
                raise _unexpected(job.source, error) from error
            reason = str(error if known else _unexpected(job.source, error))
            result = FileResult(job.source, job.target, "skipped", reason=reason.removeprefix(f"{printable(job.source)}: "))
            failed[str(job.source)] = result.reason
        else:
            bar.clear()
            report(result.line())
        on_result(result)
        advance.finish(number)
    bar.close()
    return failed


def planned_results(model: Upscaler, jobs: Sequence[Job], settings: InferConfig, output: OutputConfig) -> list[FileResult]:
    """What `upscale_files` would do with the files, without doing it: the status of those that it would write is `planned`.

    Only the headers of images are read where they state the size, so that a damaged image may be among them; an output that exists is compared with its input's hash.

    Raises:
        ConfigError: settings that do not fit the model.
    """
    settings = model.resolve(settings)
    model.sampling_plan(settings)
    return [_planned(model, job, settings, output=output) for job in jobs]


def _planned(model: Upscaler, job: Job, settings: InferConfig, output: OutputConfig) -> FileResult:
    try:
        unchanged = _unchanged(model, job, settings, output=output)
        size = header_size(job.source) if model.samples.is_rgb8 else None
        if size is None and unchanged is None:  # not an image of the usual formats, so it is read as a run would read it
            rgb8 = model.samples.is_rgb8
            values = read_image_file(job.source).pixels if rgb8 else read_sample_file(job.source, model.samples).values
            size = (values.shape[1], values.shape[0])
    except ImageError as error:
        reason = str(error).removeprefix(f"{printable(job.source)}: ")
        return FileResult(job.source, job.target, "skipped", reason=reason)
    large = size and (size[0] * model.scale, size[1] * model.scale)
    return unchanged or FileResult(job.source, job.target, "planned", size=size, output_size=large)


def _unchanged(model: Upscaler, job: Job, settings: InferConfig, output: OutputConfig) -> FileResult | None:
    """The result of a job for which nothing is written, as its output exists; None if it is to be done. ImageError if it cannot be."""
    if job.unreadable:
        raise ImageError(job.unreadable)
    if job.problem == EXISTS:
        return _kept(model, job, settings, output=output)
    if job.problem:
        raise ImageError(job.problem if job.problem == ITSELF else f"{printable(job.target)} {job.problem}")
    return None


def _unexpected(source: Path, error: Exception) -> ImageError:
    """An ImageError for an exception that is not ours; its traceback is logged for `-vv`."""
    log.debug("%s", printable(source), exc_info=error)
    what = printable(" ".join(str(error).split()))[:300]
    return ImageError(f"{printable(source)}: failed with an unexpected error ({type(error).__name__}: {what})")


def _upscale_file(
    model: Upscaler,
    job: Job,
    settings: InferConfig,
    output: OutputConfig,
    guard: Outputs,
    on_progress: Callable[[float], object],
) -> FileResult:
    _check_place(job, guard)
    if not model.samples.is_rgb8:
        sizes, notes = upscale_raster(
            job.source,
            job.target,
            samples=model.samples,
            scale=model.scale,
            upscale=partial(model.upscale, settings=settings, on_progress=on_progress),
            origin=_origin(model, job.source, settings, output=output) if output.provenance else {},
            overwrite=output.overwrite,
        )
        guard.wrote(job.target)
        return FileResult(job.source, job.target, "written", size=sizes[0], output_size=sizes[1], notes=notes)
    source = read_image_file(job.source, output.to_srgb)
    pixels = source.pixels if output.bits == 8 and source.pixels.dtype.kind == "u" else sixteen_bit(source.pixels)
    height, width, *bands = pixels.shape
    origin = _origin(model, job.source, settings, output=output) if output.provenance else {}
    dtype = np.uint16 if output.bits == 16 else np.uint8
    large = (height * model.scale, width * model.scale, *bands)
    plan = plan_write(job.target, large, dtype, source=source, origin=origin)  # before hours of work
    result = model.upscale(pixels, settings, on_progress=on_progress)
    _check_target(job, guard)  # again: hours may have passed
    lost = write_planned(result if output.bits == 16 else eight_bit(result), plan, output.overwrite)
    guard.wrote(job.target)
    return FileResult(
        job.source,
        job.target,
        "written",
        size=(width, height),
        output_size=(large[1], large[0]),
        notes=(*source.notes, *plan.notes, *lost),
    )


def _kept(model: Upscaler, job: Job, settings: InferConfig, output: OutputConfig) -> FileResult:
    """Keep an output that exists already. ImageError if it may differ from what would be written."""
    if not output.provenance:
        raise ImageError(f"{job.target} {EXISTS} (with --no-provenance samdiff cannot check whether this command wrote it)")
    try:
        if not job.source.is_file():  # a FIFO would never end
            raise ImageError(f"{job.source}: there is no such file, or it is no regular file")
        same = has_provenance(job.target, _origin(model, job.source, settings, output=output))
    except OSError as error:
        raise ImageError(f"{job.source}: cannot be read ({error.strerror or error})") from error
    if not same:
        raise ImageError(f"{job.target} was not made from this input by this model with these settings, and {EXISTS}")
    return FileResult(job.source, job.target, "kept")


def _origin(model: Upscaler, source: Path, settings: InferConfig, output: OutputConfig) -> dict[str, str]:
    """`provenance` with the hash of the input: everything that determines the pixels of the file."""
    origin = provenance(model, settings)
    origin["samdiff-settings"] += ", 16 bits" if output.bits == 16 else ""
    origin["samdiff-settings"] += ", colours converted to sRGB" if output.to_srgb else ""
    return {**origin, "samdiff-input": f"sha256 {hashlib.sha256(read_regular(source, MAX_BYTES)).hexdigest()[:16]}"}


def _check_target(job: Job, guard: Outputs) -> None:
    if reason := guard.problem(job.target, job.source):
        raise ImageError(f"{printable(job.target)} {reason}")


def _check_place(job: Job, guard: Outputs) -> None:
    """Check that the file may and can be written, before hours of work."""
    _check_target(job, guard)
    try:
        try_place(job.target)
    except OSError as error:
        raise ImageError(
            f"{printable(job.target)}: cannot be written ({error.strerror or error}); give another --out, or free or unlock the place"
        ) from error
