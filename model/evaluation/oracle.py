"""The true scale of the noise of an image whose HR is known: an upper bound in studies of `diffusion.scale_from`."""

from __future__ import annotations

import numpy as np
import torch

from ...errors import ImageError
from ..diffusion.noise_scale import true_scale
from ..diffusion.residual import base_image, to_model_range
from ..inference.upscaler import SuperResolver


@torch.inference_mode()
def oracle_scale(model: SuperResolver, lr: np.ndarray, hr: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """S, float32 [s h, s w], for `model.upscale(lr, noise_scale=S)`; computed without tiles, with the model's own `scale_from`.

    Args:
        model: trained with a `diffusion.scale_from`.
        lr: uint8 [h, w, 3].
        hr: uint8 [s h, s w, 3].
        labels: integers [s h, s w] from 0: the label map of HR.

    Raises:
        ImageError: the shapes do not fit.
        ConfigError: the model was trained without a scale.
    """
    size = tuple(side * model.scale for side in lr.shape[:2])
    if lr.ndim != 3 or hr.shape != (*size, 3) or labels.shape != size:
        raise ImageError(
            f"oracle_scale: expected HR [{size[0]}, {size[1]}, 3] and its labels for LR {list(lr.shape)}, "
            f"got {list(hr.shape)} and {list(labels.shape)}"
        )
    d = model.config.diffusion
    low, high = (to_model_range(torch.from_numpy(image[None].copy())).to(model.device) for image in (lr, hr))
    base = model.rrdb(low).clamp(-1, 1) if d.base == "rrdb" else base_image(low, model.scale, d.lr_levels)
    regions = torch.from_numpy(labels.astype(np.int64))[None].to(model.device)
    scale = true_scale(
        model.process.residual(high, base),
        regions,
        source=d.scale_from,
        count=int(labels.max()) + 1,
        sigma=d.scale_sigma,
        rescale=d.rescale,
    )
    return scale[0, 0].cpu().numpy()
