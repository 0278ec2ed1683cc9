"""A network of one step as it is exported: one tile in, one tile out, images in [0, 1]. Pure."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError
from ..checkpoints.format import Checkpoint, config_in, load_into
from ..networks.build import build_rrdb, build_student
from ..networks.rrdb import RRDB
from ..networks.student import Student

NETWORKS = ("rrdb", "student")
PRECISIONS = ("fp32", "fp16", "int8")


class TileNetwork(nn.Module):
    """LR [1, 3, N, N] in [0, 1] -> HR [1, 3, s N, s N] in [0, 1], clipped; float32 in and out."""

    def __init__(self, network: RRDB | Student, *, half: bool = False) -> None:
        """
        Args:
            network: of one step.
            half: compute in float16; the student's base image stays in float32.
        """
        super().__init__()
        self.half_precision = half
        self.network = copy.deepcopy(network).half() if half else network
        if isinstance(self.network, Student):
            self.network.base = self.network.base.float()

    def forward(self, lr: Tensor) -> Tensor:
        """The enlarged tile."""
        network = self.network
        x = lr.half() if self.half_precision else lr
        if isinstance(network, Student):
            residual = network.residual(x).float()
            return F.pixel_shuffle(network.base_image(lr) + residual, network.scale).clamp(0, 1)
        assert isinstance(network, RRDB)
        return network.unit(x).float().clamp(0, 1)


def network_of(checkpoint: Checkpoint, only: str, name: str) -> RRDB | Student:
    """The network of a checkpoint that is exported.

    Args:
        checkpoint: of a diffusion model, an RRDB or a student.
        only: `rrdb` or `student`.
        name: of the file, for messages.

    Raises:
        ConfigError: `only` is neither.
        CheckpointError: the checkpoint has no such network.
    """
    if only not in NETWORKS:
        raise ConfigError(f"--only: expected {' or '.join(NETWORKS)}, got {only!r}")
    weights = checkpoint.part(only)
    if not weights:
        hint = "`samdiff distill` trains one" if only == "student" else "give a diffusion model"
        raise CheckpointError(f"{name}: a checkpoint of kind {checkpoint.kind!r}, which has no {only}; {hint}")
    config = config_in(checkpoint, name)
    if only == "rrdb" and config.model.rrdb_skip != "none":
        raise CheckpointError(
            f"{name}: its RRDB's output is added to the bicubic upsampling (model.rrdb_skip), which other programs do not do; leave out --only and --to esrgan"
        )
    network = build_rrdb(config) if only == "rrdb" else build_student(config)
    load_into(network, weights, name)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def run_network(network: RRDB | Student, lr: Tensor) -> Tensor:
    """The exact result of a tile: LR [B, 3, h, w] in [0, 1] -> HR in [0, 1], clipped."""
    return network.unit(lr).clamp(0, 1)
