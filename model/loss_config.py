"""Settings of the losses beside the main one, the section [loss] of `config.py`. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import check, setting
from .names import AUXILIARIES, PERCEPTUAL, REGION_LOSSES


@dataclass(frozen=True)
class LossConfig:
    """Losses beside the main one: on the image predicted in one step (the second phase of stage two), and by regions."""

    perceptual: str = setting("none", choices=("none", *PERCEPTUAL))
    """Perceptual loss between the one-step image and HR; lpips uses AlexNet."""
    weight: float = setting(1.0, min=0, max=1e6)
    """Weight of the perceptual loss."""
    pixel_weight: float = setting(1.0, min=0, max=1e6)
    """Weight of the L1 loss between the one-step image and HR, both in [-1, 1]."""
    checkerboard: float = setting(0.0, min=0, max=1e6)
    """Weight of a loss on periodic patterns (period: the scale) that the one-step image adds, in squared levels of 255; with perceptual only."""
    begin: float = setting(0.2, min=0, max=1)
    """Fraction of the steps of stage two after which the second phase begins."""
    share: float = setting(0.5, min=0, max=1)
    """Fraction of each batch that gets the additional losses, at the fixed time step of one-step prediction."""
    regions: str = setting("none", choices=REGION_LOSSES)
    """Weights of pixels in the main loss of both stages: none, mean (pixels of small masks count more), or boundary (those near one)."""
    region_weight: float = setting(3.0, min=0, max=1e6)
    """For regions: how much is added to the weight 1 of each pixel, before the weights are divided by their mean."""
    boundary_width: int = setting(2, min=1, max=64)
    """Pixels on each side of a boundary between regions that count as near it."""
    auxiliary: str = setting("none", choices=AUXILIARIES)
    """What a head, which inference does not need, predicts from the features of the trained network: boundary or e (E_SAM)."""
    auxiliary_weight: float = setting(0.1, min=0, max=1e6)
    """Weight of the loss of that head."""
    scale_weight: float = setting(0.1, min=0, max=1e6)
    """For diffusion.scale_from: weight of the L1 loss on the logarithm of the scale."""

    def __post_init__(self) -> None:
        check(self)
