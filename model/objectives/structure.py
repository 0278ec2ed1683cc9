"""Losses by regions of the label map, an auxiliary task, and the loss of the scale head. Pure; masks are needed in training only.

    L = mean_p w_p |c_p - c_theta,p|      (or its square), with the mean of w over each crop equal to 1
    w_p = (1 + lambda v_p) / mean(1 + lambda v)

    mean        v_p = A_p^(-1/2) / mean(A^(-1/2))      A_p: area of the pixel's region in the crop
    boundary    v_p = 1 within N pixels of a boundary between regions, else 0

So the loss of a constant error is that of the unweighted loss. With `mean`, the mean error of a region counts like the root of its area;
if it counted the same for every region (v ~ 1 / A), fragments of a few pixels would dominate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import LossConfig, RunConfig
from ..diffusion.regions import areas, near_boundary


def mask_users(config: RunConfig) -> list[str]:
    """The settings of a run that need masks, such as `modulation 'official'`; none of them may be used with a store without masks."""
    d, loss = config.diffusion, config.loss
    used = {
        f"modulation {d.modulation!r}": d.modulation != "none",
        f"diffusion.scale_from {d.scale_from!r}": d.scale_from in ("masks", "oracle"),
        f"loss.regions {loss.regions!r}": loss.regions != "none",
        f"loss.auxiliary {loss.auxiliary!r}": loss.auxiliary != "none",
        f"train.labels {config.train.labels!r}": config.train.labels != "masks",
    }
    return [name for name, needed in used.items() if needed]


def region_weights(labels: Tensor, count: int, loss: LossConfig) -> Tensor | None:
    """w, float32 [B, 1, H, W], for label maps [B, H, W] with labels below `count`; None without `loss.regions`."""
    if loss.regions == "none":
        return None
    if loss.regions == "mean":
        v = areas(labels, count).to(torch.float32).rsqrt()
        v = v / v.mean(dim=(1, 2), keepdim=True)
    else:
        v = near_boundary(labels, loss.boundary_width).to(torch.float32)
    weights = 1 + loss.region_weight * v
    return (weights / weights.mean(dim=(1, 2), keepdim=True))[:, None]


def valid_weights(weights: Tensor | None, valid: Tensor | None) -> Tensor | None:
    """Weights [B, 1, H, W] that leave invalid pixels out, with a mean of 1 over the valid ones.

    Args:
        weights: of `region_weights`.
        valid: uint8 [B, H, W]; None: all pixels are valid.
    """
    if valid is None:
        return weights
    chosen = valid[:, None].to(torch.float32)
    chosen = chosen / chosen.mean().clamp_min(1e-6)  # a batch without a valid pixel has the loss 0
    return chosen if weights is None else weights * chosen


def weighted_loss(ours: Tensor, target: Tensor, weights: Tensor | None, *, kind: str) -> Tensor:
    """Mean of |ours - target| (`l1`) or its square (`l2`), both [B, C, H, W], times the weights [B, 1, H, W] if there are any."""
    if weights is None:
        return F.l1_loss(ours, target) if kind == "l1" else F.mse_loss(ours, target)
    difference = ours - target
    return (weights * (difference.abs() if kind == "l1" else difference.square())).mean()


def auxiliary_loss(output: Tensor, labels: Tensor, e: Tensor | None, *, loss: LossConfig) -> Tensor:
    """`auxiliary_weight` times the loss of the auxiliary head.

    Args:
        output: of the head, [B, 1, H, W].
        labels: integers [B, H, W]; for `boundary` the target is `near_boundary`, with binary cross-entropy.
        e: for `e`: E_SAM [B, 1, H, W], the target, with L1.
        loss: settings.
    """
    if loss.auxiliary == "boundary":
        target = near_boundary(labels, loss.boundary_width)[:, None].to(output.dtype)
        return loss.auxiliary_weight * F.binary_cross_entropy_with_logits(output, target)
    assert e is not None
    return loss.auxiliary_weight * F.l1_loss(output, e.to(output.dtype))


def scale_loss(log_scale: Tensor, scale: Tensor, *, loss: LossConfig) -> Tensor:
    """`scale_weight` times the mean of |log S^ - log S|, both [B, 1, H, W]."""
    return loss.scale_weight * F.l1_loss(log_scale.float(), scale.log())
