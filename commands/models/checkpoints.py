"""`samdiff import-checkpoint` and `samdiff publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from ..common import print_status


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A published SAM-DiffSR, SRDiff or RRDB checkpoint.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", show_default="NAME.imported.safetensors beside FILE", help="The converted file."),
    ] = None,
    modulation: Annotated[
        str, typer.Option(help="Modulation that it was trained with: official (SAM-DiffSR) or none (SRDiff).")
    ] = "official",
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
) -> None:
    """Convert a published checkpoint.

    Writes a samdiff checkpoint. The name and shape of every tensor is verified.
    """
    from ...model.checkpoints.convert import describe, import_official
    from ...model.checkpoints.format import save_checkpoint

    if file.is_dir():
        raise ConfigError(f"{file}: expected a checkpoint's file, got a folder")
    target = out or file.parent / f"{file.stem}.imported.safetensors"
    _check_target(target, [file], overwrite)
    checkpoint = import_official(file, modulation)
    save_checkpoint(target, checkpoint, overwrite)
    print_status(f"{target}: {describe(checkpoint)}")


def publish(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a model's file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    licence: Annotated[str, typer.Option(help="Licence of the weights, such as that of the training images.")],
    attribution: Annotated[str, typer.Option(help="Credit that the licence requires.")] = "",
    half: Annotated[bool, typer.Option(help="Store float16, half the size.")] = True,
    recommend: Annotated[
        list[str] | None,
        typer.Option(
            help="Recommended sampling settings, QUALITY=SAMPLER:STEPS[:SAMPLES], such as balanced=euler:4; may be repeated."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
) -> None:
    """Write a run's model as one small file.

    Takes best.safetensors if the run has it. The file contains no paths or other facts about this machine.
    """
    from ...model.checkpoints.publish import checkpoint_files
    from ...model.checkpoints.publish import publish as write
    from ...model.diffusion.recommended import parse_sampling

    recommended = dict(map(parse_sampling, recommend or []))
    _check_target(out, checkpoint_files(run), overwrite)
    made = write(run, out, licence=licence, attribution=attribution, half=half, overwrite=overwrite, recommended=recommended)
    count = sum(value.numel() for value in made.tensors.values())
    print_status(
        f"{out}: {count / 1e6:.2f} M parameters, {out.stat().st_size / 1e6:.2f} MB, step {made.facts.get('step')}, {licence}"
    )


def _check_target(target: Path, inputs: list[Path], overwrite: bool) -> None:
    """Check the output before any work."""
    from ...pipeline.storage.outputs import claim_outputs

    if target.suffix != ".safetensors" or target.is_dir():
        raise ConfigError(f"--out: expected a file NAME.safetensors, got {target}")
    claim_outputs([("--out", target)], inputs, overwrite)
