"""`samdiff demo`: the whole way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, print_result, print_status


def demo(
    folder: Annotated[Path, typer.Option(help="Everything goes there.")] = Path("demo"),
    rrdb_steps: Annotated[int | None, typer.Option(min=1, help="Steps of stage one.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of stage two.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files of the demo's names that the demo did not write.")] = False,
    device: Device = "auto",
) -> None:
    """Run all steps on sample images, in minutes.

    Each command is printed as you would type it.
    """
    from ..runtime import user_path
    from .demo_steps import DemoConfig, run_demo

    usual = DemoConfig()
    folder = user_path(folder, "--folder")
    settings = DemoConfig(
        folder, rrdb_steps=rrdb_steps or usual.rrdb_steps, steps=steps or usual.steps, device=device, overwrite=overwrite
    )
    run_demo(settings, print_status, print_result)
