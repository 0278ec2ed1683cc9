"""The scores of one run: each way to sample it, each image, each sample. Kept in one file, so that scoring resumes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ...errors import ConfigError, StoreError, printable
from ...pipeline.storage.atomic import unreadable, unwritable, write_atomic
from ...pipeline.storage.regular import read_regular
from ..evaluation.held_out import ScoredImage
from ..evaluation.metrics import boundary_band, mean_within, psnr_within, psnr_y, ssim_y
from ..evaluation.oracle import oracle_scale
from ..inference.upscaler import InferConfig, SuperResolver
from ..losses.perceptual import MIN_SIDES, PerceptualMetric, load_perceptual
from ..names import PERCEPTUAL
from .config import OF_REGIONS, StudyConfig
from .plan import RRDB_ALONE, Budget

MARK = "samdiff study"
"""Key of every file that a study writes and reads again."""
Samples = list[dict[str, float | None]]
"""The metrics of the samples of one image; None where one is not defined."""
_LARGEST = 1 << 28  # bytes of a file of scores
_EVERY = 10.0  # seconds between two writes
_APART = 100_003  # a prime above the number of images: seeds of samples do not meet


class Scores:
    """The scores of one run: label of a budget -> name of an image -> its samples. Written atomically.

    A file that belongs to another model or other images is begun anew; one that is not ours is an error.
    """

    def __init__(self, file: Path, decides: Mapping[str, object]) -> None:
        """
        Args:
            file: `scores/RUN.json` of the study.
            decides: everything that the scores depend on, as JSON values.

        Raises:
            StoreError: the file is not one of a study, or cannot be read.
        """
        self.file, self._decides = file, json.loads(json.dumps(decides))
        found = read_marked(file) or {}
        known = found.get("scores") if found.get("decides") == self._decides else None
        self.by_budget: dict[str, dict[str, Samples]] = known if isinstance(known, dict) else {}
        self._written = time.monotonic()

    def add(self, budget: Budget, image: ScoredImage, samples: Samples) -> None:
        """Keep the samples of an image; written at most every ten seconds, see `write`."""
        self.by_budget.setdefault(budget.label, {})[image.name] = samples
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def write(self, finished: str = "") -> None:
        """Write the file.

        Args:
            finished: the key of a run whose scores are complete, see `queue.status_of`.
        """
        write_marked(self.file, {"decides": self._decides, "finished": finished, "scores": self.by_budget})
        self._written = time.monotonic()


def score(
    model: SuperResolver,
    images: Sequence[ScoredImage],
    budgets: Sequence[Budget],
    study: StudyConfig,
    networks: Mapping[str, PerceptualMetric],
    scores: Scores,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Sample and score what is not in `scores` yet; what is finished is written also when it is interrupted.

    The noise of a sample depends on the image and the sample only, so that runs are compared with the same noise.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    bands = {image.name: boundary_band(image.labels, study.band) for image in images if image.labels is not None}
    try:
        for budget in budgets:
            for number, image in enumerate(images):
                if image.name not in scores.by_budget.get(budget.label, {}):
                    seeds = [
                        sample * _APART + number for sample in range(_samples_of(model, image, budget, most=study.samples))
                    ]
                    images_of = (_sampled(model, image, budget, seed=seed) for seed in seeds)
                    samples = [_plain(measure(sr, image, study, networks, bands=bands)) for sr in images_of]
                    scores.add(budget, image, samples)
                on_image()
    finally:
        scores.write()


def measure(
    sr: np.ndarray,
    image: ScoredImage,
    study: StudyConfig,
    networks: Mapping[str, PerceptualMetric],
    *,
    bands: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """The study's metrics of one result, uint8 like HR; those of regions only for images with a label map."""
    border = image.hr.shape[0] // image.lr.shape[0]
    found: dict[str, float] = {"psnr_y": psnr_y(sr, image.hr, border), "ssim_y": ssim_y(sr, image.hr, border)}
    found |= {name: metric(sr, image.hr) for name, metric in networks.items() if name in study.metrics}
    band = bands.get(image.name)
    if band is not None:
        found["psnr_boundary"] = psnr_within(sr, image.hr, band, crop_border=border)
        found["psnr_inside"] = psnr_within(sr, image.hr, ~band, crop_border=border)
        if {"lpips_boundary", "lpips_inside"} & set(study.metrics):
            differences = networks["lpips"].spatial(sr, image.hr)
            found |= {"lpips_boundary": mean_within(differences, band), "lpips_inside": mean_within(differences, ~band)}
    return {name: found[name] for name in study.metrics if name in found}


def load_networks(study: StudyConfig, images: Sequence[ScoredImage], device: torch.device) -> dict[str, PerceptualMetric]:
    """The perceptual metrics that a study needs, downloaded if necessary.

    Raises:
        ConfigError: an image is too small for one of them.
        WeightsError: weights are not available.
    """
    names = [name for name in PERCEPTUAL if name in study.metrics]
    if {"lpips_boundary", "lpips_inside"} & set(study.metrics) and "lpips" not in names:
        names.append("lpips")
    for image in images:
        for name in names:
            if min(image.hr.shape[:2]) < MIN_SIDES[name]:
                raise ConfigError(
                    f"metrics: {name} needs images with sides of at least {MIN_SIDES[name]} pixels, {printable(image.name)} has "
                    f"{image.hr.shape[1]} x {image.hr.shape[0]}; give a larger crop, or leave {name} out"
                )
    return {name: PerceptualMetric(name, load_perceptual(name, device)) for name in names}


def check_regions(study: StudyConfig, images: Sequence[ScoredImage]) -> str:
    """What is left out for lack of masks, as a line to report; empty if nothing is. ConfigError if no image at all has masks."""
    wanted = [name for name in study.metrics if name in OF_REGIONS]
    bare = [image for image in images if image.labels is None]
    if not wanted or not bare:
        return ""
    if len(bare) == len(images):
        raise ConfigError(
            f"metrics: {wanted[0]} needs masks, which only tiles of a store with masks have; leave {', '.join(wanted)} out"
        )
    return f"without {', '.join(wanted)} for {len(bare)} of {len(images)} images: they have no masks"


def read_marked(file: Path) -> dict[str, object] | None:
    """The content of a JSON file that a study wrote; None if there is none.

    Raises:
        StoreError: it is another file, damaged, or cannot be read.
    """
    try:
        values = json.loads(read_regular(file, _LARGEST))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(file, error) from error
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get(MARK) != 1:
        raise StoreError(
            f"{printable(file)}: expected a file that `samdiff study` wrote, got another or a damaged one; move it away"
        )
    return values


def write_marked(file: Path, values: Mapping[str, object]) -> None:
    """Write JSON atomically, with sorted keys and our mark. StoreError if it is not possible, or a file of others has the name."""
    read_marked(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({MARK: 1, **values}, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise unwritable(file, error) from error


def _samples_of(model: SuperResolver, image: ScoredImage, budget: Budget, *, most: int) -> int:
    """Number of samples to draw: one of the RRDB; none of a model with the true scale (`scale_from` oracle) for an image without masks."""
    if budget == RRDB_ALONE:
        return 1
    has_true_scale = image.labels is not None and image.hr.ndim == 3
    return most if has_true_scale or model.config.diffusion.scale_from != "oracle" else 0


def _sampled(model: SuperResolver, image: ScoredImage, budget: Budget, *, seed: int) -> np.ndarray:
    if budget == RRDB_ALONE:
        return model.upscale(image.lr, rrdb_only=True)
    scale = None
    if model.config.diffusion.scale_from == "oracle" and image.labels is not None:
        scale = oracle_scale(model, image.lr, image.hr, image.labels)
    settings = InferConfig(sampler=budget.sampler, steps=budget.steps, seed=seed, num_samples=1)
    return model.upscale(image.lr, settings, noise_scale=scale)


def _plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
