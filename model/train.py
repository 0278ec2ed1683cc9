"""Training: stage one pretrains the RRDB, stage two the diffusion model on its frozen features.

A run is a folder: `config.json` (everything resolved), `log.jsonl`, `state-…` files to resume from, `rrdb.safetensors` after stage one,
and `model.safetensors` (averaged weights of both networks), which is all that inference needs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import __version__
from ..errors import CheckpointError, ConfigError
from ..pipeline.keystore import write_atomic
from ..pipeline.order import draw, mix
from ..pipeline.staging import differences
from ..pipeline.store import Store
from ..pipeline.stream import ShardDataset, e_sam
from .checkpoint import MODEL_FILE, Checkpoint, load_checkpoint, load_into, save_checkpoint
from .config import RunConfig
from .loop import State, run
from .modulation import Modulation
from .networks import build_rrdb, build_unet
from .residual import base_picture, to_picture_range, to_residual
from .rrdb import RRDB, condition
from .unet import UNet

log = logging.getLogger(__name__)

RRDB_FILE = "rrdb.safetensors"
_T, _NOISE, _WEIGHTS = 21, 22, 23  # streams of random numbers, beside those of the crops


class _Task:
    """What both stages share: samples by position, precision of the forward pass."""

    name = ""

    def __init__(self, data: ShardDataset, network: nn.Module, config: RunConfig, device: torch.device) -> None:
        self.data, self.config, self.device = data, config, device
        self.network = network.to(device).to(memory_format=torch.channels_last)

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """The data set's samples as tensors on the CPU."""
        return {name: torch.from_numpy(values) for name, values in self.data.batch(position, size).items()}

    def pictures(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """HR and LR in [-1, 1], float32."""
        hr, lr = (to_picture_range(batch[name]).contiguous(memory_format=torch.channels_last) for name in ("hr", "lr"))
        return hr, lr

    def autocast(self) -> torch.autocast:
        """bf16 for the networks if the configuration says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.amp == "bf16")


class RrdbTask(_Task):
    """Stage one: the RRDB learns HR from LR with L1."""

    name = "rrdb"

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean |RRDB(LR) - HR|, pictures in [-1, 1]."""
        hr, lr = self.pictures(batch)
        with self.autocast():
            predicted = self.network(lr)
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
        batch["t"] = torch.from_numpy(self.grid[draw(0, len(self.grid), seed, _T, positions)])
        patch = self.data.patch
        batch["noise"] = torch.stack([_noise((3, patch, patch), seed, int(p)) for p in positions])
        return batch

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """|| c - c_theta(x_t, LR, t) ||, L1 or L2 (SAM-DiffSR's loss; for `joint` both outputs with the same norm)."""
        hr, lr = self.pictures(batch)
        x_0 = to_residual(hr, base_picture(lr, self.config.scale, self.config.diffusion.lr_levels))
        e = e_sam(batch["labels"], batch["image"], self.table, self.offset) if self.modulation.needs_masks else None
        x_t = self.modulation.noised(x_0, e, batch["t"], batch["noise"]).contiguous(memory_format=torch.channels_last)
        target = self.modulation.target(e, batch["t"], batch["noise"])
        with self.autocast():
            with torch.no_grad():
                given = condition(self.rrdb.features(lr))
            predicted = self.network(x_t, batch["t"], given).float()
        return F.l1_loss(predicted, target) if self.config.diffusion.loss == "l1" else F.mse_loss(predicted, target)


def train(
    stores: Sequence[Store],
    out: Path,
    config: RunConfig,
    device: torch.device,
    rrdb: Path | None = None,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Train both stages into a run's folder, or go on with it; returns the model's file.

    Args:
        stores: opened stores of the configuration's scale.
        out: the run's folder.
        config: every setting.
        device: to train on.
        rrdb: a checkpoint whose RRDB is taken in place of stage one.
        say: told what happens, one line each.

    Raises:
        ConfigError: the patch does not fit tiles or network, the folder holds a run of other settings, or masks are needed and missing.
        CheckpointError: `rrdb` does not fit.
        KeyboardInterrupt: asked to stop; the state is saved.
    """
    data = ShardDataset(stores, config.train.patch, config.train.seed)
    _check(config, stores)
    saved = _claim(out, config, stores, rrdb)
    facts = {"stores": [store.fingerprint for store in stores], "version": __version__}
    first = _rrdb_stage(data, out, config, device, rrdb, saved, facts, say)
    torch.manual_seed(int(mix(config.train.seed, _WEIGHTS, 2)) >> 1)
    task = DiffusionTask(data, build_unet(config), first, config, device)
    frozen = {f"rrdb.{name}": value for name, value in first.state_dict().items()}

    def publish(state: State) -> None:
        averaged = {f"unet.{name}": value for name, value in state.ema.items()}
        save_checkpoint(out / MODEL_FILE, Checkpoint("diffusion", {**averaged, **frozen}, saved, {**facts, "step": state.step}))

    state = run(task, config.train, config.train.steps, out, device, saved, publish)
    say(f"diffusion: {state.step} steps done, {state.skipped} skipped; {out / MODEL_FILE}")
    return out / MODEL_FILE


def _rrdb_stage(
    data: ShardDataset,
    out: Path,
    config: RunConfig,
    device: torch.device,
    given: Path | None,
    saved: dict[str, Any],
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> RRDB:
    """The trained RRDB: from a file, from this run's finished stage one, or by training it now."""
    torch.manual_seed(int(mix(config.train.seed, _WEIGHTS, 1)) >> 1)
    network = build_rrdb(config)
    finished = given or out / RRDB_FILE
    if not finished.exists() and given is None:

        def publish(state: State) -> None:
            if state.step == config.train.rrdb_steps:
                tensors = {f"rrdb.{name}": value for name, value in state.ema.items()}
                save_checkpoint(out / RRDB_FILE, Checkpoint("rrdb", tensors, saved, {**facts, "step": state.step}))

        state = run(RrdbTask(data, network, config, device), config.train, config.train.rrdb_steps, out, device, saved, publish)
        say(f"rrdb: {state.step} steps done, {state.skipped} skipped; {out / RRDB_FILE}")
    else:
        say(f"rrdb: taken from {finished}")
    checkpoint = load_checkpoint(finished)
    weights = checkpoint.part("rrdb")
    if not weights:
        raise CheckpointError(f"{finished}: holds no RRDB; give the rrdb.safetensors or model.safetensors of a run")
    if checkpoint.config.get("scale") != config.scale:
        raise CheckpointError(f"{finished}: trained for x{checkpoint.config.get('scale')}, the store is x{config.scale}")
    load_into(network, weights, str(finished))
    return network.to(device)


def _noise(shape: tuple[int, ...], seed: int, position: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(mix(seed, _NOISE, position)) >> 1)
    return torch.randn(shape, generator=generator)


def _check(config: RunConfig, stores: Sequence[Store]) -> None:
    multiple = 2 ** (len(config.model.multipliers) - 1)
    if config.train.patch % multiple or config.train.patch < 2 * multiple:
        raise ConfigError(
            f"train.patch: expected a multiple of {multiple} (the U-Net's coarsest pixel) from {2 * multiple}, got {config.train.patch}"
        )
    bare = [str(store.place) for store in stores if store.n_masks == 0]
    if bare and config.diffusion.modulation != "none":
        raise ConfigError(
            f"modulation {config.diffusion.modulation!r} needs masks, and {bare[0]} has none; prepare it with a segmenter, or use --modulation none"
        )


def _claim(out: Path, config: RunConfig, stores: Sequence[Store], rrdb: Path | None) -> dict[str, Any]:
    """Write `config.json`, or compare with the one that is there; returns what is saved with every checkpoint."""
    asked = {
        **config.as_dict(),
        "stores": [store.fingerprint for store in stores],
        "rrdb_from": None if rrdb is None else str(rrdb.resolve()),
    }
    file = out / "config.json"
    if file.exists():
        before = json.loads(file.read_text())
        free = {"rrdb_steps", "steps", "log_every", "checkpoint_every", "keep"}  # may change between two parts of a run
        changed = [line for line in differences(before, asked) if line.split(":")[0].removeprefix("train.") not in free]
        if changed:
            raise ConfigError(
                f"{out}: holds a run of other settings ({'; '.join(changed[:6])}); use the same ones to go on, or another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(asked, indent=1, sort_keys=True).encode())
    return asked
