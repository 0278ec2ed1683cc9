"""`samdiff demo`: all steps on sample images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, print_result, print_status


def demo(
    folder: Annotated[Path, typer.Option(help="Folder for all files of the demo.")] = Path("demo"),
    rrdb_steps: Annotated[int | None, typer.Option(min=1, help="Training steps of stage one.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of stage two.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files that the demo did not write.")] = False,
    device: Device = "auto",
) -> None:
    """Run all steps on sample images, in minutes.

    Each command is printed before it runs.
    """
    from ..runtime import user_path
    from .demo_steps import DemoConfig, run_demo

    default = DemoConfig()
    folder = user_path(folder, "--folder")
    settings = DemoConfig(
        folder, rrdb_steps=rrdb_steps or default.rrdb_steps, steps=steps or default.steps, device=device, overwrite=overwrite
    )
    run_demo(settings, print_status, print_result)
