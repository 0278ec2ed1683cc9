"""Settings of the losses of stage two beside the main one."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, at_most, one_of

PERCEPTUAL = ("none", "lpips", "lpips-vgg", "dists")


@dataclass(frozen=True)
class LossConfig:
    """Losses of stage two beside the main one, on the image that one step gives (a second phase of the training)."""

    perceptual: str = "none"
    """none, lpips (AlexNet), lpips-vgg or dists: the distance of the one-step image to HR."""
    weight: float = 1.0
    """Of the perceptual distance."""
    pixel_weight: float = 1.0
    """Of L1 between the one-step image and HR, both in [-1, 1]."""
    begin: float = 0.2
    """Share of stage two's steps after which the second phase begins."""
    share: float = 0.5
    """Share of each batch whose one-step image is looked at; these samples are at the time of one step."""

    def __post_init__(self) -> None:
        one_of(self, "perceptual", PERCEPTUAL)
        at_least(self, 0, "weight", "pixel_weight", "begin", "share")
        at_most(self, 1, "begin", "share")
        at_most(self, 1e6, "weight", "pixel_weight")
