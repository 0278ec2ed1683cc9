"""The streams of random numbers of training, in one list: everything random about a sample is `mix(seed, stream, …)`. Pure.

Two uses with one number would draw the same values, and nobody would notice. The numbers are frozen: another one means other samples, so
that old runs could not be resumed. (The noise of sampling and blind degradation have generators of their own: `diffusion/noise.py`
is Philox with the key (seed, sample), `degrade/recipes.py` Philox seeded by (seed, content of the image).)
"""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Stream(IntEnum):
    """The second word of `mix` and `draw`; what follows it is in parentheses."""

    BLOCKS = 1
    """Order of the blocks of tiles (epoch)."""
    WINDOW = 2
    """Order of the tiles in a window of blocks (epoch, window)."""
    CROP_Y = 11
    """Top of the crop (position)."""
    CROP_X = 12
    """Left side of the crop (position)."""
    FLIP_ROWS = 13
    """Whether the crop is turned upside down (position)."""
    FLIP_COLUMNS = 14
    """Whether it is mirrored (position)."""
    TRANSPOSE = 15
    """Whether rows and columns are exchanged (position)."""
    TIME = 21
    """Diffusion time t (position)."""
    NOISE = 22
    """Noise of the diffusion process (position)."""
    WEIGHTS = 23
    """Weights at the start (1: RRDB, 2: U-Net)."""
