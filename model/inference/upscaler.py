"""Pictures out: `load_model(path).upscale(image)`. Neither SAM nor masks are needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...runtime import pick_device
from ...settings import changed
from ..checkpoints.format import Checkpoint, load_checkpoint, load_into, weights_digest
from ..config import RunConfig, config_of
from ..diffusion.modulation import Modulation
from ..diffusion.noise import BLOCK, NoiseField
from ..diffusion.residual import base_rows, from_residual, to_residual
from ..diffusion.sampler import DEFAULT as DEFAULT_SAMPLER
from ..diffusion.sampler import check_pair, sample_steps
from ..infer_config import InferConfig as InferConfig
from ..networks.build import build_rrdb, build_unet
from ..networks.rrdb import RRDB
from ..networks.unet import UNet
from .back_projection import make_consistent
from .memory import check_memory, free_bytes, memory_errors, needed_bytes
from .pixel_format import eight_bits, pad_lr, split_pixel_format
from .tile_weights import plan_tiles
from .tiled import TiledPredictor

Picture = TypeVar("Picture", np.ndarray, Image.Image)


def load_model(path: Path | str, device: str | torch.device = "auto") -> SuperResolver:
    """A trained model, ready to use.

    Args:
        path: `model.safetensors`, or the run's folder.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or a torch device.

    Raises:
        CheckpointError: there is no such file, it is not one of ours, or its weights do not fit its configuration.
        ConfigError: the device is not there.
    """
    where = device if isinstance(device, torch.device) else pick_device(device)
    checkpoint = load_checkpoint(Path(path), kind="diffusion")
    return SuperResolver(checkpoint, str(path), where)


class SuperResolver:
    """A diffusion model with its condition network. Sizes, scale and modulation come from the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.sha256 = weights_digest(checkpoint.tensors)
        self.config: RunConfig = config_in(checkpoint, name)
        self.scale = self.config.scale
        self.modulation: Modulation = self.config.diffusion.build()
        self.rrdb: RRDB = self._ready(build_rrdb(self.config), checkpoint.part("rrdb"))
        self.unet: UNet = self._ready(build_unet(self.config), checkpoint.part("unet"))
        self._halved: UNet | None = None

    def upscale(
        self,
        image: Picture,
        settings: InferConfig | None = None,
        *,
        on_step: Callable[[int], Any] | None = None,
        **changes: Any,
    ) -> Picture:
        """One sample of the picture `scale` times larger; the same for the same seed on one device.

        Args:
            image: [H, W] grey, [H, W, 2] grey with alpha, [H, W, 3] RGB or [H, W, 4] RGBA, of any size from 1 x 1; uint8, uint16, or
                floats of 0 to 1; or a PIL image.
            settings: see `InferConfig`; None: the defaults.
            on_step: called with the time after each step, for progress.
            changes: fields of the settings, such as `steps=25, seed=1`.

        Returns:
            The same kind of picture, [s H, s W, …]. Grey stays grey; alpha is enlarged bicubically.

        Raises:
            ImageError: an array of another dtype or shape, floats out of range, or more than the memory holds.
            ConfigError: a sampler, a number of steps or a tile that does not fit the model.
        """
        settings = changed(settings or InferConfig(), changes, "upscale")
        self.check(settings)
        if isinstance(image, Image.Image):
            large = Image.fromarray(self._in_memory(np.asarray(eight_bits(image)), settings, on_step))
            large.info.update({key: value for key, value in image.info.items() if key in ("icc_profile", "exif", "dpi")})
            return large
        return self._in_memory(image, settings, on_step)

    def regress(self, image: Picture) -> Picture:
        """The RRDB's picture alone (stage one): `upscale(image, rrdb_only=True)`."""
        return self.upscale(image, rrdb_only=True)

    def check(self, settings: InferConfig) -> tuple[int, ...]:
        """The times that will be sampled; ConfigError for settings that do not fit this model."""
        sampler = settings.sampler or DEFAULT_SAMPLER[self.modulation.name]
        plan_tiles(self.unet.multiple, self.unet.multiple, self.scale, self.unet.multiple, settings.tile, settings.overlap)
        return check_pair(self.modulation, sampler, settings.steps, self._start_time(settings))

    def expect_scale(self, scale: int | None) -> None:
        """CheckpointError if `scale` is given and the model was trained for another."""
        if scale is not None and scale != self.scale:
            raise CheckpointError(f"{self.name}: trained for x{self.scale}, x{scale} was asked for; give another checkpoint")

    def _start_time(self, settings: InferConfig) -> int | None:
        if settings.start != "rrdb":
            return None
        return len(self.modulation.schedule) // 2 if settings.start_time is None else settings.start_time

    def _ready(self, network: Any, weights: dict[str, Tensor]) -> Any:
        load_into(network, weights, self.name)
        return network.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def _in_memory(self, image: np.ndarray, settings: InferConfig, on_step: Callable[[int], Any] | None) -> np.ndarray:
        """`_upscale`, refused if the memory does not suffice; a wrong shape is told by `split_pixel_format`."""
        if image.ndim not in (2, 3) or image.size == 0:
            return self._upscale(image, settings, on_step)
        height, width = image.shape[:2]
        tiled = 0 < settings.tile < max(height, width)
        if tiled or self.device.type == "cpu":  # else a GPU's
            least = -(-2 * self.unet.multiple // self.scale)  # as pad_lr makes of thinner ones
            needed = needed_bytes(
                max(height, least),
                max(width, least),
                self.scale,
                channels=self.config.model.rrdb_features if settings.rrdb_only else self.config.model.width,
                planes=1 if settings.rrdb_only else 3 + (settings.num_samples > 1),
                pixel_bytes=image.itemsize * (image.shape[2] if image.ndim == 3 else 1),
                tile_lr=settings.tile,
                batch=settings.batch,
            )
            check_memory(height, width, self.scale, needed, free_bytes())
        with memory_errors(height, width):
            return self._upscale(image, settings, on_step)

    @torch.inference_mode()
    def _upscale(self, image: np.ndarray, settings: InferConfig, on_step: Callable[[int], Any] | None) -> np.ndarray:
        colour, nature = split_pixel_format(image)
        canvas = self._canvas(colour, settings)
        lr = (
            torch.from_numpy(colour).permute(2, 0, 1)[None].contiguous()
        )  # not padded: the bicubic part must not lean on padding
        if len(canvas.tiling.tiles) == 1:  # otherwise it may be too large for a GPU
            lr = lr.to(self.device)
        height, width = (side * self.scale for side in lr.shape[2:])
        whole = self._regress(canvas, lr) if settings.rrdb_only else self._sample(canvas, lr, settings, on_step)
        picture = whole[:, :, :height, :width]
        if settings.back_project:
            make_consistent(picture, lr, self.scale)
        out = nature.empty(height, width)
        for top in range(0, height, BLOCK):
            out[top : top + BLOCK] = nature.restore(picture[0, :, top : top + BLOCK].permute(1, 2, 0).cpu().numpy())
        return nature.with_alpha(out, self.scale)

    def _canvas(self, colour: np.ndarray, settings: InferConfig) -> TiledPredictor:
        padded = torch.from_numpy(pad_lr(colour, self.unet.multiple, self.scale)).permute(2, 0, 1)[None]
        lr = padded.to(self.device).contiguous(memory_format=torch.channels_last)
        height, width = lr.shape[2:]
        tiling = plan_tiles(height, width, self.scale, self.unet.multiple, settings.tile, settings.overlap)
        unet = self.unet if settings.amp == "off" else self._in_bf16()
        return TiledPredictor(self.rrdb, unet, lr, tiling, settings.cache_mb << 20, settings.batch)

    def _in_bf16(self) -> UNet:
        if self._halved is None:
            self._halved = copy.deepcopy(self.unet).to(torch.bfloat16)
        return self._halved

    def _regress(self, canvas: TiledPredictor, lr: Tensor) -> Tensor:
        return canvas.regress(lr.device).clamp_(-1, 1)

    def _sample(
        self, canvas: TiledPredictor, lr: Tensor, settings: InferConfig, on_step: Callable[[int], Any] | None
    ) -> Tensor:
        """The picture [1, 3, H, W] where lr is; H and W of the padded canvas, whose margin holds anything."""
        first = self._start_time(settings)
        height, width = (side * self.scale for side in canvas.lr.shape[2:])
        mean: Tensor | None = None
        for number in range(settings.num_samples):
            field = NoiseField(settings.seed, width, number)

            def noise(step: int, top: int, bottom: int, field: NoiseField = field) -> Tensor:
                return field.rows(step, top, bottom).to(lr.device)

            x = torch.empty(1, 3, height, width, device=lr.device) if first is None else self._regress(canvas, lr)
            if first is not None:
                for rows, lr_up in self._bands(x, canvas.lr.to(lr.device)):
                    rows.copy_(to_residual(rows, lr_up))
            for top in range(0, height, BLOCK):
                rows, eps = x[:, :, top : top + BLOCK], noise(0, top, min(top + BLOCK, height))
                rows.copy_(eps if first is None else self._noised(rows, eps, first))
            states = sample_steps(
                canvas.predict, self.modulation, x, noise, settings.sampler, settings.steps, first=first, rows=BLOCK
            )
            for t, _ in states:
                if on_step is not None:
                    on_step(t)
            mean = x if mean is None else mean.add_(x)
        assert mean is not None
        for rows, lr_up in self._bands(mean.div_(settings.num_samples), lr):
            rows.copy_(from_residual(rows, lr_up))
        return mean

    def _bands(self, x: Tensor, lr: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of x as far as LR reaches, each with the enlarged LR, band by band."""
        levels = self.config.diffusion.lr_levels
        height, width = (side * self.scale for side in lr.shape[2:])
        for top in range(0, height, BLOCK):
            yield (
                x[:, :, top : min(top + BLOCK, height), :width],
                base_rows(lr, self.scale, top, min(top + BLOCK, height), levels),
            )

    def _noised(self, x_0: Tensor, eps: Tensor, t: int) -> Tensor:
        """The state at time t of `none`; of `official` but for its small multiple of E."""
        abar = self.modulation.schedule.alpha_bar(t)
        return abar**0.5 * x_0 + (1 - abar) ** 0.5 * eps


def config_in(checkpoint: Checkpoint, name: str) -> RunConfig:
    """The settings that a checkpoint was trained with; a CheckpointError, which names the file, if they are not understood."""
    try:
        return config_of(checkpoint.config)
    except ConfigError as error:
        raise CheckpointError(
            f"{name}: its configuration is not understood ({error}); use the samdiff release that wrote it"
        ) from error
