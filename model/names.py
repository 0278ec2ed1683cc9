"""Names that a setting may have as its value. They stand here, without PyTorch, for the command line's help and completion."""

from __future__ import annotations

SCALES = (1, 2, 3, 4, 8)
"""HR pixels per LR pixel that an RRDB can have."""
MODULATIONS = ("none", "official", "paper", "joint")
"""How E enters the process, see `diffusion/modulation.py`."""
SAMPLERS = ("ddpm", "ddim", "dpm2m", "paper", "paper-clipped")
"""See `diffusion/sampler.py`."""
