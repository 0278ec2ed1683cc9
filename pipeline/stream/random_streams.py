"""The random streams of training, in one list: everything random about a sample is computed from `mix(seed, stream, …)`. Pure.

Each use needs its own number, because two uses of the same number would draw the same values. The numbers must not change: old runs could
not be resumed with other samples. Sampling and blind degradation have other generators: `diffusion/noise.py` uses Philox with the key
(seed, sample), and `degrade/recipes.py` Philox with a seed from (seed, content of the image).
"""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Stream(IntEnum):
    """The second word for `mix` and `draw`, after the seed. The words that follow it are in parentheses."""

    BLOCKS = 1
    """Order of the blocks of tiles (epoch)."""
    WINDOW = 2
    """Order of the tiles in a window of blocks (epoch, window)."""
    CROP_Y = 11
    """Top edge of the crop (position)."""
    CROP_X = 12
    """Left edge of the crop (position)."""
    FLIP_ROWS = 13
    """Whether the rows of the crop are reversed (position)."""
    FLIP_COLUMNS = 14
    """Whether the columns of the crop are reversed (position)."""
    TRANSPOSE = 15
    """Whether the crop is transposed (position)."""
    LABELS_Y = 16
    """For shuffled labels: rows that the label map is moved by (position)."""
    LABELS_X = 17
    """For shuffled labels: columns that the label map is moved by (position)."""
    TIME = 21
    """Diffusion time t (position)."""
    NOISE = 22
    """Noise of the diffusion process (position)."""
    WEIGHTS = 23
    """Initial weights (1: RRDB, 2: U-Net)."""
