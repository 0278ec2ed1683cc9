"""`samdiff infer`: upscales images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from ...model.infer_config import SHIPPED_FOR, InferConfig, OutputConfig, ShippedConfig
from ...settings import section
from ..common import COMMON, RUN, Checkpoint, Device, Threads, choose_checkpoint, finish, print_status, required
from ..document import Document, with_json
from ..options import Chosen, configured


@dataclass(frozen=True)
class InferSettings:
    """All settings of `samdiff infer`."""

    infer: InferConfig = section(InferConfig, panel="Sampling")
    output: OutputConfig = section(OutputConfig, panel="Output")
    shipped: ShippedConfig = section(ShippedConfig)


@configured(InferSettings)
@with_json
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
    scale: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=RUN, help="Fail if the checkpoint has another scale.")
    ] = None,
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
    from ...model.inference.batch import FileResult, foreign_results, list_inputs, plan_outputs, provenance, upscale_files
    from ...model.inference.upscaler import load_model
    from ...runtime import pick_device, setup_process

    setup_process(threads)
    settings, output = chosen_settings.infer, chosen_settings.output
    path = choose_checkpoint(_named(chosen_settings.shipped.model, checkpoint))
    upscaler = load_model(path, pick_device(device))
    upscaler.expect_scale(scale)
    suffix = f"_x{upscaler.scale}" if output.suffix is None else output.suffix
    kept = output.format or ("png" if upscaler.samples.is_rgb8 else "tif")
    output = replace(output, suffix=suffix, format=kept)
    others = foreign_results(inputs, suffix, recursive=recursive, out=output.out) if output.overwrite else ()
    jobs = plan_outputs(
        list_inputs(inputs, suffix, recursive=recursive, out=output.out), output, [*checkpoint_files(path), *others]
    )
    results: list[FileResult] = []
    failed = upscale_files(upscaler, jobs, settings=settings, output=output, report=print_status, on_result=results.append)
    document.content.update(checkpoint=path, scale=upscaler.scale, provenance=provenance(upscaler, settings))
    document.content["images"] = list(map(asdict, results))
    finish(failed)


def _named(model: str | None, checkpoint: Path | None) -> Path | None:
    """The checkpoint of `--model`. ConfigError if `--checkpoint` is given too."""
    if model is None:
        return checkpoint
    if checkpoint is not None:
        raise ConfigError(
            f"--model {model}: names a model that comes with samdiff, so it cannot be combined with --checkpoint; leave one out"
        )
    return Path(SHIPPED_FOR[model])
