"""`samdiff infer`: pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import Device, Threads, choose_checkpoint, finish, print_status


def infer(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, or patterns such as 'in/*.png'.")],
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Search folders with their subfolders.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A file for one picture, or a folder [beside each input].")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Added to the names [_x4 for a model of scale 4].")] = None,
    format_: Annotated[str, typer.Option("--format", help="png, jpg or webp.")] = "png",
    bits: Annotated[int, typer.Option(help="8, or 16 (PNG).")] = 8,
    to_srgb: Annotated[
        bool, typer.Option("--to-srgb", help="Convert colours to sRGB by the input's profile [the profile is kept].")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    provenance: Annotated[
        bool,
        typer.Option("--provenance/--no-provenance", help="Write into the file how it was made, and that it is synthesised."),
    ] = True,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="model.safetensors or a run's folder; default: the newest finished run in runs/ that beats bicubic, else shipped."
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddpm, ddim, dpm2m, paper, paper-clipped; flows: euler [what fits the model].")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="The model's recommended settings: fast, balanced or best [balanced].")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps, such as 25, 10, 5 [as recommended].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    average: Annotated[int | None, typer.Option(help="Mean of so many samples [as recommended].")] = None,
    start: Annotated[str, typer.Option(help="noise, or rrdb: from the RRDB's picture at --start-time.")] = "noise",
    start_time: Annotated[int | None, typer.Option(help="For --start rrdb: the time [half of T].")] = None,
    consistent: Annotated[
        bool, typer.Option(help="Make the result consistent with the input: no colour shift (back-projection).")
    ] = False,
    regress: Annotated[bool, typer.Option(help="Only the RRDB's picture (stage one), no diffusion.")] = False,
    tile: Annotated[int, typer.Option(help="Largest side of a tile in pixels of the input; 0: no tiles.")] = 192,
    overlap: Annotated[int, typer.Option(help="Overlap of tiles in pixels of the input.")] = 16,
    batch: Annotated[int, typer.Option(help="Tiles per call of the network.")] = 1,
    cache_mb: Annotated[int, typer.Option(help="Memory for the RRDB's features.")] = 1024,
    precision: Annotated[str, typer.Option(help="fp32, or bf16: faster where the processor has it.")] = "fp32",
    scale: Annotated[int | None, typer.Option(min=1, help="Refuse a checkpoint of another scale.")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Pictures, super-resolved. Never needs SAM or masks."""
    from ...model.checkpoints.publish import checkpoint_files
    from ...model.inference.batch import OutputConfig, list_inputs, others_results, plan_outputs, upscale_files
    from ...model.inference.upscaler import InferConfig, load_model
    from ...runtime import pick_device, setup_process

    setup_process(threads)
    settings = InferConfig(
        steps=steps,
        seed=seed,
        sampler=sampler,
        average=average,
        start=start,
        start_time=start_time,
        consistent=consistent,
        regress=regress,
        tile=tile,
        overlap=overlap,
        batch=batch,
        cache_mb=cache_mb,
        precision=precision,
        quality=quality,
    )
    path = choose_checkpoint(checkpoint)
    model = load_model(path, pick_device(device))
    model.expect_scale(scale)
    output = OutputConfig(out, f"_x{model.scale}" if suffix is None else suffix, format_, overwrite, bits, provenance, to_srgb)
    read = [
        *checkpoint_files(path),
        *(others_results(inputs, output.suffix, recursive=recursive, out=out) if overwrite else ()),
    ]
    jobs = plan_outputs(list_inputs(inputs, output.suffix, recursive=recursive, out=out), output, read)
    finish(upscale_files(model, jobs, settings, output, print_status))
