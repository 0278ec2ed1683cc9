"""`samdiff demo`: images -> shards -> a trained model -> an image four times larger, in minutes on a CPU.

Each step is the command that a user would type, printed before it runs. One image is held out: it is never in the store.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import ConfigError, ImageError, SamdiffError, printable
from ..model.checkpoints.format import SHIPPED_NAME
from ..model.evaluation.metrics import psnr_y, ssim_y
from ..model.evaluation.perceptual import choose_metrics
from ..model.inference.image_io import has_provenance, open_image, save_image
from ..model.sheets.comparison import Box, crop_panel, detailed_box, enlarged_lr, framed
from ..model.sheets.contact_sheet import contact_sheet
from ..model.sheets.overlay import mask_overlay, structure_panel
from ..pipeline.degrade.imresize import imresize
from ..pipeline.degrade.recipes import degrade
from ..pipeline.encode.structure import encode_structure
from ..pipeline.images.decode import read_rgb
from ..pipeline.images.sources import list_source
from ..pipeline.masks.generator import MaskGenerator
from ..pipeline.prepare.scan import crop_to_scale
from ..pipeline.storage.outputs import DEAD_LINK, FILE, NOTHING, folder_problem, look, sweep_outputs
from ..report.write import is_report
from ..runtime import pick_device

HELD_OUT = "chelsea"
SCALE = 4
RESULTS = ("shipped.png", "result.png", "rrdb.png")
SHEET = "sheet.png"
REPORT = "report.html"
BENCHMARK = f"held_out/{HELD_OUT}.png"
"""The held-out image as a benchmark of one image."""
CROP_WIDTH = 252
"""Pixels: five crops are as wide as four whole images."""
_MARK = {"samdiff-demo": "contact sheet"}


@dataclass(frozen=True)
class DemoConfig:
    """How large the demo is; the defaults take a few minutes on two CPU cores."""

    folder: Path = Path("demo")
    """Everything goes there; delete it to start again."""
    tile: int = 256
    """HR pixels; fits the smallest of the images."""
    points_per_side: int = 16
    """Prompts per side for the masks (prepare's default is 32)."""
    rrdb_steps: int = 200
    """Training steps of stage one."""
    steps: int = 200
    """Training steps of stage two."""
    sampling_steps: int | None = None
    """Steps of the sampler; None: as each model recommends."""
    sets: tuple[str, ...] = ("train.lr=2e-4", "train.lr_schedule=cosine", "train.ema_decay=0.99", "loss.perceptual=none")
    """Settings for so short a training: a rate that falls to nothing, a shorter average, and not the perceptual loss of the shipped model,
    which needs more weights (59 MB) and time."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Whether files of the demo's names are replaced that the demo did not write."""


def run_demo(settings: DemoConfig, print_status: Callable[..., None], print_result: Callable[[str], None]) -> Path:
    """Run all steps; returns the contact sheet's path. Finished steps are not repeated by a second run.

    Args:
        settings: see there.
        print_status: gets what happens, lines of text.
        print_result: gets the metrics.

    Raises:
        ConfigError: a file of the folder would be replaced that the demo did not write.
        SamdiffError: a step failed, after its own message.
    """
    folder, start = settings.folder, time.perf_counter()
    samples = sample_images()
    check_folder(folder, samples, settings.overwrite)
    write_samples(folder, samples)
    truth = samples["held_out_hr.png"]
    store, run, lr = folder / "photos.zarr", folder / "run", folder / "held_out_lr.png"
    where = ["--device", settings.device]
    requested = [] if settings.sampling_steps is None else ["--steps", settings.sampling_steps]
    sampling = [*requested, "--overwrite", *where]

    def samdiff(*arguments: object) -> None:
        words = [str(argument) for argument in arguments]
        print_status("")
        print_status(f"$ samdiff {shlex.join(words)}")
        if subprocess.run([sys.executable, "-m", "samdiff.cli", *words], check=False).returncode:
            raise SamdiffError(
                f"demo: the command above failed; correct what its message names and run the demo again, which resumes in "
                f"{printable(folder)}"
            )

    samdiff("infer", lr, "-o", folder / "shipped.png", "--checkpoint", SHIPPED_NAME, *sampling)
    points = ["--tile", settings.tile, "--points-per-side", settings.points_per_side]
    samdiff("prepare", folder / "photos", "--out", store, *points, *where)
    samdiff("info", store)
    schedule = ["--rrdb-steps", settings.rrdb_steps, "--steps", settings.steps, *(f"--set={text}" for text in settings.sets)]
    samdiff("train", store, "--out", run, "--init-from", SHIPPED_NAME, *schedule, *where)
    samdiff("infer", lr, "-o", folder / "result.png", "--checkpoint", run, *sampling)
    samdiff("infer", lr, "-o", folder / "rrdb.png", "--checkpoint", run, "--rrdb-only", "--overwrite", *where)
    for line in compare(folder, truth, settings):
        print_result(line)
    if missing := [name for name in ("jinja2", "plotly") if importlib.util.find_spec(name) is None]:
        print_status("", f"no report, since {' and '.join(missing)} is not installed: pip install 'samdiff[report]'")
    else:
        evaluation = folder / "evaluation"
        if not (evaluation / "figures.json").exists():
            chosen = ["--checkpoint", SHIPPED_NAME, "--save", "-o", evaluation, *requested, *where]
            samdiff("evaluate", "--benchmark", (folder / BENCHMARK).parent, *chosen)
        samdiff("report", evaluation, run, store, "-o", folder / REPORT, "--overwrite")
        print_status(f"report: {printable(folder / REPORT)}; open it in a browser")
    print_status(f"{time.perf_counter() - start:.0f} s in all; contact sheet: {printable(folder / SHEET)}")
    return folder / SHEET


def sample_images() -> dict[str, np.ndarray]:
    """File name -> pixels: the samples as `photos/NAME.png`, but for the one held out, which is HR and LR beside them, and a benchmark."""
    images, held_out = {}, None
    for image_file in list_source("samples"):
        pixels = read_rgb(image_file).pixels
        if Path(image_file.name).stem == HELD_OUT:
            held_out = crop_to_scale(pixels, SCALE)
        else:
            images[f"photos/{Path(image_file.name).stem}.png"] = pixels
    assert held_out is not None, "the samples contain the demo's image"
    return {**images, BENCHMARK: held_out, "held_out_hr.png": held_out, "held_out_lr.png": degrade(held_out, "bicubic", SCALE)}


def check_folder(folder: Path, samples: Mapping[str, np.ndarray], overwrite: bool) -> None:
    """Before any work: what is in the folder under the demo's names is the demo's own, from an earlier run. Sweeps what a killed run left.

    Raises:
        ConfigError: it is not (and `overwrite` is false), or it is a folder, FIFO or device.
    """
    reason = folder_problem(folder / "photos") or folder_problem((folder / BENCHMARK).parent)
    if reason:
        raise ConfigError(f"{printable(folder)}: {reason.replace('--out', '--folder')}")
    low = folder / "held_out_lr.png"
    digest = hashlib.sha256(low.read_bytes()).hexdigest()[:16] if low.is_file() else "none"
    marks = {**dict.fromkeys(RESULTS, {"samdiff-input": f"sha256 {digest}"}), SHEET: _MARK}
    names = [*samples, *marks, REPORT]
    for name in names:
        file = folder / name
        kind = look(file).kind
        if kind not in (NOTHING, FILE, DEAD_LINK):
            raise ConfigError(f"{printable(file)}: is {kind}, expected a file or nothing; give another --folder")
        ours = kind == NOTHING or _is_ours(file, samples.get(name), marks.get(name))
        if not ours and not overwrite:
            raise ConfigError(
                f"{printable(file)}: exists already and was not written by this demo; give --overwrite, or another --folder"
            )
    sweep_outputs(folder / name for name in names)


def _is_ours(file: Path, pixels: np.ndarray | None, mark: Mapping[str, str] | None) -> bool:
    """Whether a file is what the demo wrote: this image, an image with this mark, or (with neither) a report."""
    if pixels is not None:
        return _holds(file, pixels)
    return is_report(file) if mark is None else has_provenance(file, mark)


def write_samples(folder: Path, samples: Mapping[str, np.ndarray]) -> None:
    """The files of `sample_images`; those that are there already stay untouched."""
    for name, pixels in samples.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not _holds(folder / name, pixels):
            save_image(pixels, folder / name)


def _holds(file: Path, pixels: np.ndarray) -> bool:
    """Whether a file is there and holds exactly this image."""
    try:
        return file.exists() and np.array_equal(open_image(file), pixels)
    except ImageError:
        return False


def compare(folder: Path, truth: np.ndarray, settings: DemoConfig) -> list[str]:
    """PSNR, SSIM and (where their weights are in the cache) LPIPS and DISTS of all methods, and a contact sheet of what was made."""
    lr, rrdb, result = (open_image(folder / name) for name in ("held_out_lr.png", "rrdb.png", "result.png"))
    results = {"bicubic": imresize(lr, SCALE), "RRDB": rrdb, "diffusion": result}
    results["shipped model"] = open_image(folder / "shipped.png")
    notes: list[str] = []
    metrics = choose_metrics("auto", pick_device(settings.device), report=notes.append)
    scores = {name: scores_of(image, truth, metrics) for name, image in results.items()}
    generator = MaskGenerator("mobile_sam", device=pick_device(settings.device), points_per_side=settings.points_per_side)
    masks = [record["segmentation"] for record in generator.generate(truth)]
    structure = encode_structure(masks, *truth.shape[:2])
    captions = {name: "\n".join([name, "  ".join(line[:2]), "  ".join(line[2:])]).rstrip() for name, line in scores.items()}
    box = detailed_box(truth)
    panels = [
        (f"LR {lr.shape[1]} x {lr.shape[0]}", lr),
        *((captions[name], image) for name, image in results.items()),
        (f"HR {truth.shape[1]} x {truth.shape[0]}\nheld out; the frame is the crop below", framed(truth, [box])),
        (f"{len(masks)} masks, for show:\ninference never sees them", mask_overlay(structure.labels, truth)),
        ("E_SAM\n(mean over the mask)", structure_panel(structure.e_sam(), structure.labels, bar_share=12)),
    ]
    sheet = whole_sheet(panels, crop_panels(lr, results, truth, box=box, scores=scores))
    save_image(sheet, folder / SHEET, origin={"Software": f"samdiff {__version__}", **_MARK})
    lines = [f"{name:14s}{line[0]:>10s}  {'  '.join(line[1:])}" for name, line in scores.items()]
    return ["", f"{HELD_OUT}, which was not in the store, x{SCALE}, on Y (LPIPS and DISTS on RGB):", *lines, *notes]


def crop_panels(
    lr: np.ndarray,
    results: Mapping[str, np.ndarray],
    truth: np.ndarray,
    *,
    box: Box,
    scores: Mapping[str, Sequence[str]],
) -> list[tuple[str, np.ndarray]]:
    """Enlarged crops of LR (nearest neighbour), bicubic, both models and HR, with labels of equal form.

    Args:
        lr: uint8 [h, w, 3].
        results: images uint8 [H, W, 3] with the keys `bicubic`, `shipped model` and `diffusion`.
        truth: HR, uint8 [H, W, 3].
        box: of the crop in HR.
        scores: of each result over the whole image, as by `scores_of`: PSNR and, if it was measured, LPIPS are shown.

    Returns:
        (caption, uint8 [CROP_WIDTH, CROP_WIDTH, 3]).
    """
    shown = {"bicubic": "bicubic", "shipped model": "shipped model", "trained by this demo": "diffusion"}
    captions = {"LR, nearest neighbour": f"{lr.shape[1]} x {lr.shape[0]}"}
    images = {"LR, nearest neighbour": enlarged_lr(lr, *truth.shape[:2])}
    for label, name in shown.items():
        images[label] = results[name]
        perceptual = [text for text in scores[name] if text.startswith("LPIPS ")]
        captions[label] = "  ".join([f"Y-PSNR {scores[name][0]}", *perceptual])
    images["HR"], captions["HR"] = truth, f"{truth.shape[1]} x {truth.shape[0]}"
    return [(f"{label}\n{captions[label]}", crop_panel(image, box, width=CROP_WIDTH)) for label, image in images.items()]


def whole_sheet(panels: Sequence[tuple[str, np.ndarray]], crops: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """The whole images in rows of four and the crops in one row below, uint8 [h, w, 3]."""
    rows = [contact_sheet(panels, columns=4), contact_sheet(crops, columns=len(crops), width=CROP_WIDTH)]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def scores_of(
    image: np.ndarray, truth: np.ndarray, metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]]
) -> list[str]:
    """PSNR and SSIM on Y, then the other metrics of (image, truth), each with its unit or name."""
    own = [f"{psnr_y(image, truth, SCALE):.2f} dB", f"SSIM {ssim_y(image, truth, SCALE):.4f}"]
    return [*own, *(f"{name.upper()} {metric(image, truth):.4f}" for name, metric in metrics.items())]
