"""Whether a diffusion model has collapsed to its RRDB: how much detail it adds, and how much that varies between seeds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MOST_IMAGES = 4
"""Images that are measured; each costs one more sample and one pass of the RRDB."""


def diversity(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    regress: Callable[[np.ndarray], np.ndarray],
    sample: Callable[[np.ndarray, int], np.ndarray],
) -> dict[str, float]:
    """Root mean squares over the first few images, in units of 1/255.

    Args:
        pairs: (LR, HR), uint8.
        regress: LR -> the RRDB's image, uint8.
        sample: (LR, seed) -> the model's image, uint8.

    Returns:
        residual_rms: of result - RRDB; 0 is a collapse to the RRDB.
        residual_rms_hr: of HR - RRDB, the value of a perfect model.
        seed_rms: standard deviation over seeds (of two), per pixel; 0 for a deterministic model.
    """
    added, missing, spread = [], [], []
    for lr, hr in pairs[:MOST_IMAGES]:
        base, one, other = (image.astype(np.float32) for image in (regress(lr), sample(lr, 0), sample(lr, 1)))
        height, width = min(hr.shape[0], base.shape[0]), min(hr.shape[1], base.shape[1])
        added.append(np.mean((one - base) ** 2))
        missing.append(np.mean((hr[:height, :width].astype(np.float32) - base[:height, :width]) ** 2))
        spread.append(np.mean((one - other) ** 2) / 2)
    names = ("residual_rms", "residual_rms_hr", "seed_rms")
    return {
        name: round(float(np.sqrt(np.mean(values))), 3) for name, values in zip(names, (added, missing, spread), strict=True)
    }
