"""Perceptual figures through pyiqa (the extra `samdiff[iqa]`), which fetches their weights itself."""

from __future__ import annotations

import contextlib
import difflib
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ConfigError
from ...runtime import brief_downloads

PictureMeasure = Callable[[np.ndarray, np.ndarray], float]
FolderMeasure = Callable[[Path, Path], float]

OF_FOLDERS = ("fid", "sfid", "fid_dinov2")
"""pyiqa's names of the figures that compare two folders; `fid` is the one of the papers."""


@dataclass(frozen=True)
class Measures:
    """The figures that could be had, by name, and why others could not."""

    pictures: dict[str, PictureMeasure] = field(default_factory=dict)
    """Of (result, HR), uint8 [H, W] or [H, W, 3]."""
    folders: dict[str, FolderMeasure] = field(default_factory=dict)
    """Of (folder of results, folder of HR)."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Name -> reason; grows while figures are made: one that fails for a picture is NaN there."""


def load_measures(names: Sequence[str], device: torch.device) -> Measures:
    """The named figures, as far as their weights can be had.

    Raises:
        ConfigError: pyiqa is not installed, or does not know a name.
    """
    with brief_downloads():
        try:
            import pyiqa
        except ImportError as error:
            raise ConfigError(
                f"--metrics {','.join(names)}: needs pyiqa, which cannot be imported ({error}); pip install 'samdiff[iqa]'"
            ) from error
        known, found = pyiqa.list_models(), Measures()
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 3) or ("lpips", "dists", "maniqa", "fid")
                raise ConfigError(f"--metrics: pyiqa knows no {name!r}; perhaps {', '.join(near)}")
        for name in names:
            try:
                with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():  # the results alone belong to stdout
                    warnings.simplefilter("ignore")
                    metric = pyiqa.create_metric(name, device=device)
            except Exception as error:  # noqa: BLE001 - whatever a download or another library raises there
                found.skipped[name] = f"pyiqa could not set it up or fetch its weights ({_reason(error)})"
                continue
            if name in OF_FOLDERS:
                found.folders[name] = _guarded(name, found.skipped, _folder_measure(metric))
            else:
                found.pictures[name] = _guarded(name, found.skipped, _picture_measure(metric))
    return found


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
        return float(metric(_tensor(found), _tensor(hr)))

    return measure


def _folder_measure(metric: Any) -> FolderMeasure:
    def measure(found: Path, hr: Path) -> float:
        count = len(list(hr.iterdir()))
        if count < 2:
            raise ValueError(f"expected a folder of at least 2 pictures, got {count}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metric(str(found), str(hr), num_workers=0, verbose=False))

    return measure


def _tensor(image: np.ndarray) -> torch.Tensor:
    """[1, 3, H, W] in 0 … 1, RGB."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else 'no message'}"
