"""What `samdiff masks` does around a segmenter: lists images, decides which files are written, draws one sheet per image."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from ...errors import ConfigError, ImageError, SamdiffError, printable
from ...pipeline.encode.mask_table import MaskTable
from ...pipeline.encode.structure import encode_structure
from ...pipeline.images.decode import Decoded, read_ahead
from ...pipeline.images.inputs import inputs_of_folder
from ...pipeline.images.listing import is_image_name
from ...pipeline.images.sources import ImageFile, list_source
from ...pipeline.storage.outputs import Outputs, folder_problem, place_problem, sweep_outputs, write_output
from ...runtime import progress
from ..inference.image_io import FORMATS, save_image
from .contact_sheet import contact_sheet
from .overlay import mask_overlay, structure_panel

log = logging.getLogger(__name__)

SUFFIX = "_masks"


class Segmenter(Protocol):
    """The part of `MaskGenerator` that is used here."""

    def generate_batch(self, images: Iterable[np.ndarray], /) -> Iterator[MaskTable]:
        """Masks of each image, in order."""


@dataclass(frozen=True)
class MaskJob:
    """One image and the files that are made from it."""

    image: ImageFile
    target: Path
    """The drawing."""
    records: Path | None = None
    """The records as JSON; None: not written."""
    problem: str = ""
    """Why the image cannot be used or a file cannot be written, if that is known beforehand."""

    @property
    def source(self) -> str:
        """The image for messages: its path, or that of its archive with its name inside."""
        return self.image.path if self.image.member is None else f"{self.image.path}/{self.image.name}"


@dataclass(frozen=True)
class MaskResult:
    """What became of one image."""

    source: str
    target: Path
    records: Path | None
    status: str
    """`written` or `skipped`."""
    reason: str = ""
    """Why it was skipped."""
    size: tuple[int, int] | None = None
    """Width and height."""
    masks: int = 0
    area_median: int | None = None
    """Pixels; None without masks."""
    covered: float = 0.0
    """Share of pixels that lie in a mask, 0..1."""
    e_sam: tuple[float, float] | None = None
    """Least and greatest value of E_SAM."""
    seconds: float = 0.0
    """Wall time of the segmenter; the mean over the images that were segmented together."""
    notes: tuple[str, ...] = ()
    """What decoding changed."""

    def line(self, how: str) -> str:
        """One line for people, not for `skipped`; `how`: segmenter, mode and device."""
        sizes = (
            ": an image without structure has none"
            if self.area_median is None
            else f", {self.area_median} pixels in the median"
        )
        return f"{self.target}: {self.masks} masks{sizes}, {self.covered:.0%} covered, {self.seconds:.1f} s ({how})"


def list_mask_inputs(sources: Sequence[str | Path], *, recursive: bool, out: Path | None) -> tuple[list[ImageFile], bool]:
    """The images of folders, archives and files, and whether it is one image that was given by its own name.

    Drawings that an earlier run left beside their images in a folder, and everything below `out`, are not inputs.

    Raises:
        ImageError: a source does not exist, cannot be read, or holds no image.
        ConfigError: an empty name.
    """
    found: dict[tuple[str, int | None], ImageFile] = {}
    for source in sources:
        if not os.fspath(source):  # an empty variable in a shell
            raise ConfigError("masks: expected a file, folder or archive, got an empty name; for the current folder write .")
        if os.path.isdir(source):
            chosen = [
                ImageFile(str(PurePosixPath(file.inside, file.name)), str(file.path), problem=file.problem)
                for file in inputs_of_folder(Path(source), SUFFIX, recursive=recursive, out=out)[0]
            ]
        else:
            chosen = list_source(source)
        for image in chosen:
            found.setdefault((os.path.abspath(image.path), image.member), image)
    single = len(sources) == 1 and is_image_name(Path(sources[0]).name) and not os.path.isdir(sources[0])
    return list(found.values()), single


def plan_mask_files(
    images: Sequence[ImageFile], out: Path | None, records: Path | None, *, read: Iterable[Path] = (), overwrite: bool = False
) -> list[MaskJob]:
    """Decide which files are written for many images; a file that may not be written is its image's `problem`.

    Args:
        images: from `list_mask_inputs`.
        out: folder of the drawings; None: the current folder.
        records: folder of the records; None: none are written.
        read: more files that the run reads.
        overwrite: whether files that exist may be replaced.

    Raises:
        ConfigError: `out` or `records` is no folder, or two images would become one file.
    """
    for option, folder in (("--out", out), ("--records", records)):
        if (
            folder is not None
            and not folder.is_dir()
            and (os.path.lexists(folder) or folder.suffix.lower() in (*FORMATS, ".json"))
        ):
            raise ConfigError(f"{option}: {len(images)} images cannot go to one file {printable(folder)}; give a folder")
        probe = Path(folder or "", f"{SUFFIX}.png")  # a folder that cannot be written is an error of the run, not of each image
        if (folder is not None or option == "--out") and (reason := folder_problem(probe.parent) or place_problem(probe)):
            raise ConfigError(f"{option} {printable(probe.parent)}: {reason.replace('--out', option)}")
    guard = Outputs([*(Path(image.path) for image in images), *read], overwrite)
    jobs = []
    for image in images:
        name = PurePosixPath(image.name)
        target = Path(out or "", name.parent, f"{name.stem}{SUFFIX}.png")
        job = MaskJob(image, target, records and Path(records, name.parent, f"{name.stem}.json"))
        jobs.append(MaskJob(image, target, job.records, problem=image.problem or _problem(job, guard)))
    double = guard.clash([path for job in jobs for path in (job.target, job.records) if path is not None])
    if double is not None:
        raise ConfigError(f"--out: two of the images would both become {printable(double)}; rename one, or run them apart")
    sweep_outputs(path for job in jobs for path in (job.target, job.records) if path is not None)
    return jobs


def _problem(job: MaskJob, guard: Outputs) -> str:
    for option, path in (("--out", job.target), ("--records", job.records)):
        if path is not None and (reason := guard.problem(path) or folder_problem(path.parent) or place_problem(path)):
            return f"{printable(path)} {reason.replace('--out', option)}"
    return ""


def draw_masks(
    generator: Segmenter,
    jobs: Sequence[MaskJob],
    *,
    how: str,
    group: int = 1,
    overwrite: bool = False,
    report: Callable[[str], object] = lambda _: None,
    on_result: Callable[[MaskResult], object] = lambda _: None,
) -> list[MaskResult]:
    """Segment and draw images. A failure is the result of its image and does not stop the others.

    Args:
        generator: the segmenter.
        jobs: from `plan_mask_files`.
        how: segmenter, mode and device, for the lines and captions.
        group: images that are segmented together.
        overwrite: whether files that exist may be replaced.
        report: called with a line for each image that was drawn, and for each note on it.
        on_result: called with what became of each image: first of those with a `problem`, then of the others as soon as they are finished.

    Raises:
        SamdiffError: the only image failed.
    """
    results = {number: unused(job) for number, job in enumerate(jobs) if job.problem}
    for result in results.values():
        on_result(result)
    work = [(number, job) for number, job in enumerate(jobs) if not job.problem]
    bar = progress(desc="masks", total=len(jobs), unit="image", initial=len(jobs) - len(work))
    read = zip(work, (each for _, each in read_ahead([job.image for _, job in work])), strict=True)
    while several := list(islice(read, group)):
        for (number, job), decoded, table, seconds in _segment(generator, several):
            try:
                if isinstance(table, Exception):
                    raise table
                assert isinstance(decoded, Decoded)
                results[number] = _draw(job, decoded, table, seconds=seconds, how=how, overwrite=overwrite)
            except Exception as error:  # noqa: BLE001 - any error is reported for this image, and the others are drawn
                if len(jobs) == 1:
                    bar.close()
                    if isinstance(error, SamdiffError) and not str(error).startswith(printable(job.source)):
                        raise type(error)(f"{printable(job.source)}: {error}") from error  # decoding does not know the file
                    raise
                results[number] = _failed(job, _reason(job, error))
            else:
                bar.clear()
                for note in decoded.notes:
                    report(f"{job.image.name}: {note}")
                report(results[number].line(how))
            on_result(results[number])
            bar.update()
    bar.close()
    return [results[number] for number in range(len(jobs))]


Item = tuple[tuple[int, MaskJob], Decoded | ImageError]


def _segment(
    generator: Segmenter, items: Sequence[Item]
) -> Iterator[tuple[tuple[int, MaskJob], Decoded | ImageError, MaskTable | Exception, float]]:
    """The masks of a few images; if they fail together, each is tried alone, so that the error is that of its image."""
    good = [decoded.pixels for _, decoded in items if isinstance(decoded, Decoded)]
    start = time.perf_counter()
    made: list[MaskTable | Exception] = []
    try:
        made += generator.generate_batch(good)
    except Exception as error:  # noqa: BLE001 - see `draw_masks`
        made = [error] if len(good) == 1 else [_alone(generator, pixels) for pixels in good]
    seconds, tables = (time.perf_counter() - start) / max(len(good), 1), iter(made)
    for which, decoded in items:
        yield which, decoded, decoded if isinstance(decoded, ImageError) else next(tables), seconds


def _alone(generator: Segmenter, pixels: np.ndarray) -> MaskTable | Exception:
    try:
        return next(generator.generate_batch([pixels]))
    except Exception as error:  # noqa: BLE001 - see `draw_masks`
        return error


def _draw(job: MaskJob, decoded: Decoded, table: MaskTable, *, seconds: float, how: str, overwrite: bool) -> MaskResult:
    """Write the files of one image."""
    structure = encode_structure(table.counts, table.height, table.width)
    covered, e_sam = float((structure.labels > 0).mean()), structure.e_sam()
    low, high = float(e_sam.min()), float(e_sam.max())
    name = Path(job.image.name).name
    panels = [
        (f"{name}\n{table.width} x {table.height}", decoded.pixels),
        (
            f"{len(table)} masks over {covered:.0%} of the image\n{how.rpartition(', ')[0]}, {seconds:.1f} s",
            mask_overlay(structure.labels, decoded.pixels),
        ),
        (f"E_SAM, {low:.2f} to {high:.2f}\nmean of x_RoPE over each mask", structure_panel(e_sam, structure.labels)),
    ]
    job.target.parent.mkdir(parents=True, exist_ok=True)
    save_image(contact_sheet(panels, columns=3, width=640), job.target, overwrite=overwrite)
    if job.records is not None:
        write_output(job.records, json.dumps(table.records()).encode(), overwrite)
    return MaskResult(
        job.source,
        job.target,
        job.records,
        "written",
        size=(table.width, table.height),
        masks=len(table),
        area_median=int(np.median(table.area)) if len(table) else None,
        covered=covered,
        e_sam=(low, high),
        seconds=round(seconds, 3),
        notes=decoded.notes,
    )


def unused(job: MaskJob) -> MaskResult:
    """The result of a job with a `problem`."""
    return _failed(job, job.problem)


def _failed(job: MaskJob, reason: str) -> MaskResult:
    return MaskResult(job.source, job.target, job.records, "skipped", reason=reason)


def _reason(job: MaskJob, error: Exception) -> str:
    """Why an image failed; the traceback of an exception that is not ours is logged for `-vv`."""
    if isinstance(error, SamdiffError):
        return str(error)
    log.debug("%s", printable(job.source), exc_info=error)
    return f"failed with an unexpected error ({type(error).__name__}: {printable(' '.join(str(error).split()))[:300]})"
