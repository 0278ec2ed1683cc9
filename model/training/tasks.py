"""The two stages as tasks: their batches and losses, and checks of data and settings. `loop.py` runs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ConfigError, WeightsError
from ...pipeline.shards.reader import Store
from ...pipeline.stream.dataset import ShardDataset, e_sam
from ...pipeline.stream.order import draw, mix
from ...pipeline.stream.random_streams import Stream
from ...runtime import has_bf16
from ..config import RunConfig
from ..diffusion.flow import SAMPLER as FLOW_SAMPLER
from ..diffusion.modulation import Modulation
from ..diffusion.noise_scale import scale_of, true_scale
from ..diffusion.process import Process
from ..diffusion.recommended import recommended_for
from ..diffusion.residual import base_image, to_model_range
from ..diffusion.sampler import DEFAULT
from ..networks.heads import auxiliary_head
from ..networks.rrdb import RRDB, condition
from ..networks.student import Student
from ..networks.unet import UNet
from ..objectives.one_step import Distance, checkerboard, chosen, in_second_phase, load_distance, one_step_loss
from ..objectives.residual_spread import with_rescale
from ..objectives.structure import auxiliary_loss, mask_users, region_weights, scale_loss, valid_weights, weighted_loss
from .distributed import ProcessGroup

log = logging.getLogger(__name__)

_DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class StageTask:
    """Common to all stages: batches, precision, memory format, and what is made from masks."""

    name: str = ""

    def __init__(self, data: ShardDataset, network: RRDB | UNet | Student, config: RunConfig, device: torch.device) -> None:
        self.data, self.config, self.device = data, config, device
        if config.loss.auxiliary != "none":
            assert not isinstance(network, Student)  # refused by `distillation/run.py`
            network.auxiliary = auxiliary_head(config.model.rrdb_features if isinstance(network, RRDB) else config.model.width)
        table, offset = data.codes(config.diffusion.e_mean)
        self.table, self.offset = torch.from_numpy(table).to(device), torch.from_numpy(offset).to(device)
        self.labels = int(np.diff([*offset, len(table)]).max())  # of an image at most, with 0
        self.network: nn.Module = network.to(device).to(memory_format=torch.channels_last)
        network.recompute = config.train.gradient_checkpointing
        self.forward: nn.Module = self.network

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """Samples of the data set as tensors on the CPU."""
        return tensors_of(self.data)(position, size)

    def images(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """HR and LR in [-1, 1], float32."""
        hr, lr = (
            to_model_range(batch[name], self.data.samples).contiguous(memory_format=torch.channels_last)
            for name in ("hr", "lr")
        )
        return hr, lr

    def autocast(self) -> torch.autocast:
        """Autocast to bf16 or fp16 if configured."""
        amp = self.config.train.amp
        return torch.autocast(self.device.type, _DTYPES[amp] if amp != "off" else torch.bfloat16, enabled=amp != "off")

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss of a batch on the training device."""
        raise NotImplementedError

    def e_sam(self, batch: dict[str, Tensor]) -> Tensor:
        """E_SAM of a batch, float32 [B, 1, P, P]."""
        return e_sam(batch["labels"], batch["image"], table=self.table, offset=self.offset)

    def weighted(self, batch: dict[str, Tensor], ours: Tensor, target: Tensor, *, kind: str) -> Tensor:
        """The main loss `l1` or `l2` over valid pixels, with the weights of `loss.regions`."""
        weights = valid_weights(region_weights(batch["labels"], self.labels, self.config.loss), batch.get("valid"))
        return weighted_loss(ours, target, weights, kind=kind)

    def split(self, batch: dict[str, Tensor], output: Tensor, e: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """(prediction, loss of the auxiliary head) from the output of the network in training; e: E_SAM if it is known."""
        loss = self.config.loss
        output = output.float()
        if loss.auxiliary == "none":
            return output, 0.0
        e = self.e_sam(batch) if e is None and loss.auxiliary == "e" else e
        return output[:, :-1], auxiliary_loss(output[:, -1:], batch["labels"], e, loss=loss)


class RrdbTask(StageTask):
    """Stage one: the RRDB learns HR from LR with L1."""

    name = "rrdb"

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean |RRDB(LR) - HR|, images in [-1, 1], with the weights and the auxiliary loss of `structure.py` if configured."""
        hr, lr = self.images(batch)
        with self.autocast():
            predicted = self.forward(lr)
        image, auxiliary = self.split(batch, predicted, None)
        return self.weighted(batch, image, hr, kind="l1") + auxiliary


class DiffusionTask(StageTask):
    """Stage two: the U-Net learns to predict the modulated noise, or the flow from the RRDB's image to HR."""

    name = "diffusion"

    def __init__(self, data: ShardDataset, network: UNet, rrdb: RRDB, config: RunConfig, device: torch.device) -> None:
        super().__init__(data, network, config, device=device)
        self.rrdb = rrdb.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.modulation: Modulation = config.diffusion.build()
        self.process: Process = config.diffusion.build_process()
        self.grid = np.array(self.process.times)
        self.distance: Distance | None = None
        if config.loss.perceptual != "none":
            self.distance = load_distance(config.loss.perceptual, device)
        self._chosen: dict[int, Tensor] = {}

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """The samples with their time steps and noise, which are functions of (seed, position), like the crops.

        In the second phase the entry `one_step`, bool [B], marks the samples that get the additional losses. Their time step is that of
        one-step prediction. The presence of the entry shows the phase, without reading a value from the device.
        """
        batch, train = super().make_batch(position, size), self.config.train
        positions = batch["position"].numpy()
        times = self.grid[draw(0, len(self.grid), words=(train.seed, Stream.TIME, positions))]
        if in_second_phase(position, batch=train.batch, steps=train.steps, loss=self.config.loss):
            piece = max(1, size // train.grad_accum)
            compared = np.zeros(size, bool)
            compared[[i for i in range(size) if i % piece in chosen(piece, self.config.loss.share)]] = True
            times = np.where(compared, self.process.one_step_time, times)
            batch["one_step"] = torch.from_numpy(compared)
        batch["t"] = torch.from_numpy(times)
        patch = self.data.patch
        batch["noise"] = torch.stack([_noise((self.config.bands, patch, patch), train.seed, int(p)) for p in positions])
        return batch

    def condition(self, lr: Tensor) -> Tensor:
        """The frozen RRDB's features, concatenated outside of inference mode, so that autograd can save them."""
        with torch.inference_mode():
            maps = self.rrdb.features(lr)
        with torch.no_grad():
            return condition(maps)

    def given(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """(condition, base image [B, 3, H, W] in [-1, 1]) from one pass of the RRDB, in float32 if the base is its image, as in inference."""
        if self.config.diffusion.base == "bicubic":
            with self.autocast():
                return self.condition(lr), base_image(lr, self.config.scale, self.config.diffusion.lr_levels)
        with torch.autocast(self.device.type, enabled=False):
            with torch.inference_mode():
                maps = self.rrdb.features(lr)
                base = self.rrdb.image(maps[-1], lr)
            with torch.no_grad():
                return condition(maps), base.clamp(-1, 1)

    def noise_scale(self, batch: dict[str, Tensor], given: Tensor, residual: Tensor) -> tuple[Tensor | None, Tensor | float]:
        """(scale of the noise [B, 1, P, P] or None, loss of the head that estimates it), from the condition and the residual."""
        d = self.config.diffusion
        if d.scale_from == "none":
            return None, 0.0
        true = true_scale(
            residual, batch["labels"], source=d.scale_from, count=self.labels, sigma=d.scale_sigma, rescale=d.rescale
        )
        if not d.estimates_scale:
            return true, 0.0
        with self.autocast():
            log_scale = cast(UNet, self.network).log_scale(given)
        return scale_of(log_scale, d.rescale), scale_loss(log_scale, true, loss=self.config.loss)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """|| c - c_theta(x_t, LR, t) ||, L1 or L2: the loss of SAM-DiffSR, over both outputs for `joint`; see `Flow.compared` for flows.

        The second phase adds `one_step_loss`; `structure.py` defines weights and the losses of the heads.
        """
        (hr, lr), t = self.images(batch), batch["t"]
        given, base = self.given(lr)
        scale, head_loss = self.noise_scale(batch, given, self.process.residual(hr, base))
        residual, noise = self.process.residual(hr, base, scale), self.process.noise(batch["noise"], scale)
        e = self.e_sam(batch) if self.modulation.needs_masks else None
        x_t = self.process.q_sample(residual, e, t, noise).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            predicted = self.forward(x_t, t, given)
        predicted, auxiliary = self.split(batch, predicted, e)
        ours, target = self.process.compared(x_t, predicted, residual=residual, e=e, t=t, noise=noise)
        main = self.weighted(batch, ours, target, kind=self.config.diffusion.loss) + head_loss + auxiliary
        if "one_step" not in batch or self.distance is None or self.config.loss.share == 0:
            return main
        index = self._index(len(hr))
        x_0 = self.process.clean(x_t[index], predicted[index], t[index])
        image, weights = self.process.image(x_0, base[index], None if scale is None else scale[index]), self.config.loss
        loss = main + one_step_loss(image, hr[index], self.distance, loss=weights)
        if weights.checkerboard:
            loss = loss + weights.checkerboard * checkerboard(image - base[index], period=self.config.scale)
        return loss

    def _index(self, count: int) -> Tensor:
        """`chosen` as a tensor on the device, cached, so that no step waits for the device."""
        if count not in self._chosen:
            self._chosen[count] = torch.tensor(chosen(count, self.config.loss.share), device=self.device)
        return self._chosen[count]


def tensors_of(data: ShardDataset) -> Callable[[int, int], dict[str, Tensor]]:
    """(position, size) -> samples of the data set as tensors on the CPU."""
    return lambda position, size: {name: torch.from_numpy(values) for name, values in data.batch(position, size).items()}


def _noise(shape: tuple[int, ...], seed: int, position: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(mix(seed, Stream.NOISE, position)) >> 1)
    return torch.randn(shape, generator=generator)


def validation_sampler(config: RunConfig) -> tuple[str, int | None]:
    """Sampler and number of steps of the validation (None: all). Without `validate.sampler`, a flow is validated as it is recommended."""
    v, d = config.validate, config.diffusion
    if d.process == "flow":
        recommended = recommended_for(config)["balanced"].steps
        return v.sampler or FLOW_SAMPLER, min(v.steps or d.timesteps, d.timesteps) if v.sampler else recommended
    return v.sampler or DEFAULT[d.modulation], None if d.modulation == "paper" else min(v.steps, d.timesteps) or None


def check_batch(config: RunConfig, data: ShardDataset, ranks: ProcessGroup) -> None:
    """ConfigError if the batch or the precision does not fit data and machine; a warning if bf16 is emulated."""
    if config.train.batch > len(data):
        raise ConfigError(
            f"train.batch: expected at most the {len(data)} training tiles, got {config.train.batch}; "
            "prepare more images, or use a smaller batch"
        )
    ranks.local_batch(config.train.batch, config.train.grad_accum)
    if config.train.amp == "fp16" and ranks.device.type == "cpu":
        raise ConfigError("train.amp: fp16 needs CUDA, the device is the CPU; use bf16 or off")
    if config.train.amp == "bf16" and not has_bf16(ranks.device):
        log.warning(
            "train.amp=bf16: this device has no instructions for bfloat16 and emulates them, several times slower than train.amp=off"
        )


def check_inputs(config: RunConfig, stores: Sequence[Store], data: ShardDataset, ranks: ProcessGroup) -> None:
    """ConfigError if patch, batch, sampler, precision or masks do not fit data and machine; a warning if bf16 is emulated."""
    multiple = 2 ** (len(config.model.multipliers) - 1)
    if config.train.patch % multiple or config.train.patch < 2 * multiple:
        raise ConfigError(
            f"train.patch: expected a multiple of {multiple} (the U-Net's coarsest pixel) from {2 * multiple}, got {config.train.patch}"
        )
    check_batch(config, data, ranks)
    process = with_rescale(config, config.diffusion.rescale or 1.0).diffusion.build_process()
    process.plan(*validation_sampler(config))
    if data.samples.count != config.bands:
        raise ConfigError(
            f"bands: expected the store's {data.samples.count}, got {config.bands}; remove it from the configuration"
        )
    if config.loss.perceptual != "none" and not data.samples.is_rgb8:
        raise ConfigError(
            f"loss.perceptual: defined for 8-bit RGB, the store has {data.samples.describe()}; add --set loss.perceptual=none"
        )
    if config.loss.perceptual != "none":
        try:
            _ = process.one_step_time  # an error for `paper`
            load_distance(config.loss.perceptual, ranks.device)  # missing weights are reported before the hours of stage one
        except (ConfigError, WeightsError) as error:  # the loss may come from --init-from, unrequested
            raise type(error)(f"{error}; or train without this loss: --set loss.perceptual=none") from error
    if config.diffusion.scale_from == "oracle" and config.validate.every:
        raise ConfigError(
            "diffusion.scale_from: validation has no true scale for 'oracle', which is for studies; add --set validate.every=0"
        )
    bare, users = [str(store.place) for store in stores if store.n_masks == 0], mask_users(config)
    if bare and users:
        without = "--modulation none" if config.diffusion.modulation != "none" else "'none'"
        raise ConfigError(f"{users[0]} needs masks, and {bare[0]} has none; prepare it with a segmenter, or use {without}")
