"""`samdiff demo`: photographs -> shards -> a trained model -> a picture four times larger, in minutes on a CPU.

Each step is the command that a user would type, printed before it runs. One photograph is held out: it is never in the store.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import SamdiffError
from .model.checkpoint import SHIPPED_NAME
from .model.metrics import psnr_y, ssim_y
from .model.pictures import open_picture, save_picture
from .model.sheet import colour_labels, colour_map, contact_sheet
from .pipeline.assemble import crop_to_scale
from .pipeline.degrade import degrade
from .pipeline.images import read_picture
from .pipeline.masks import MaskGenerator
from .pipeline.resize import imresize
from .pipeline.sources import list_source
from .pipeline.structure import encode_structure
from .runtime import pick_device

HELD_OUT = "chelsea"
SCALE = 4


@dataclass(frozen=True)
class DemoSettings:
    """How large the demo is; the defaults take a few minutes on two CPU cores."""

    folder: Path = Path("demo")
    """Everything goes there; delete it to begin anew."""
    tile: int = 256
    """HR pixels; fits the smallest of the photographs."""
    points_per_side: int = 16
    """Prompts per side for the masks (prepare's default is 32)."""
    rrdb_steps: int = 200
    """Training steps of stage one."""
    steps: int = 200
    """Training steps of stage two."""
    sampling_steps: int = 25
    """Steps of the sampler."""
    sets: tuple[str, ...] = ("train.lr=2e-4", "train.lr_schedule=cosine", "train.ema=0.99")
    """Settings for so short a training: a rate that falls to nothing, a shorter average."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def run_demo(settings: DemoSettings, say: Callable[[str], None], show: Callable[[str], None]) -> Path:
    """Run all steps; returns the contact sheet's path. Run again, finished steps are found finished.

    Args:
        settings: see there.
        say: told what happens.
        show: told the figures.

    Raises:
        SamdiffError: a step failed; its own message stands above.
    """
    folder, start = settings.folder, time.perf_counter()
    truth = write_photographs(folder)
    store, run, lr = folder / "photos.zarr", folder / "run", folder / "held_out_lr.png"
    where = ["--device", settings.device]
    sampling = ["--steps", settings.sampling_steps, "--overwrite", *where]

    def samdiff(*arguments: object) -> None:
        words = [str(argument) for argument in arguments]
        say("")
        say(f"$ samdiff {shlex.join(words)}")
        if subprocess.run([sys.executable, "-m", "samdiff.cli", *words], check=False).returncode:
            raise SamdiffError(
                f"demo: the command above failed; put right what it says and run the demo again, it goes on in {folder}"
            )

    samdiff("infer", lr, "-o", folder / "shipped.png", "--checkpoint", SHIPPED_NAME, *sampling)
    points = ["--tile", settings.tile, "--points-per-side", settings.points_per_side]
    samdiff("prepare", folder / "photos", "--out", store, *points, *where)
    samdiff("info", store)
    schedule = ["--rrdb-steps", settings.rrdb_steps, "--steps", settings.steps, *(f"--set={text}" for text in settings.sets)]
    samdiff("train", "--shards", store, "--out", run, "--preset", "tiny", "--start", SHIPPED_NAME, *schedule, *where)
    samdiff("infer", lr, "-o", folder / "result.png", "--checkpoint", run, *sampling)
    samdiff("infer", lr, "-o", folder / "rrdb.png", "--checkpoint", run, "--regress", "--overwrite", *where)
    for line in compare(folder, truth, settings):
        show(line)
    say(f"{time.perf_counter() - start:.0f} s in all; contact sheet: {folder / 'sheet.png'}")
    return folder / "sheet.png"


def write_photographs(folder: Path) -> np.ndarray:
    """The samples as PNG files in `folder/photos`, but for the one held out: its HR is returned, its LR written beside."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    held_out = None
    for picture in list_source("samples"):
        pixels = read_picture(picture).pixels
        if Path(picture.name).stem == HELD_OUT:
            held_out = crop_to_scale(pixels, SCALE)
        else:
            save_picture(pixels, folder / "photos" / f"{Path(picture.name).stem}.png")
    assert held_out is not None, "the samples hold the demo's picture"
    save_picture(held_out, folder / "held_out_hr.png")
    save_picture(degrade(held_out, "bicubic", SCALE), folder / "held_out_lr.png")
    return held_out


def compare(folder: Path, truth: np.ndarray, settings: DemoSettings) -> list[str]:
    """PSNR and SSIM of bicubic, RRDB and diffusion, and a contact sheet of all that was made."""
    lr, rrdb, result = (open_picture(folder / name) for name in ("held_out_lr.png", "rrdb.png", "result.png"))
    made = {"bicubic": imresize(lr, SCALE), "RRDB": rrdb, "diffusion": result}
    made["shipped model"] = open_picture(folder / "shipped.png")
    scores = {name: (psnr_y(image, truth, SCALE), ssim_y(image, truth, SCALE)) for name, image in made.items()}
    generator = MaskGenerator("mobile_sam", device=pick_device(settings.device), points_per_side=settings.points_per_side)
    masks = [record["segmentation"] for record in generator.generate(truth)]
    structure = encode_structure(masks, *truth.shape[:2])
    captions = {name: f"{name}\n{p:.2f} dB, SSIM {s:.4f}" for name, (p, s) in scores.items()}
    panels = [
        (f"LR {lr.shape[1]} x {lr.shape[0]}", lr),
        *((captions[name], image) for name, image in made.items()),
        (f"HR {truth.shape[1]} x {truth.shape[0]}\nheld out", truth),
        (f"{len(masks)} masks, for show:\ninference never sees them", colour_labels(structure.labels, truth)),
        ("E_SAM\n(mean over the mask)", colour_map(structure.e_sam())),
    ]
    save_picture(contact_sheet(panels, columns=4), folder / "sheet.png")
    lines = [f"{name:14s}{p:7.2f} dB  SSIM {s:.4f}" for name, (p, s) in scores.items()]
    return ["", f"{HELD_OUT}, which was not in the store, x{SCALE}, on Y:", *lines]
