"""The classifiers whose features LPIPS and DISTS compare: AlexNet and VGG16 up to the last ReLU, with torchvision's tensor names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

ALEX_CHANNELS = (64, 192, 384, 256, 256)
"""Channels of AlexNet's five ReLU layers (torchvision's variant, Krizhevsky 2014)."""
VGG_CHANNELS = (64, 128, 256, 512, 512)
"""Channels of VGG16's layers relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 (Simonyan and Zisserman 2015)."""
_VGG_DEPTHS = (2, 2, 3, 3, 3)


class Features(nn.Module):
    """A sequence of layers that returns intermediate features.

    Args:
        layers: in the order of `features` of the same torchvision network.
        ends: for each stage, the index after its last layer.
    """

    def __init__(self, layers: Sequence[nn.Module], ends: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.ends = tuple(ends)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The layers between two outputs, in order: [B, C, H, W] -> [B, C', H', W'] each."""
        return [self.features[start:end] for start, end in pairwise((0, *self.ends))]

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], normalised as the network expects -> one [B, C, H', W'] per stage."""
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


def alexnet() -> Features:
    """AlexNet's five ReLU layers. Images need sides of at least 31 pixels."""
    c1, c2, c3, c4, c5 = ALEX_CHANNELS
    layers: list[nn.Module] = [
        nn.Conv2d(3, c1, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(c1, c2, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(c2, c3, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c3, c4, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c4, c5, kernel_size=3, padding=1),
        nn.ReLU(),
    ]
    return Features(layers, ends=(2, 5, 8, 10, 12))


def vgg16(pools: Sequence[nn.Module] | None = None) -> Features:
    """VGG16's five blocks of convolutions, each with the pooling before it. Images need sides of at least 16 pixels.

    Args:
        pools: four layers that halve the size; None: VGG's own max pooling.
    """
    pools = pools or [nn.MaxPool2d(kernel_size=2, stride=2) for _ in range(4)]
    layers: list[nn.Module] = []
    ends, channels = [], 3
    for block, (width, depth) in enumerate(zip(VGG_CHANNELS, _VGG_DEPTHS, strict=True)):
        if block:
            layers.append(pools[block - 1])
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        ends.append(len(layers))
    return Features(layers, ends)
