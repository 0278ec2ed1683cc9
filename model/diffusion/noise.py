"""Noise as a function of (seed, sample, step, position), so that no whole noise image is kept. Pure.

A pixel gets the same noise for any image size, tiling and order of computation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError

BLOCK = 128  # pixels; whole blocks are drawn, so requests should be aligned to it


@dataclass(frozen=True)
class NoiseField:
    """Standard normal noise for each pixel of an image and each step."""

    seed: int
    """0 … 2^64 - 1."""
    width: int
    """Width of the image in pixels."""
    sample: int = 0
    """Index of the sample."""
    bands: int = 3
    """Of the image."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"seed: expected 0 to 2^64 - 1, got {self.seed}")

    def rows(self, step: int, top: int, bottom: int) -> Tensor:
        """float32 [1, bands, bottom - top, width] on the CPU: rows top … bottom - 1 of step `step`."""
        out = np.empty((self.bands, bottom - top, self.width), np.float32)
        for block_y in range(top // BLOCK, -(-bottom // BLOCK)):
            first, last = max(top, block_y * BLOCK), min(bottom, (block_y + 1) * BLOCK)
            for block_x in range(-(-self.width // BLOCK)):
                left, right = block_x * BLOCK, min(self.width, (block_x + 1) * BLOCK)
                block = self._block(step, block_y, block_x)[:, first - block_y * BLOCK : last - block_y * BLOCK, : right - left]
                out[:, first - top : last - top, left:right] = block
        return torch.from_numpy(out)[None]

    def _block(self, step: int, block_y: int, block_x: int) -> np.ndarray:
        """Philox (Salmon et al. 2011), a counter-based generator: the upper words of the counter hold the position of the block."""
        counter = np.array([0, block_x, block_y, step], np.uint64)
        bits = np.random.Philox(key=np.array([self.seed, self.sample], np.uint64), counter=counter)
        return np.random.Generator(bits).standard_normal((self.bands, BLOCK, BLOCK), dtype=np.float32)
