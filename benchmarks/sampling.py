"""Samplers and numbers of steps on a benchmark folder: PSNR, SSIM, consistency and time, beside the 100-step result.

    python benchmarks/sampling.py CHECKPOINT FOLDER [--limit N]

FOLDER as for `samdiff evaluate` (HR/ and LRx4/). One sample (seed 0) of each picture.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from samdiff import load_model
from samdiff.model.evaluation.evaluate import read_pairs
from samdiff.model.evaluation.metrics import psnr, psnr_y, ssim_y
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
    parser.add_argument("--most", type=int, default=100, help="leave out ways with more steps")
    given = parser.parse_args()
    model = load_model(given.checkpoint, "cpu")
    pairs = read_pairs(given.folder, model.scale)[: given.limit]
    print("| sampler | steps | other | PSNR-Y | SSIM-Y | LR PSNR | s per picture |\n|---|---|---|---|---|---|---|")
    for way in (way for way in WAYS if (way.steps or 0) <= given.most):
        start = time.perf_counter()
        found = [model.upscale(pair.lr, way) for pair in pairs]
        seconds = (time.perf_counter() - start) / len(pairs)
        metrics = [
            (psnr_y(ours, p.hr, model.scale), ssim_y(ours, p.hr, model.scale), psnr(imresize(ours, 1 / model.scale), p.lr))
            for ours, p in zip(found, pairs, strict=True)
        ]
        p, s, c = np.mean(metrics, axis=0)
        other = [
            name
            for name in ("average", "start", "consistent", "precision", "regress")
            if getattr(way, name) != getattr(WAYS[0], name)
        ]
        notes = ", ".join(f"{name} {getattr(way, name)}" for name in other)
        print(f"| {way.sampler or 'ddpm'} | {way.steps} | {notes} | {p:.2f} | {s:.4f} | {c:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
