"""Perceptual metrics: LPIPS and DISTS by `losses`, others through pyiqa (the extra `samdiff[iqa]`), which fetches their weights itself.

Every metric sees the whole image (no crop) as RGB (sRGB). Those that draw random numbers (MANIQA's crops) get the same seed for each image.
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
from typing import Any

import numpy as np
import torch

from ...errors import ConfigError, printable
from ...runtime import brief_downloads
from ..losses.perceptual import METRICS, PerceptualMetric, load_perceptual
from ..losses.weights import has_weights

PictureMeasure = Callable[[np.ndarray, np.ndarray], float]
FolderMeasure = Callable[[Path, Path], float]

OF_FOLDERS = ("fid", "sfid", "fid_dinov2")
"""pyiqa's names of the figures that compare two folders; `fid` is the one of the papers."""
AUTO = ("lpips", "dists")
"""What `auto` means: a distance by AlexNet and one by VGG16."""


@dataclass(frozen=True)
class Measures:
    """The figures that could be had, by name, and why others could not."""

    pictures: dict[str, PictureMeasure] = field(default_factory=dict)
    """Of (result, HR), uint8 [H, W] or [H, W, 3]."""
    folders: dict[str, FolderMeasure] = field(default_factory=dict)
    """Of (folder of results, folder of HR)."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Name -> reason; grows while figures are made: one that fails for a picture is NaN there."""
    models: dict[str, str] = field(default_factory=dict)
    """Name -> the exact model and its protocol, for tables."""


def load_measures(names: Sequence[str], device: torch.device) -> Measures:
    """The named metrics: `lpips`, `lpips-vgg`, `dists`, and those of pyiqa as far as their weights can be had.

    Raises:
        ConfigError: pyiqa is needed and not installed, or does not know a name.
        WeightsError: the weights of LPIPS or DISTS cannot be had; the message says what to do.
    """
    names = list(dict.fromkeys(names))
    others = [name for name in names if name not in METRICS]
    found = _of_pyiqa(others, device) if others else Measures()
    own = {name: PerceptualMetric(name, load_perceptual(name, device)) for name in names if name in METRICS}
    found.pictures.update({name: _guarded(name, found.skipped, metric) for name, metric in own.items()})
    found.models.update({name: metric.model for name, metric in own.items()})
    pictures = {name: found.pictures[name] for name in names if name in found.pictures}  # in the order of the request
    return Measures(pictures, found.folders, skipped=found.skipped, models=found.models)


def choose_metrics(
    choice: str, device: torch.device, *, report: Callable[[str], None] = lambda _: None
) -> dict[str, PerceptualMetric]:
    """LPIPS and DISTS where they are an addition: in validation, on sheets, in benchmarks.

    Args:
        choice: `auto` (`lpips` and `dists`, those whose weights are in the cache: nothing is fetched), `off`, or names with commas between
            (fetched if need be).
        device: where they compute.
        report: gets one line on what `auto` leaves out, beginning with `without`.

    Raises:
        ConfigError: another choice.
        WeightsError: requested weights cannot be had, or weights in the cache are damaged.
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
        report(f"without {', '.join(missing)}: no weights in the cache; {fetched} brings them")
    return {name: PerceptualMetric(name, load_perceptual(name, device)) for name in names if name not in missing}


def metrics_for(metrics: Mapping[str, PerceptualMetric], side: int) -> dict[str, PerceptualMetric]:
    """Those of the metrics that can be made of images whose shortest side has so many pixels."""
    return {name: metric for name, metric in metrics.items() if side >= metric.network.min_side}


def _of_pyiqa(names: Sequence[str], device: torch.device) -> Measures:
    with brief_downloads():
        try:
            import pyiqa
        except ImportError as error:
            raise ConfigError(
                f"--metrics {','.join(names)}: needs pyiqa ({', '.join(METRICS)} do not), which cannot be imported ({error}); pip install 'samdiff[iqa]'"
            ) from error
        known, found = pyiqa.list_models(), Measures()
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
            except Exception as error:  # noqa: BLE001 - whatever a download or another library raises there
                found.skipped[name] = f"pyiqa could not set it up or fetch its weights ({_reason(error)})"
                continue
            found.models[name] = (
                f"pyiqa {getattr(pyiqa, '__version__', 'of unknown version')}, its model {name!r}; RGB (sRGB), no crop, seed 0 for each image"
            )
            if name in OF_FOLDERS:
                found.folders[name] = _guarded(name, found.skipped, _folder_measure(metric))
            else:
                found.pictures[name] = _guarded(name, found.skipped, _picture_measure(metric))
    return found


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Inside, the generators of Python, numpy and PyTorch begin at a seed; behind it, they are where they were."""
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


def _guarded(name: str, skipped: dict[str, str], measure: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
    """NaN and a reason where the figure cannot be made, such as of a picture that is too small for it."""

    def guarded(found: Any, hr: Any) -> float:
        try:
            value = measure(found, hr)
        except Exception as error:  # noqa: BLE001 - whatever another library raises: the other figures go on
            skipped.setdefault(name, f"NaN where it could not be made, the first time for {_reason(error)}")
            return math.nan
        if not math.isfinite(value):
            skipped.setdefault(name, f"is {value} for at least one picture or folder")
        return value

    return guarded


def _picture_measure(metric: Any) -> PictureMeasure:
    def measure(found: np.ndarray, hr: np.ndarray) -> float:
        with seeded():
            return float(metric(_tensor(found), _tensor(hr)))

    return measure


def _folder_measure(metric: Any) -> FolderMeasure:
    def measure(found: Path, hr: Path) -> float:
        count = len(list(hr.iterdir()))
        if count < 2:
            raise ValueError(f"expected a folder of at least 2 pictures, got {count}")
        with seeded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metric(str(found), str(hr), num_workers=0, verbose=False))

    return measure


def _tensor(image: np.ndarray) -> torch.Tensor:
    """[1, 3, H, W] in 0 … 1, RGB."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else 'no message'}"
