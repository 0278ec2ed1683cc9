"""What the two stages train: batches by position and the loss. The loop around them is in `loop.py`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline.stream.dataset import ShardDataset, e_sam
from ...pipeline.stream.order import draw, mix
from ...pipeline.stream.random_streams import Stream
from ..config import RunConfig
from ..diffusion.modulation import Modulation
from ..diffusion.residual import base_picture, to_picture_range, to_residual
from ..networks.rrdb import RRDB, condition
from ..networks.unet import UNet

_DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Task:
    """What both stages share: samples by position, precision and memory format of the forward pass."""

    name: str = ""

    def __init__(self, data: ShardDataset, network: RRDB | UNet, config: RunConfig, device: torch.device) -> None:
        self.data, self.config, self.device = data, config, device
        self.network: nn.Module = network.to(device).to(memory_format=torch.channels_last)
        network.recompute = config.train.gradient_checkpointing
        self.forward: nn.Module = self.network

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """The data set's samples as tensors on the CPU."""
        return {name: torch.from_numpy(values) for name, values in self.data.batch(position, size).items()}

    def pictures(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """HR and LR in [-1, 1], float32."""
        hr, lr = (to_picture_range(batch[name]).contiguous(memory_format=torch.channels_last) for name in ("hr", "lr"))
        return hr, lr

    def autocast(self) -> torch.autocast:
        """bf16 or fp16 for the networks if the configuration says so."""
        amp = self.config.train.amp
        return torch.autocast(self.device.type, _DTYPES[amp] if amp != "off" else torch.bfloat16, enabled=amp != "off")


class RrdbTask(_Task):
    """Stage one: the RRDB learns HR from LR with L1."""

    name = "rrdb"

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean |RRDB(LR) - HR|, pictures in [-1, 1]."""
        hr, lr = self.pictures(batch)
        with self.autocast():
            predicted = self.forward(lr)
        return F.l1_loss(predicted.float(), hr)


class DiffusionTask(_Task):
    """Stage two: the U-Net learns the modulated noise of the residual."""

    name = "diffusion"

    def __init__(self, data: ShardDataset, network: UNet, rrdb: RRDB, config: RunConfig, device: torch.device) -> None:
        super().__init__(data, network, config, device)
        self.rrdb = rrdb.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.modulation: Modulation = config.diffusion.build()
        self.grid = np.array(sorted(self.modulation.grid))
        table, offset = data.codes(config.diffusion.e_mean)
        self.table, self.offset = torch.from_numpy(table).to(device), torch.from_numpy(offset).to(device)

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """The samples with their time and noise: functions of (seed, position), like the crops."""
        batch, seed = super().make_batch(position, size), self.config.train.seed
        positions = batch["position"].numpy()
        batch["t"] = torch.from_numpy(self.grid[draw(0, len(self.grid), seed, Stream.TIME, positions)])
        patch = self.data.patch
        batch["noise"] = torch.stack([_noise((3, patch, patch), seed, int(p)) for p in positions])
        return batch

    def condition(self, lr: Tensor) -> Tensor:
        """The frozen RRDB's features; joined outside of inference mode, so that the U-Net may keep them for its gradient."""
        with torch.inference_mode():
            maps = self.rrdb.features(lr)
        with torch.no_grad():
            return condition(maps)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """|| c - c_theta(x_t, LR, t) ||, L1 or L2 (SAM-DiffSR's loss; for `joint` both outputs with the same norm)."""
        hr, lr = self.pictures(batch)
        x_0 = to_residual(hr, base_picture(lr, self.config.scale, self.config.diffusion.lr_levels))
        e = e_sam(batch["labels"], batch["image"], self.table, self.offset) if self.modulation.needs_masks else None
        x_t = self.modulation.q_sample(x_0, e, batch["t"], batch["noise"]).contiguous(memory_format=torch.channels_last)
        target = self.modulation.target(e, batch["t"], batch["noise"])
        with self.autocast():
            predicted = self.forward(x_t, batch["t"], self.condition(lr)).float()
        return F.l1_loss(predicted, target) if self.config.diffusion.loss == "l1" else F.mse_loss(predicted, target)


def _noise(shape: tuple[int, ...], seed: int, position: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(mix(seed, Stream.NOISE, position)) >> 1)
    return torch.randn(shape, generator=generator)
