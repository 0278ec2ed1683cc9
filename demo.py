"""`samdiff demo`: photographs -> shards -> a trained model -> a picture four times larger, in minutes on a CPU.

Each step is the command that a user would type, printed before it runs. One photograph is held out: it is never in the store.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .errors import SamdiffError

HELD_OUT = "chelsea.png"


@dataclass(frozen=True)
class DemoSettings:
    """How large the demo is; the defaults take a few minutes on two CPU cores."""

    folder: Path = Path("demo")
    """Everything goes there; delete it to begin anew."""
    tile: int = 256
    """HR pixels; fits the smallest of the photographs."""
    points_per_side: int = 16
    """Prompts per side for the masks (prepare's default is 32)."""
    rrdb_steps: int = 400
    """Training steps of stage one."""
    steps: int = 500
    """Training steps of stage two."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def run_demo(settings: DemoSettings) -> Path:
    """Run all steps; returns the contact sheet's path. Run again, finished steps are found finished."""
    folder = settings.folder
    start = time.perf_counter()
    _write_photographs(folder)
    store, run, result = folder / "photos.zarr", folder / "run", folder / "result.png"
    common = ["--device", settings.device]
    _samdiff("prepare", folder / "photos", "--out", store, "--tile", settings.tile, "--points-per-side", settings.points_per_side, *common)
    _samdiff("info", store)
    sizes = ["--rrdb-steps", settings.rrdb_steps, "--steps", settings.steps]
    _samdiff("train", "--shards", store, "--out", run, "--preset", "tiny", *sizes, *common)
    _samdiff("infer", folder / "held_out" / "lr.png", "-o", result, "--checkpoint", run, "--overwrite", *common)
    sheet = folder / "sheet.png"
    report = _compare(settings, run, result, sheet)
    print("\n".join(report))
    print(f"{time.perf_counter() - start:.0f} s in all; contact sheet: {sheet}")
    return sheet
