"""`samdiff infer`: upscales images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import ConfigError
from ...model.infer_config import SHIPPED_FOR, InferConfig, OutputConfig, ShippedConfig
from ...settings import section
from ..common import COMMON, RUN, Checkpoint, Device, Threads, choose_checkpoint, finish, print_result, print_status, required
from ..document import Document, with_json_lines
from ..options import Chosen, configured

if TYPE_CHECKING:
    from ...model.inference.batch import FileResult
    from ...model.inference.resolver import OneStepResolver
    from ...model.inference.upscaler import Upscaler


@dataclass(frozen=True)
class InferSettings:
    """All settings of `samdiff infer`."""

    infer: InferConfig = section(InferConfig, panel="Sampling")
    output: OutputConfig = section(OutputConfig, panel="Output")
    shipped: ShippedConfig = section(ShippedConfig)


@configured(InferSettings)
@with_json_lines("image", items="images")
def infer(
    chosen: Chosen[InferSettings],
    document: Document,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Images, folders of images, or patterns such as 'in/*.png'."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", rich_help_panel=COMMON, help="Also search subfolders.")
    ] = False,
    checkpoint: Checkpoint = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=COMMON, help="A file of `samdiff export-model --only`, run by onnxruntime instead of a checkpoint."
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=RUN, help="Fail if the checkpoint has another scale.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", rich_help_panel=COMMON, help="List what would be written and how long it takes; write nothing."
        ),
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Upscale images.

    Needs neither SAM nor masks. With several images, the same command resumes an interrupted run.
    """
    chosen_settings = chosen.config()
    required("infer", IMAGE=inputs)
    assert inputs is not None
    from ...model.checkpoints.publish import checkpoint_files
    from ...model.inference.batch import (
        foreign_results,
        list_inputs,
        plan_outputs,
        planned_results,
        provenance,
        upscale_files,
    )
    from ...model.inference.upscaler import load_model
    from ...runtime import pick_device, setup_process

    setup_process(threads)
    settings, output = chosen_settings.infer, chosen_settings.output
    named = _named(chosen_settings.shipped.model, checkpoint)
    upscaler: Upscaler
    if onnx is None:
        path = choose_checkpoint(named)
        upscaler = load_model(path, pick_device(device))
    else:
        path = onnx
        upscaler = _exported(onnx, named, device)
    upscaler.expect_scale(scale)
    suffix = f"_x{upscaler.scale}" if output.suffix is None else output.suffix
    kept = output.format or ("png" if upscaler.samples.is_rgb8 else "tif")
    output = replace(output, suffix=suffix, format=kept)
    others = foreign_results(inputs, suffix, recursive=recursive, out=output.out) if output.overwrite else ()
    jobs = plan_outputs(
        list_inputs(inputs, suffix, recursive=recursive, out=output.out), output, [*checkpoint_files(path), *others]
    )
    document.content.update(checkpoint=path, scale=upscaler.scale, provenance=provenance(upscaler, settings))
    if dry_run:
        _print_plan(planned_results(upscaler, jobs, settings, output=output), upscaler, settings, document=document)
        return
    results: list[dict[str, object]] = []

    def done(result: FileResult) -> None:
        results.append(asdict(result))
        document.emit(results[-1])

    document.content["images"] = results
    finish(upscale_files(upscaler, jobs, settings=settings, output=output, report=print_status, on_result=done))


def _print_plan(results: list[FileResult], upscaler: Upscaler, settings: InferConfig, *, document: Document) -> None:
    """What a run would do, file by file, and the time that it would take."""
    from ...model.inference.memory import seconds_per_pixel
    from ...progress import duration

    document.content.update(dry_run=True, images=list(map(asdict, results)))
    for result in results:
        document.emit(asdict(result))
        if result.status != "skipped":
            print_result(result.line())
    pixels = [result.size[0] * result.size[1] for result in results if result.status == "planned" and result.size]
    count = sum(result.status == "planned" for result in results)
    seconds = sum(pixels) * seconds_per_pixel(upscaler, settings) if pixels else 0.0
    document.content["seconds"] = seconds
    size = f"{sum(pixels) / 1e6:.3g} -> {sum(pixels) * upscaler.scale**2 / 1e6:.3g} megapixels, about {duration(seconds)} on {upscaler.device}"
    images = f"{count} image{'' if count == 1 else 's'}"
    print_result(f"dry run, nothing was written: {images} to upscale{f', {size}' if pixels else ''}")
    finish({str(result.source): result.reason for result in results if result.status == "skipped"})


def _exported(onnx: Path, checkpoint: Path | None, device: str) -> OneStepResolver:
    """The model of `--onnx`. ConfigError if a checkpoint or another device is given too."""
    from ...model.export.onnx_model import load_onnx

    if checkpoint is not None:
        raise ConfigError(
            "--onnx: replaces the checkpoint, so it cannot be combined with --checkpoint or --model; leave one out"
        )
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--onnx: runs on the CPU, --device {device} was requested; leave --device out")
    return load_onnx(onnx)


def _named(model: str | None, checkpoint: Path | None) -> Path | None:
    """The checkpoint of `--model`. ConfigError if `--checkpoint` is given too."""
    if model is None:
        return checkpoint
    if checkpoint is not None:
        raise ConfigError(
            f"--model {model}: names a model that comes with samdiff, so it cannot be combined with --checkpoint; leave one out"
        )
    from ...model.checkpoints.format import SHIPPED_MODELS

    name = Path(SHIPPED_FOR[model])
    return SHIPPED_MODELS[str(name)] if name.exists() else name  # not a file of that name here
