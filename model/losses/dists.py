"""DISTS (Ding et al. 2020, arXiv 2004.07728): structure and texture of VGG16's features. Equal to the package `dists-pytorch`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from .features import VGG_CHANNELS, vgg16
from .lpips import check_pair

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet statistics, for images in [0, 1]
_C = 1e-6  # the authors' c1 and c2
CHANNELS = (3, *VGG_CHANNELS)
"""Channels of the compared feature maps: the image itself, then the five blocks of VGG16."""


class L2Pool(nn.Module):
    """L2 pooling with a 3 x 3 Hann window and stride 2, which DISTS uses instead of max pooling to avoid aliasing."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        window = torch.tensor([0.5, 1.0, 0.5])
        kernel = window[:, None] * window[None, :] / window.sum() ** 2
        self.register_buffer("kernel", kernel.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        mean = F.conv2d(features**2, self.kernel, stride=2, padding=1, groups=features.shape[1])
        return (mean + 1e-12).sqrt()


class DISTS(nn.Module):
    """Distance of two images by means and covariances of features over the whole image; tolerant of resampled texture.

    Its parameters are frozen: only the images get gradients. The authors resize images to 256 pixels in their experiments; the package
    does not, and neither does this class.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk = vgg16([L2Pool(channels) for channels in VGG_CHANNELS[:4]])
        self.alpha = nn.Parameter(torch.zeros(sum(CHANNELS)))
        """Weights of the means (texture), one per channel."""
        self.beta = nn.Parameter(torch.zeros(sum(CHANNELS)))
        """Weights of the covariances (structure)."""
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.min_side = 16
        """Minimum side of an image in pixels."""
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair: float32 [B], about 0 … 1, lower is more similar.

        Args:
            a: float [B, 3, H, W], sRGB scaled to [-1, 1].
            b: likewise.

        Raises:
            ValueError: wrong shapes, or sides that are too short.
        """
        check_pair(a, b, min_side=self.min_side)
        a, b = (a + 1) / 2, (b + 1) / 2
        whole = self.alpha.sum() + self.beta.sum()
        alphas, betas = (weights.split(CHANNELS) for weights in (self.alpha / whole, self.beta / whole))
        alike = _similarity(a.float(), b.float(), alpha=alphas[0], beta=betas[0])
        a, b = (a - self.mean) / self.std, (b - self.mean) / self.std
        for stage, alpha, beta in zip(self.trunk.stages, alphas[1:], betas[1:], strict=True):
            a, b = stage(a), stage(b)
            alike = alike + _similarity(a.float(), b.float(), alpha=alpha, beta=beta)
        return 1 - alike


def _similarity(x: Tensor, y: Tensor, /, alpha: Tensor, beta: Tensor) -> Tensor:
    """[B]: the weighted sum over channels of SSIM's two terms, with statistics of whole feature maps."""
    mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
    texture = (2 * mean_x * mean_y + _C) / (mean_x**2 + mean_y**2 + _C)
    var_x = ((x - mean_x[..., None, None]) ** 2).mean((2, 3))
    var_y = ((y - mean_y[..., None, None]) ** 2).mean((2, 3))
    covariance = (x * y).mean((2, 3)) - mean_x * mean_y
    structure = (2 * covariance + _C) / (var_x + var_y + _C)
    return (alpha * texture + beta * structure).sum(1)
