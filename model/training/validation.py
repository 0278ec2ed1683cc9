"""What a model is worth while it trains: PSNR and SSIM on Y of held-out tiles and whole benchmark pictures, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...pipeline.degrade.imresize import imresize
from ...pipeline.shards.reader import Store
from ...pipeline.stream.dataset import held_out_from
from ..evaluation.benchmark import read_pairs
from ..evaluation.metrics import mean_of_defined, psnr_y, ssim_y

Upscale = Callable[[np.ndarray, int], np.ndarray]
"""(LR uint8 [h, w, 3] or [h, w], the picture's number, which seeds the noise) -> HR of the same kind."""


@dataclass(frozen=True)
class Benchmark:
    """Pictures with their LR, and what bicubic enlargement reaches on them."""

    name: str
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]
    """(LR, HR), uint8."""
    scale: int
    bicubic: tuple[float, float]
    """PSNR and SSIM."""


def benchmark_of(name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], scale: int) -> Benchmark:
    """A benchmark of (LR, HR) pairs."""
    return Benchmark(name, tuple(pairs), scale, _means(pairs, [imresize(lr, scale) for lr, _ in pairs], scale))


def held_out(stores: Sequence[Store], images: int, tiles: int) -> Benchmark | None:
    """Up to `tiles` tiles, evenly spread over the photographs that training leaves out; None if there are none."""
    places = [(store, row) for store in stores for row in range(held_out_from(store, images), len(store))]
    if not places:
        return None
    chosen = [places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(tiles, len(places))).round().astype(int))]
    pairs = [(store.read_tiles("lr", [row])[0], store.read_tiles("hr", [row])[0]) for store, row in chosen]
    return benchmark_of("held-out", pairs, stores[0].scale)


def read_benchmark(folder: Path, scale: int) -> Benchmark:
    """The benchmark of a folder, read as `samdiff evaluate` reads it, see `benchmark.read_pairs`."""
    return benchmark_of(folder.resolve().name, [(pair.lr, pair.hr) for pair in read_pairs(folder, scale)], scale)


def score(benchmark: Benchmark, upscale: Upscale) -> tuple[dict[str, Any], np.ndarray]:
    """Mean figures over the benchmark's pictures, and its first picture: bicubic, ours and HR side by side, uint8 [H, 3 W, 3]."""
    found = [upscale(lr, number) for number, (lr, _) in enumerate(benchmark.pairs)]
    psnr, ssim = _means(benchmark.pairs, found, benchmark.scale)
    lr, hr = benchmark.pairs[0]
    panels = [np.atleast_3d(picture) for picture in (imresize(lr, benchmark.scale), found[0], hr)]
    sheet = np.hstack([np.broadcast_to(panel, (*panel.shape[:2], 3)) for panel in panels])
    means = {"psnr_y": (psnr, 4), "ssim_y": (ssim, 5), "bicubic_psnr_y": (benchmark.bicubic[0], 4)}
    means |= {"bicubic_ssim_y": (benchmark.bicubic[1], 5)}
    # JSON has no NaN: a metric that no image is large enough for is left out
    defined = {name: round(value, digits) for name, (value, digits) in means.items() if not math.isnan(value)}
    return {"validation": benchmark.name, "pictures": len(found), **defined}, sheet


def _means(pairs: Sequence[tuple[np.ndarray, np.ndarray]], found: Sequence[np.ndarray], scale: int) -> tuple[float, float]:
    metrics = [(psnr_y(ours, hr, scale), ssim_y(ours, hr, scale)) for ours, (_, hr) in zip(found, pairs, strict=True)]
    psnr, ssim = zip(*metrics, strict=True)
    return mean_of_defined(psnr), mean_of_defined(ssim)
