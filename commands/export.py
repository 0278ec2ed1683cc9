"""`samdiff export-model`: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import choose_checkpoint, say


def export_model(
    checkpoint: Annotated[Path | None, typer.Option(help="model.safetensors or a run's folder [as for infer].")] = None,
    to: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for rrdb.onnx, denoiser.onnx and schedule.json.")] = Path(
        "onnx"
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace these files if they exist.")] = False,
) -> None:
    """RRDB and denoiser as ONNX files of dynamic sizes."""
    from ..errors import ConfigError
    from ..model.export import export_onnx
    from ..model.infer import load_model

    if to != "onnx":
        raise ConfigError(f"--to: expected onnx, got {to!r}")
    model = load_model(choose_checkpoint(checkpoint), "cpu")
    for file in export_onnx(model, out, overwrite):
        say(f"{file}  {file.stat().st_size} bytes")
