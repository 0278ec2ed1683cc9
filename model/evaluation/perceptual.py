"""Perceptual metrics: LPIPS and DISTS by `losses`, others through pyiqa (the extra `samdiff[iqa]`), which downloads their weights itself.

Every metric is computed on the whole image (no crop) in RGB (sRGB). Random metrics (MANIQA's crops) use the same seed for each image.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ...errors import ConfigError, nearest, printable
from ...runtime import brief_downloads
from ..losses.perceptual import METRICS, PerceptualMetric, load_perceptual
from ..losses.weights import has_weights

V = TypeVar("V")
ImageMetric = Callable[[np.ndarray, np.ndarray], float]
FolderMetric = Callable[[Path, Path], float]

OF_FOLDERS = ("fid", "sfid", "fid_dinov2")
"""pyiqa's names of metrics that compare two folders; papers report `fid`."""
AUTO = ("lpips", "dists")
"""What `auto` means: a distance by AlexNet and one by VGG16."""


@dataclass(frozen=True)
class Measures:
    """The metrics that could be loaded, by name, and why others could not."""

    images: dict[str, ImageMetric] = field(default_factory=dict)
    """Of (result, HR), uint8 [H, W] or [H, W, 3]."""
    folders: dict[str, FolderMetric] = field(default_factory=dict)
    """Of (folder of results, folder of HR)."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Name -> reason; also filled during evaluation: a metric that fails for an image is NaN there."""
    models: dict[str, str] = field(default_factory=dict)
    """Name -> the exact model and its protocol, for tables."""


def load_measures(names: Sequence[str], device: torch.device) -> Measures:
    """The named metrics: `lpips`, `lpips-vgg`, `dists`, and those of pyiqa if their weights can be downloaded.

    Raises:
        ConfigError: pyiqa is needed but not installed, or does not know a name.
        WeightsError: the weights of LPIPS or DISTS are not available; the message says what to do.
    """
    names = list(dict.fromkeys(names))
    others = [name for name in names if name not in METRICS]
    measures = _of_pyiqa(others, device) if others else Measures()
    own = {name: PerceptualMetric(name, load_perceptual(name, device)) for name in names if name in METRICS}
    measures.images.update({name: _guarded(name, measures.skipped, metric) for name, metric in own.items()})
    measures.models.update({name: metric.model for name, metric in own.items()})
    images = {name: measures.images[name] for name in names if name in measures.images}  # in the order of the request
    return Measures(images, measures.folders, skipped=measures.skipped, models=measures.models)


def choose_metrics(
    choice: str, device: torch.device, *, report: Callable[[str], None] = lambda _: None
) -> dict[str, PerceptualMetric]:
    """LPIPS and DISTS as optional metrics: in validation, comparisons and the demo.

    Args:
        choice: `auto` (those of `lpips` and `dists` whose weights are in the cache; no download), `off`, or names separated by commas
            (downloaded if necessary).
        device: to compute on.
        report: called with one line on what `auto` leaves out, beginning with `without`.

    Raises:
        ConfigError: an unknown choice.
        WeightsError: requested weights are not available, or weights in the cache are damaged.
    """
    if choice == "off":
        return {}
    names = AUTO if choice == "auto" else tuple(dict.fromkeys(choice.split(",")))
    if unknown := [name for name in names if name not in METRICS]:
        raise ConfigError(
            f"perceptual metrics: expected auto, off, or names of {', '.join(METRICS)} with commas between, got {printable(unknown[0])!r}"
        )
    missing = [name for name in names if choice == "auto" and not has_weights(name)]
    if missing:
        fetched = " and ".join(f"`samdiff weights {name}`" for name in missing)
        report(f"without {', '.join(missing)}: no weights in the cache; download them with {fetched}")
    return {name: PerceptualMetric(name, load_perceptual(name, device)) for name in names if name not in missing}


def metrics_for(metrics: Mapping[str, PerceptualMetric], side: int) -> dict[str, PerceptualMetric]:
    """The metrics that can be computed for images whose shortest side has `side` pixels."""
    return {name: metric for name, metric in metrics.items() if side >= metric.network.min_side}


def _of_pyiqa(names: Sequence[str], device: torch.device) -> Measures:
    with brief_downloads():
        try:
            import pyiqa
        except ImportError as error:
            suggestion = "".join(nearest(name, tuple(METRICS)) for name in names)
            raise ConfigError(
                f"--metrics {','.join(names)}{suggestion}: needs pyiqa ({', '.join(METRICS)} do not), which cannot be imported ({error}); pip install 'samdiff[iqa]'"
            ) from error
        known, measures = pyiqa.list_models(), Measures()
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, [*METRICS, *known], 3) or ("maniqa", "musiq", "fid")
                raise ConfigError(
                    f"--metrics: expected {', '.join(METRICS)} or a metric of pyiqa, got {name!r}; perhaps {', '.join(near)}"
                )
        for name in names:
            try:
                with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():  # the results alone belong to stdout
                    warnings.simplefilter("ignore")
                    metric = pyiqa.create_metric(name, device=device)
            except Exception as error:  # noqa: BLE001 - downloads and other libraries raise many kinds of exceptions
                measures.skipped[name] = f"pyiqa could not set it up or fetch its weights ({_reason(error)})"
                continue
            measures.models[name] = (
                f"pyiqa {getattr(pyiqa, '__version__', 'of unknown version')}, its model {name!r}; RGB (sRGB), no crop, seed 0 for each image"
            )
            if name in OF_FOLDERS:
                measures.folders[name] = _guarded(name, measures.skipped, _folder_metric(metric))
            else:
                measures.images[name] = _guarded(name, measures.skipped, _image_metric(metric))
    return measures


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seeds the random generators of Python, NumPy and PyTorch, and restores their states at the end."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - what other libraries draw from
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def _guarded(name: str, skipped: dict[str, str], measure: Callable[[V, V], float]) -> Callable[[V, V], float]:
    """The metric, with NaN and a reason where it cannot be computed, such as for an image that is too small."""

    def guarded(sr: V, hr: V) -> float:
        try:
            value = measure(sr, hr)
        except Exception as error:  # noqa: BLE001 - other libraries raise many kinds of exceptions; the other metrics are still computed
            skipped.setdefault(name, f"NaN where it could not be computed; the first error: {_reason(error)}")
            return math.nan
        if not math.isfinite(value):
            skipped.setdefault(name, f"is {value} for at least one image or folder")
        return value

    return guarded


def _image_metric(metric: Callable[..., torch.Tensor | float]) -> ImageMetric:
    def measure(sr: np.ndarray, hr: np.ndarray) -> float:
        with seeded():
            return float(metric(_tensor(sr), _tensor(hr)))

    return measure


def _folder_metric(metric: Callable[..., torch.Tensor | float]) -> FolderMetric:
    def measure(sr: Path, hr: Path) -> float:
        count = len(list(hr.iterdir()))
        if count < 2:
            raise ValueError(f"expected a folder of at least 2 images, got {count}")
        with seeded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metric(str(sr), str(hr), num_workers=0, verbose=False))

    return measure


def _tensor(image: np.ndarray) -> torch.Tensor:
    """[1, 3, H, W] in 0 … 1, RGB."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else 'no message'}"
