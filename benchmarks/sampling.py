"""Samplers and numbers of steps on a benchmark folder: PSNR, SSIM, LPIPS, DISTS, consistency and time, compared with 100 steps.

    python benchmarks/sampling.py CHECKPOINT FOLDER [--limit N] [--perceptual auto|off|lpips,lpips-vgg,dists]

FOLDER as for `samdiff evaluate` (HR/ and LRx4/). One sample (seed 0) of each image. Perceptual metrics see the whole image.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from samdiff import load_model
from samdiff.model.evaluation.benchmark import read_pairs
from samdiff.model.evaluation.metrics import psnr, psnr_y, ssim_y
from samdiff.model.evaluation.perceptual import choose_metrics
from samdiff.model.inference.upscaler import InferConfig
from samdiff.pipeline.degrade.imresize import imresize

WAYS = [
    *(InferConfig(steps, sampler=sampler) for steps in (100, 50, 25, 10, 5) for sampler in ("ddpm", "ddim", "dpm2m")),
    InferConfig(5, num_samples=4),
    InferConfig(5, start="rrdb"),
    InferConfig(5, back_project=True),
    InferConfig(5, amp="bf16"),
    InferConfig(rrdb_only=True),
]


def main() -> None:
    """Print a Markdown table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--most", type=int, default=100, help="skip settings with more steps")
    parser.add_argument("--perceptual", default="auto", help="perceptual metrics: auto (those in the cache), off, or names")
    given = parser.parse_args()
    model = load_model(given.checkpoint, "cpu")
    pairs = read_pairs(given.folder, model.scale)[: given.limit]
    more = choose_metrics(given.perceptual, torch.device("cpu"), report=lambda text: print(text, file=sys.stderr))
    names = ["sampler", "steps", "other", "PSNR-Y", "SSIM-Y", *(name.upper() for name in more), "LR PSNR", "s per image"]
    print(f"| {' | '.join(names)} |\n" + "|---" * len(names) + "|")
    for settings in (settings for settings in WAYS if (settings.steps or 0) <= given.most):
        start = time.perf_counter()
        results = [model.upscale(pair.lr, settings) for pair in pairs]
        seconds = (time.perf_counter() - start) / len(pairs)
        metrics = [
            (
                psnr_y(ours, p.hr, model.scale),
                ssim_y(ours, p.hr, model.scale),
                psnr(imresize(ours, 1 / model.scale), p.lr),
                *(metric(ours, p.hr) for metric in more.values()),
            )
            for ours, p in zip(results, pairs, strict=True)
        ]
        p, s, c, *rest = np.mean(metrics, axis=0)
        other = [
            name
            for name in ("average", "start", "consistent", "precision", "regress")
            if getattr(settings, name) != getattr(WAYS[0], name)
        ]
        notes = ", ".join(f"{name} {getattr(settings, name)}" for name in other)
        cells = [
            settings.sampler or "ddpm",
            str(settings.steps),
            notes,
            f"{p:.2f}",
            f"{s:.4f}",
            *(f"{value:.4f}" for value in rest),
        ]
        print(f"| {' | '.join(cells)} | {c:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
