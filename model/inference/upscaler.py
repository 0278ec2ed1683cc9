"""Upscales images: `load_model(path).upscale(image)`. Needs neither SAM nor masks."""

from __future__ import annotations

import copy
import logging
import secrets
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import CheckpointError, printable
from ...pipeline.images.given import ImageKind
from ...runtime import pick_device
from ...settings import changed
from ..checkpoints.format import UPSCALERS, Checkpoint, config_in, load_checkpoint, load_into, samples_in, weights_digest
from ..config import RunConfig
from ..diffusion.modulation import Modulation
from ..diffusion.noise import BLOCK, NoiseField
from ..diffusion.noise_scale import check_scale, given_scale, scale_of
from ..diffusion.process import Process
from ..diffusion.recommended import recommended_in, resolve, too_many_steps
from ..diffusion.sampler import SamplingPlan
from ..infer_config import InferConfig as InferConfig
from ..networks.build import build_rrdb, build_student, build_unet
from ..networks.rrdb import RRDB
from ..networks.unet import UNet
from ..samples.sample_pixels import split_samples
from .back_projection import make_consistent
from .memory import check_memory, free_bytes, memory_errors, needed_for
from .pixel_format import pad_lr, split_pixel_format
from .resolver import OneStepResolver, OnProgress, by_kind
from .tile_weights import plan_tiles
from .tiled import TiledPredictor, count_tiles, rows_with_base

log = logging.getLogger(__name__)

N = TypeVar("N", bound=torch.nn.Module)


def load_model(path: Path | str, device: str | torch.device = "auto") -> Upscaler:
    """Load a trained model for inference.

    Args:
        path: `model.safetensors`, a run's folder, or `shipped`: the small model that comes with samdiff.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps` or a torch device.

    Returns:
        A `SuperResolver`; for a student (`samdiff distill`) a `OneStepResolver`, which upscales in the same way.

    Raises:
        CheckpointError: the file is missing, is not a samdiff checkpoint, or its weights do not fit its configuration.
        ConfigError: the device is not available.
    """
    checkpoint = load_checkpoint(Path(path), kind=UPSCALERS)
    if checkpoint.kind == "student":
        return _student(checkpoint, str(path), pick_device(device))
    return SuperResolver(checkpoint, str(path), pick_device(device))


def load_diffusion(path: Path | str, device: str | torch.device = "auto") -> SuperResolver:
    """As `load_model`, for a diffusion model only."""
    return SuperResolver(load_checkpoint(Path(path), kind="diffusion"), str(path), pick_device(device))


def _student(checkpoint: Checkpoint, name: str, device: torch.device) -> OneStepResolver:
    config = config_in(checkpoint, name)
    network = build_student(config)
    load_into(network, checkpoint.part("student"), name)
    network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    sha256 = weights_digest(checkpoint.tensors)
    return OneStepResolver(network, name=name, scale=config.scale, sha256=sha256, device=device, channels=config.student.width)


class SuperResolver:
    """A diffusion model with its RRDB: `model(image)` is `scale` times larger. The checkpoint determines sizes and scale."""

    def __init__(self, checkpoint: Checkpoint, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.sha256 = weights_digest(checkpoint.tensors)
        self.config: RunConfig = config_in(checkpoint, name)
        self.samples = samples_in(checkpoint, self.config, name)
        self.scale = self.config.scale
        self.modulation: Modulation = self.config.diffusion.build()
        self.process: Process = self.config.diffusion.build_process()
        self.recommended = recommended_in(checkpoint.facts, self.config, name)
        self.rrdb: RRDB = self._ready(build_rrdb(self.config), checkpoint.part("rrdb"))
        self.unet: UNet = self._ready(build_unet(self.config), checkpoint.part("unet"))
        self._halved: UNet | None = None
        self._warned: set[int] = set()

    def __repr__(self) -> str:
        numbers = sum(value.numel() for network in (self.rrdb, self.unet) for value in network.parameters())
        return f"SuperResolver({self.name!r}, x{self.scale}, {self.modulation.name}, {numbers / 1e6:.1f} M parameters, on {self.device})"

    def to(self, device: str | torch.device) -> SuperResolver:
        """Move the networks to a device, named as for `load_model`; returns the model itself."""
        self.device = pick_device(device)
        self._halved = None
        for network in (self.rrdb, self.unet):
            network.to(self.device)
        return self

    @overload
    def upscale(
        self, image: ImageKind, settings: InferConfig | None = None, *, on_progress: OnProgress = None, **changes: Any
    ) -> ImageKind: ...

    @overload
    def upscale(
        self, image: str | Path, settings: InferConfig | None = None, *, on_progress: OnProgress = None, **changes: Any
    ) -> Image.Image: ...

    def upscale(
        self,
        image: Any,
        settings: InferConfig | None = None,
        *,
        on_progress: OnProgress = None,
        noise_scale: np.ndarray | None = None,
        **changes: Any,
    ) -> Any:
        """Upscale an image by `scale`: one sample, the same for the same seed on one device.

        Args:
            image: an array [H, W] grey, [H, W, 2] grey with alpha, [H, W, 3] RGB or [H, W, 4] RGBA, of any size from 1 x 1; uint8,
                uint16, or floats of 0 to 1. Or a PIL image, a file's path, or a tensor: [H, W], [C, H, W], [H, W, C] or a batch of them
                (where both fit, channels first).
            settings: see `InferConfig`; None: the defaults.
            on_progress: called with the finished part of an image, 0 to 1, after each tile of each network pass.
            noise_scale: for studies, float32 [s H, s W]: S in place of the model's estimate, see `evaluation/oracle.py`.
            changes: fields of the settings, such as `steps=25, seed=1`; `seed=None` draws one at random.

        Returns:
            The same kind of image, [s H, s W, …]; for a path a PIL image of 8 bits, upright, with the file's colour profile and EXIF. Grey
            stays grey; alpha is upsampled bicubically. Tensors keep layout, dtype and device; each image of a batch gives the same result as alone.

        Raises:
            ImageError: an unsupported dtype or shape, floats out of range, a file that cannot be read, or not enough memory.
            ConfigError: a sampler, a number of steps or a tile that does not fit the model.
        """
        if changes.get("seed", 0) is None:
            changes["seed"] = secrets.randbelow(1 << 32)
            log.info("seed %d", changes["seed"])
        settings = self.resolve(changed(settings or InferConfig(), changes, "upscale"))
        plan = self.sampling_plan(settings, has_scale=noise_scale is not None)
        work = partial(self._in_memory, settings=settings, plan=plan, on_progress=on_progress, noise_scale=noise_scale)
        return by_kind(image, work, self.samples)

    __call__ = upscale

    def regress(self, image: ImageKind) -> ImageKind:
        """The RRDB's image alone (stage one): `upscale(image, rrdb_only=True)`."""
        return self.upscale(image, rrdb_only=True)

    def resolve(self, settings: InferConfig) -> InferConfig:
        """See `recommended.resolve`."""
        return resolve(settings, self.recommended, self.config, sampler=self.process.sampler, name=self.name)

    def sampling_plan(self, settings: InferConfig, *, has_scale: bool = False) -> SamplingPlan:
        """The sampler and its time steps; a warning if they are too many for this model. `has_scale`: `noise_scale` is given.

        ConfigError for settings that do not fit this model.
        """
        settings = self.resolve(settings)
        if has_scale or not settings.rrdb_only:
            check_scale(self.config.diffusion.scale_from, has_scale, self.name)
        plan_tiles(
            self.unet.multiple,
            self.unet.multiple,
            self.scale,
            multiple=self.unet.multiple,
            tile=settings.tile,
            overlap=settings.overlap,
        )
        first = None
        if settings.start == "rrdb":
            first = self.config.diffusion.timesteps // 2 if settings.start_time is None else settings.start_time
        plan = self.process.plan(settings.sampler, settings.steps, first=first)
        reason = "" if settings.rrdb_only else too_many_steps(self.config, self.recommended, len(plan.times))
        if reason and len(plan.times) not in self._warned:  # once for many images
            log.warning("%s: %s; leave steps out, or set fewer", printable(self.name), reason)
            self._warned.add(len(plan.times))
        return plan

    def expect_scale(self, scale: int | None) -> None:
        """CheckpointError if `scale` is given and the model was trained for another."""
        if scale is not None and scale != self.scale:
            raise CheckpointError(f"{self.name}: trained for x{self.scale}, x{scale} was requested; give another checkpoint")

    def _ready(self, network: N, weights: dict[str, Tensor]) -> N:
        load_into(network, weights, self.name)
        return network.to(self.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def _in_memory(self, image: np.ndarray, settings: InferConfig, **how: Any) -> np.ndarray:
        """`_upscale`, with an ImageError before the work if memory is short; `split_pixel_format` reports a wrong shape."""
        if image.ndim not in (2, 3) or image.size == 0:
            return self._upscale(image, settings, **how)
        height, width = image.shape[:2]
        tiled = 0 < settings.tile < max(height, width)
        if tiled or self.device.type != "cuda":  # else it needs the GPU's memory
            needed = needed_for(self.config, settings, image, multiple=self.unet.multiple)
            check_memory(height, width, self.scale, needed=needed, free=free_bytes())
        with memory_errors(height, width):
            return self._upscale(image, settings, **how)

    @torch.inference_mode()
    def _upscale(
        self,
        image: np.ndarray,
        settings: InferConfig,
        *,
        plan: SamplingPlan,
        on_progress: OnProgress,
        noise_scale: np.ndarray | None,
    ) -> np.ndarray:
        rgb8, form = self.samples.is_rgb8, self.samples
        colour, pixel_format = split_pixel_format(image) if rgb8 else split_samples(image, form)
        predictor = self._predictor(colour, settings)
        if on_progress is not None:
            passes = 1 if settings.rrdb_only else self._passes(settings, plan)
            predictor.on_tiles = count_tiles(passes * len(predictor.tiling.tiles), on_progress)
        # not padded: the bicubic upsampling must not depend on padding
        lr = torch.from_numpy(colour).permute(2, 0, 1)[None].contiguous()
        if len(predictor.tiling.tiles) == 1:  # with several tiles it may be too large for the GPU
            lr = lr.to(self.device)
        height, width = (side * self.scale for side in lr.shape[2:])
        sample = partial(self._sample, plan=plan, noise_scale=noise_scale)
        whole = self._regress(predictor, lr) if settings.rrdb_only else sample(predictor, lr, settings)
        result = whole[:, :, :height, :width]
        if settings.back_project:
            make_consistent(result, lr, self.scale)
        out = pixel_format.empty(height, width)
        for top in range(0, height, BLOCK):
            out[top : top + BLOCK] = pixel_format.restore(result[0, :, top : top + BLOCK].permute(1, 2, 0).cpu().numpy())
        return pixel_format.with_alpha(out, self.scale)

    def _predictor(self, colour: np.ndarray, settings: InferConfig) -> TiledPredictor:
        padded = torch.from_numpy(pad_lr(colour, self.unet.multiple, self.scale)).permute(2, 0, 1)[None]
        lr = padded.to(self.device).contiguous(memory_format=torch.channels_last)
        height, width = lr.shape[2:]
        tiling = plan_tiles(
            height, width, self.scale, multiple=self.unet.multiple, tile=settings.tile, overlap=settings.overlap
        )
        unet = self.unet if settings.amp == "off" else self._in_bf16()
        return TiledPredictor(self.rrdb, unet, lr, tiling=tiling, cache_bytes=settings.cache_mb << 20, batch=settings.batch)

    def _passes(self, settings: InferConfig, plan: SamplingPlan) -> int:
        """How often a network runs over the whole image, without `rrdb_only`."""
        calls = (settings.num_samples or 1) * (len(plan.times) + (self.modulation.name == "joint"))
        d = self.config.diffusion
        return calls + (d.base == "rrdb" or plan.first is not None) + d.estimates_scale

    def _in_bf16(self) -> UNet:
        if self._halved is None:
            self._halved = copy.deepcopy(self.unet).to(torch.bfloat16)
        return self._halved

    def _regress(self, predictor: TiledPredictor, lr: Tensor, keep: bool = False) -> Tensor:
        return predictor.regress(lr.device, keep).clamp_(-1, 1)

    def _scale(self, predictor: TiledPredictor, lr: Tensor, given: np.ndarray | None) -> Tensor | None:
        """The scale of the noise [1, 1, H, W] with the padding, given or estimated, on the device of lr; None for models without one."""
        d = self.config.diffusion
        if given is not None:
            sides = [side * self.scale for side in (*lr.shape[2:], *predictor.lr.shape[2:])]
            return given_scale(given, sides[:2], padded=sides[2:], rescale=d.rescale).to(lr.device)
        return scale_of(predictor.log_scale(lr.device), d.rescale) if d.estimates_scale else None

    def _sample(
        self,
        predictor: TiledPredictor,
        lr: Tensor,
        settings: InferConfig,
        *,
        plan: SamplingPlan,
        noise_scale: np.ndarray | None,
    ) -> Tensor:
        """The image [1, C, H, W] on the device of lr; H and W include the padding, whose content is undefined."""
        first = plan.first
        height, width = (side * self.scale for side in predictor.lr.shape[2:])
        bands = partial(rows_with_base, factor=self.scale, levels=self.config.diffusion.lr_levels)
        base = self._regress(predictor, lr, keep=True) if self.config.diffusion.base == "rrdb" else None
        begin = self._regress(predictor, lr, keep=True) if first is not None and base is None else base
        scale = self._scale(predictor, lr, noise_scale)  # now that the features are cached
        count = settings.num_samples or 1
        mean: Tensor | None = None
        for number in range(count):
            field = NoiseField(settings.seed, width, number, self.samples.count)

            def noise(step: int, top: int, bottom: int, field: NoiseField = field) -> Tensor:
                return field.rows(step, top, bottom).to(lr.device)

            x = torch.zeros(1, self.samples.count, height, width, device=lr.device)
            if first is not None and begin is not None:
                pair = bands(x, predictor.lr.to(lr.device), base, scale=scale), bands(begin, predictor.lr, begin)
                for (rows, lr_up, local), (image, _, _) in zip(*pair, strict=True):
                    rows.copy_(self.process.residual(image, lr_up, local))
            for top in range(0, height, BLOCK):
                rows, local = x[:, :, top : top + BLOCK], None if scale is None else scale[:, :, top : top + BLOCK]
                eps = self.process.noise(noise(0, top, min(top + BLOCK, height)), local)
                rows.copy_(self.process.start(eps, rows, first))
            deque(self.process.sample_steps(predictor.predict, x, noise=noise, plan=plan, rows=BLOCK), maxlen=0)
            mean = x if mean is None else mean.add_(x)
        assert mean is not None
        if settings.realism != 1:
            mean.mul_(settings.realism)
        for rows, lr_up, local in bands(mean.div_(count), lr, base, scale=scale):
            rows.copy_(self.process.image(rows, lr_up, local))
        return mean


Upscaler = SuperResolver | OneStepResolver
"""What `load_model` gives."""
