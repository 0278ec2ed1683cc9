"""Perceptual figures through pyiqa (the extra `samdiff[iqa]`), which fetches their weights itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..errors import ConfigError

NAMES = ("lpips", "dists", "maniqa", "fid")
"""Those of the papers; any other name that pyiqa knows works too. `fid` compares folders, the others pictures."""

Measure = Callable[[np.ndarray, np.ndarray], float]


def load_measures(names: Sequence[str], device: torch.device, say: Callable[[str], None]) -> dict[str, Measure]:
    """Name -> figure of (result, HR), for those whose weights can be had; a line says which cannot, and why.

    Raises:
        ConfigError: pyiqa is not installed.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise ConfigError(
            f"--metrics {','.join(names)}: needs pyiqa, which is not installed ({error}); pip install 'samdiff[iqa]'"
        ) from error
    found: dict[str, Measure] = {}
    for name in names:
        if name == "fid":
            say("fid: compares two folders; run `pyiqa fid` on HR/ and on what --save writes")
            continue
        try:
            metric = pyiqa.create_metric(name, device=device)
        except Exception as error:  # noqa: BLE001 - whatever a download or an unknown name raises there
            say(
                f"{name}: left out, pyiqa could not set it up or fetch its weights ({type(error).__name__}: {str(error)[:120]})"
            )
            continue
        found[name] = _measure(metric)
    return found


def _measure(metric: Callable[..., torch.Tensor]) -> Measure:
    def measure(found: np.ndarray, hr: np.ndarray) -> float:
        return float(metric(_tensor(found), _tensor(hr)))

    return measure


def _tensor(image: np.ndarray) -> torch.Tensor:
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
