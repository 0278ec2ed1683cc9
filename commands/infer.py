"""`samdiff infer`: pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, Threads, finish, say


def infer(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A file, or a folder for several [NAME_x4.png beside the input].")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="model.safetensors or a run's folder; default: the newest run in runs/.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddpm, ddim, paper or paper-clipped [the one that fits the model].")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps [all].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    scale: Annotated[int | None, typer.Option(min=1, help="Refuse a checkpoint of another scale.")] = None,
    regress: Annotated[bool, typer.Option(help="Only the RRDB's picture (stage one), no diffusion.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """A picture, super-resolved. Never needs SAM or masks."""
    from ..model.infer import load_model
    from ..model.pictures import plan_outputs, upscale_files
    from ..model.publish import default_checkpoint
    from ..runtime import pick_device, setup_process

    setup_process(threads)
    path, why = (checkpoint, "") if checkpoint else default_checkpoint()
    model = load_model(path, pick_device(device))
    if why:
        say(f"--checkpoint {path} ({why})")
    jobs = plan_outputs(inputs, out, model.scale, overwrite)
    finish(upscale_files(model, jobs, scale=scale, steps=steps, seed=seed, sampler=sampler, regress=regress, say=say))
