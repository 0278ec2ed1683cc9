"""`samdiff export-model`: exports a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import Checkpoint, choose_checkpoint, print_status


def export_model(
    checkpoint: Checkpoint = None,
    to: Annotated[str, typer.Option(metavar="[onnx]", help="File format.")] = "onnx",
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Output folder for rrdb.onnx, denoiser.onnx and schedule.json.")
    ] = Path("onnx"),
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
) -> None:
    """Export a model as ONNX.

    Writes RRDB and denoiser as ONNX files with dynamic sizes.
    """
    from ...errors import ConfigError
    from ...model.checkpoints.publish import checkpoint_files
    from ...model.inference.onnx_export import export_onnx
    from ...model.inference.upscaler import load_model

    if to != "onnx":
        raise ConfigError(f"--to: expected onnx, got {to!r}")
    path = choose_checkpoint(checkpoint)
    model = load_model(path, "cpu")
    for file in export_onnx(model, out, overwrite, inputs=checkpoint_files(path)):
        print_status(f"{file}  {file.stat().st_size} bytes")
