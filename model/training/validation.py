"""Validation during training: PSNR and SSIM on Y, LPIPS and DISTS on held-out tiles and whole benchmark images, with EMA weights.

Sheets of bicubic, result and HR are saved in the run's folder.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ... import __version__
from ...errors import ConfigError, SamdiffError, printable
from ...pipeline.degrade.imresize import imresize
from ...pipeline.scientific.sample_format import RGB8, SampleFormat
from ...pipeline.scientific.view import range_view
from ...pipeline.shards.reader import Store
from ...pipeline.storage.outputs import NOTHING, look, sweep_outputs
from ...pipeline.stream.dataset import ShardDataset, held_out_from
from ..diffusion.residual import from_model_range, to_model_range, to_pixels
from ..evaluation.benchmark import read_pairs
from ..evaluation.metrics import mean_of_defined, psnr_y, ssim_y
from ..evaluation.perceptual import choose_metrics, metrics_for
from ..inference.image_io import has_provenance, save_image
from ..losses.perceptual import PerceptualMetric
from ..names import PERCEPTUAL
from ..samples.range_metrics import range_metrics

Upscale = Callable[[np.ndarray, int], np.ndarray]
"""(LR uint8 [h, w, 3] or [h, w], index of the image, which seeds the noise) -> SR of the same kind."""

SHEETS_FOLDER = "visualization"
KEPT_SHEETS = 10
"""Sheets that are kept of each image and stage: those of the highest steps."""
_MARK = {"samdiff-validation": "bicubic | result | HR"}
_LONGEST_NAME = 80  # bytes of a benchmark or an image in file names


@dataclass(frozen=True)
class Benchmark:
    """Pairs of LR and HR, with the metrics of bicubic upsampling."""

    name: str
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]
    """(LR, HR), stored samples; uint8 for 8-bit RGB."""
    scale: int
    bicubic: tuple[float, float]
    """PSNR and SSIM of bicubic upsampling."""
    perceptual: Mapping[str, PerceptualMetric] = field(default_factory=dict)
    """More metrics, see `with_perceptual`."""
    bicubic_perceptual: Mapping[str, float] = field(default_factory=dict)
    """Their values for bicubic upsampling."""
    names: tuple[str, ...] = ()
    """Of the pairs; empty: they are numbered."""
    samples: SampleFormat = RGB8
    """Of LR and HR."""
    valid: tuple[np.ndarray | None, ...] = ()
    """bool [H, W] of each pair: the pixels that are scored; empty: all."""

    @property
    def psnr(self) -> str:
        """The name of its PSNR: on Y for 8-bit RGB, else over all bands with the store's range."""
        return "psnr_y" if self.samples.is_rgb8 else "psnr"

    @property
    def ssim(self) -> str:
        """The name of its SSIM, likewise."""
        return "ssim_y" if self.samples.is_rgb8 else "ssim"


@dataclass(frozen=True)
class SheetSaver:
    """Saves sheets of a validation as `visualization/BENCHMARK/IMAGE/IMAGE_STAGE_STEP.png` in the run's folder.

    A resumed run replaces its own sheets of the same step. The `KEPT_SHEETS` of the highest steps are kept of each image and stage. A
    file that is not such a sheet is neither replaced nor removed. A sheet that cannot be written is reported and does not end the
    training.
    """

    run: Path
    """The run's folder."""
    stage: str
    """rrdb or diffusion."""
    step: int
    """Training steps done."""
    images: int
    """Number of images of each benchmark that are saved."""
    report: Callable[[str], None]
    """Called with each reason why a sheet was not saved."""

    def save(self, benchmark: Benchmark, number: int, sheet: np.ndarray) -> None:
        """Save the sheet uint8 [H, W, 3] of the benchmark's image `number`."""
        name = file_name(benchmark.names[number] if benchmark.names else f"image-{number}")
        folder = self.run / SHEETS_FOLDER / file_name(benchmark.name) / name
        file = folder / f"{name}_{self.stage}_{self.step}.png"
        try:
            sweep_outputs([file])
            if look(file).kind != NOTHING and not _is_ours(file):
                self.report(
                    f"{printable(file)}: was not written by samdiff and is not replaced; this validation image is not saved"
                )
                return
            save_image(sheet, file, origin={"Software": f"samdiff {__version__}", **_MARK})
            self._remove_old(folder, name)
        except (SamdiffError, OSError) as error:
            self.report(f"a validation image is not saved: {printable(error)}")

    def _remove_old(self, folder: Path, name: str) -> None:
        pattern = re.compile(rf"{re.escape(name)}_{self.stage}_([0-9]{{1,15}})\.png")
        steps = {int(match[1]): file for file in folder.iterdir() if (match := pattern.fullmatch(file.name))}
        ours = [step for step in sorted(steps) if _is_ours(steps[step])]
        for step in ours[:-KEPT_SHEETS]:
            steps[step].unlink()


def _is_ours(file: Path) -> bool:
    """Whether a file is a sheet that a training wrote; a link to one is the user's."""
    return not file.is_symlink() and has_provenance(file, _MARK)


def file_name(text: str) -> str:
    """A name of a benchmark or an image as part of a file's name: short, printable and in no other folder.

    A text that has to be changed for that ends with 8 digits of its SHA-256, so that different texts keep different names.
    """
    plain = re.sub(r'[/\\:*?"<>|]', "_", printable(text)).strip(". ")
    while len(plain.encode()) > _LONGEST_NAME:
        plain = plain[:-1]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"


def with_perceptual(
    benchmarks: Sequence[Benchmark], choice: str, *, device: torch.device, report: Callable[[str], None]
) -> tuple[Benchmark, ...]:
    """The benchmarks with the perceptual metrics of `validate.perceptual`; see `choose_metrics` for arguments and errors.

    A metric is left out, and reported, for a benchmark that has an image too small for it.
    """
    metrics = choose_metrics(
        choice, device, report=lambda text: report(f"validation {text}; validate.perceptual=off turns this message off")
    )
    return tuple(_with(benchmark, metrics, report) for benchmark in benchmarks)


def _with(benchmark: Benchmark, metrics: Mapping[str, PerceptualMetric], report: Callable[[str], None]) -> Benchmark:
    if not benchmark.samples.is_rgb8:
        return benchmark  # they are defined for 8-bit RGB
    side = min(min(hr.shape[:2]) for _, hr in benchmark.pairs)
    fitting = metrics_for(metrics, side)
    if left := [name for name in metrics if name not in fitting]:
        report(f"{benchmark.name}: without {', '.join(left)}, for which a side of {side} pixels is too short")
    if not fitting:
        return benchmark
    bicubic = [imresize(lr, benchmark.scale) for lr, _ in benchmark.pairs]
    return replace(benchmark, perceptual=fitting, bicubic_perceptual=_perceptual_means(benchmark, fitting, bicubic))


def describe(metrics: Mapping[str, object]) -> str:
    """The metrics of `score` as one line, those of bicubic in parentheses."""
    names = [name for name in PERCEPTUAL if name in metrics]
    more = "".join(f", {name} {metrics[name]:.4f} ({metrics[f'bicubic_{name}']:.4f})" for name in names)
    name = "psnr_y" if "psnr_y" in metrics else "psnr"
    return f"{metrics['validation']} {metrics[name]:.2f} dB (bicubic {metrics[f'bicubic_{name}']:.2f}){more}"


def _perceptual_means(
    benchmark: Benchmark, metrics: Mapping[str, PerceptualMetric], images: Sequence[np.ndarray]
) -> dict[str, float]:
    """Metric -> mean over the images, rounded as in the log."""
    pairs = list(zip(images, (hr for _, hr in benchmark.pairs), strict=True))
    return {name: round(float(np.mean([metric(*pair) for pair in pairs])), 5) for name, metric in metrics.items()}


def benchmark_of(
    name: str,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    scale: int,
    names: Sequence[str] = (),
    *,
    samples: SampleFormat = RGB8,
    valid: Sequence[np.ndarray | None] = (),
) -> Benchmark:
    """A benchmark of (LR, HR) pairs, with their names if there are any."""
    plain = Benchmark(
        name, tuple(pairs), scale, bicubic=(math.nan, math.nan), names=tuple(names), samples=samples, valid=tuple(valid)
    )
    return replace(plain, bicubic=_means(plain, [imresize(lr, scale) for lr, _ in pairs]))


def held_out(stores: Sequence[Store], images: int, tiles: int) -> Benchmark | None:
    """Up to `tiles` tiles, evenly spread over the held-out images; None if there are none."""
    places = [(store, row) for store in stores for row in range(held_out_from(store, images), len(store))]
    if not places:
        return None
    chosen = [places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(tiles, len(places))).round().astype(int))]
    pairs = [(store.read_tiles("lr", [row])[0], store.read_tiles("hr", [row])[0]) for store, row in chosen]
    prefixes = {id(store): f"store{number}-" if len(stores) > 1 else "" for number, store in enumerate(stores)}
    names = [f"{prefixes[id(store)]}tile{row}" for store, row in chosen]
    samples = stores[0].samples
    valid = [store.read_tiles("valid", [row])[0] > 0 for store, row in chosen] if samples.masked else []
    return benchmark_of("held-out", pairs, scale=stores[0].scale, names=names, samples=samples, valid=valid)


def check_benchmarks(benchmarks: Sequence[Benchmark], data: ShardDataset) -> None:
    """ConfigError if there are benchmarks of 8-bit images for other samples."""
    if benchmarks and not data.samples.is_rgb8:
        raise ConfigError(f"--benchmark: holds 8-bit images, the store has {data.samples.describe()}; leave it out")


def read_benchmark(folder: Path, scale: int) -> Benchmark:
    """The benchmark of a folder, read as `samdiff evaluate` reads it, see `benchmark.read_pairs`."""
    pairs = read_pairs(folder, scale)
    names = [pair.name for pair in pairs]
    return benchmark_of(folder.resolve().name, [(pair.lr, pair.hr) for pair in pairs], scale=scale, names=names)


def score(benchmark: Benchmark, upscale: Upscale, saver: SheetSaver | None = None) -> tuple[dict[str, Any], np.ndarray]:
    """Mean metrics of the benchmark, and its first image as bicubic, SR and HR side by side, uint8 [H, 3 W, 3].

    The sheets of the first images are saved by `saver`.
    """
    results = [upscale(lr, number) for number, (lr, _) in enumerate(benchmark.pairs)]
    psnr, ssim = _means(benchmark, results)
    if saver is not None:
        for number in range(min(saver.images, len(results))):
            saver.save(benchmark, number, _sheet(benchmark, number, results[number]))
    means = {benchmark.psnr: (psnr, 4), benchmark.ssim: (ssim, 5), f"bicubic_{benchmark.psnr}": (benchmark.bicubic[0], 4)}
    means |= {f"bicubic_{benchmark.ssim}": (benchmark.bicubic[1], 5)}
    # JSON has no NaN: metrics that all images are too small for are left out
    defined = {name: round(value, digits) for name, (value, digits) in means.items() if not math.isnan(value)}
    return {
        "validation": benchmark.name,
        "pictures": len(results),
        **defined,
        **_perceptual_means(benchmark, benchmark.perceptual, results),
        **{f"bicubic_{name}": value for name, value in benchmark.bicubic_perceptual.items()},
    }, _sheet(benchmark, 0, results[0])


def _sheet(benchmark: Benchmark, number: int, result: np.ndarray) -> np.ndarray:
    """Bicubic, result and HR side by side, uint8 [H, 3 W, 3]."""
    lr, hr = benchmark.pairs[number]
    images = (imresize(lr, benchmark.scale), result, hr)
    panels = [range_view(np.atleast_3d(image), benchmark.samples) for image in images]
    return np.hstack([np.broadcast_to(panel, (*panel.shape[:2], 3)) for panel in panels])


def _means(benchmark: Benchmark, results: Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean PSNR and SSIM of results."""
    scale, samples = benchmark.scale, benchmark.samples
    valid = benchmark.valid or (None,) * len(results)
    metrics = []
    for ours, (_, hr), own in zip(results, benchmark.pairs, valid, strict=True):
        if samples.is_rgb8:
            metrics.append((psnr_y(ours, hr, scale), ssim_y(ours, hr, scale)))
        else:
            found = range_metrics(ours, hr, samples, scale=scale, valid=own)
            metrics.append((found["psnr"], found["ssim"]))
    psnr, ssim = zip(*metrics, strict=True)
    return mean_of_defined(psnr), mean_of_defined(ssim)


@torch.inference_mode()
def regress(network: nn.Module, lr: np.ndarray, device: torch.device, samples: SampleFormat = RGB8) -> np.ndarray:
    """The image that a network of one step (an RRDB or a student) makes of LR, both uint8 [H, W, 3] or [H, W], or other samples [H, W, C]."""
    if not samples.is_rgb8:
        stored = torch.from_numpy(lr[None].copy())
        return from_model_range(network(to_model_range(stored, samples).to(device)), samples)[0]
    grey, own = lr.ndim == 2, torch.tensor(lr)  # a copy: images from files are read-only
    rgb = own[..., None].expand(-1, -1, 3) if grey else own
    out = to_pixels(network(to_model_range(rgb[None]).to(device)))[0].cpu().numpy()
    return out[..., 1] if grey else out
