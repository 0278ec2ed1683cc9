"""Perceptual metrics by name, with their published weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError
from .dists import DISTS
from .lpips import LPIPS
from .weights import load_tensors

METRICS = {
    "lpips": "LPIPS v0.1, AlexNet",
    "lpips-vgg": "LPIPS v0.1, VGG16",
    "dists": "DISTS 0.1, VGG16",
}
"""Name -> the exact model. All on RGB (sRGB), the whole image, no crop; lower is more similar."""

MIN_SIDES = {"lpips": 31, "lpips-vgg": 16, "dists": 16}
"""Name -> minimum side of an image in pixels, known before any weights are loaded."""

PerceptualNetwork = LPIPS | DISTS


def load_perceptual(
    name: str, device: torch.device | str = "cpu", *, cache: Path | None = None, download: bool = True
) -> PerceptualNetwork:
    """Load a metric with its published weights, frozen, in evaluation mode: (a, b) float [B, 3, H, W] in [-1, 1] -> float32 [B].

    Args:
        name: `lpips`, `lpips-vgg` or `dists`.
        device: to compute on.
        cache: folder; None: `SAMDIFF_CACHE`, or the user's cache folder.
        download: whether missing weights may be downloaded (64 MB).

    Raises:
        ConfigError: an unknown metric.
        WeightsError: its weights are not available, or damaged.
    """
    tensors = load_tensors(name, cache=cache, download=download)
    if name == "dists":
        trunk = load_tensors("lpips-vgg", cache=cache, download=download)
        tensors |= {part: value for part, value in trunk.items() if part.startswith("trunk.")}
    network: PerceptualNetwork
    with torch.random.fork_rng(devices=[]):  # initial weights must not change the random state of a training
        network = DISTS() if name == "dists" else LPIPS("alex" if name == "lpips" else "vgg")
    network.load_state_dict(tensors)
    return network.to(device).eval()


def perceptual_distance(a: Tensor, b: Tensor, *, name: str = "lpips-vgg", download: bool = False) -> Tensor:
    """The perceptual distance of each pair of images, differentiable in both: float32 [B].

    The network is loaded once per process and device. For a training loop use `load_perceptual`.

    Args:
        a: float [B, 3, H, W], sRGB scaled to [-1, 1], not cropped.
        b: likewise, on the same device.
        name: `lpips`, `lpips-vgg` or `dists`.
        download: whether missing weights may be downloaded.

    Raises:
        ConfigError, WeightsError: see `load_perceptual`.
        ValueError: wrong shapes, or sides that are too short.
    """
    distance: Tensor = _kept(name, a.device, download)(a, b)
    return distance


@lru_cache(maxsize=8)
def _kept(name: str, device: torch.device, download: bool) -> PerceptualNetwork:
    return load_perceptual(name, device, download=download)


@dataclass(frozen=True)
class PerceptualMetric:
    """A perceptual metric of uint8 images, for tables."""

    name: str
    network: PerceptualNetwork

    @property
    def model(self) -> str:
        """The exact model and protocol, for tables."""
        return f"{METRICS[self.name]}; RGB (sRGB), no crop"

    def __call__(self, sr: np.ndarray, hr: np.ndarray) -> float:
        """The distance of two uint8 images [H, W] or [H, W, 3] of the same shape; grey is converted to RGB with equal bands."""
        device = next(self.network.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return float(self.network(_tensor(sr, device), _tensor(hr, device)))

    def spatial(self, sr: np.ndarray, hr: np.ndarray) -> np.ndarray:
        """float32 [H, W]: LPIPS' map of differences, see `LPIPS.spatial`; images as for a call. ConfigError for DISTS, which has none."""
        if not isinstance(self.network, LPIPS):
            raise ConfigError(
                f"{self.name}: compares statistics of whole feature maps, so it has no map; use lpips or lpips-vgg"
            )
        device = next(self.network.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.network.spatial(_tensor(sr, device), _tensor(hr, device))[0].cpu().numpy()


def _tensor(image: np.ndarray, device: torch.device) -> Tensor:
    """[1, 3, H, W] in -1 … 1."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    own = torch.from_numpy(np.array(rgb))  # a copy: images from files are read-only
    return own.to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
