"""Names that settings may have as values. Without PyTorch, for the help and completion of the command line."""

from __future__ import annotations

SCALES = (1, 2, 3, 4, 8)
"""HR pixels per LR pixel that an RRDB can have."""
MODULATIONS = ("none", "official", "paper", "joint")
"""How E_SAM enters the process, see `diffusion/modulation.py`."""
SAMPLERS = ("ddpm", "ddim", "dpm2m", "paper", "paper-clipped")
"""See `diffusion/sampler.py`."""
FLOW_SAMPLER = "euler"
"""The sampler of a flow, see `diffusion/flow.py`."""
PROCESSES = ("ddpm", "flow")
"""See `diffusion/process.py`."""
BASES = ("bicubic", "rrdb")
"""The base image of residuals."""
PREDICTIONS = ("clean", "velocity")
"""What the network of a flow predicts."""
SCALE_SOURCES = ("none", "masks", "blur", "crop", "oracle")
"""Where the scale of the noise comes from, see `diffusion/noise_scale.py`."""
LABELS = ("masks", "shuffled")
"""The label maps of training samples, see `ShardDataset`."""
REGION_LOSSES = ("none", "mean", "boundary")
"""See `objectives/structure.py`."""
AUXILIARIES = ("none", "boundary", "e")
"""What the auxiliary head predicts, see `objectives/structure.py`."""
PERCEPTUAL = ("lpips", "lpips-vgg", "dists")
"""The perceptual metrics of `losses/perceptual.py`."""
QUALITIES = ("fast", "balanced", "best")
"""Recommended settings that travel with a model, see `diffusion/recommended.py`."""
RESCALE = 2.0
"""SRDiff's factor for residuals to the bicubic upsampling: they are small, and are scaled to fill [-1, 1]."""
HR = "hr"
"""The method that names HR among the saved images of an evaluation."""
DIGITS = {"ssim_y": 4, "ssim_y_full": 4, "ldl": 5, "lpips": 4, "lpips-vgg": 4, "dists": 4, "maniqa": 4}
"""Decimals of metrics in tables; 3 for the others."""
