"""Pictures out: `load_model(path).upscale(image)`. Neither SAM nor masks are needed."""

from __future__ import annotations

import copy
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import CheckpointError, ConfigError, ImageError
from ...pipeline.images.given import ImageKind, is_tensor, split_tensor
from ...runtime import pick_device
from ..checkpoints.format import Checkpoint, load_checkpoint, load_into, weights_digest
from ..config import RunConfig, config_of
from ..diffusion.modulation import Modulation
from ..diffusion.noise import BLOCK, NoiseField
from ..diffusion.residual import base_rows, from_residual, to_residual
from ..diffusion.sampler import DEFAULT as DEFAULT_SAMPLER
from ..diffusion.sampler import check_pair, sample_steps
from ..networks.build import build_rrdb, build_unet
from ..networks.rrdb import RRDB
from ..networks.unet import UNet
from .back_projection import make_consistent
from .image_io import read_picture_file, to_pil
from .memory import check_memory, free_bytes, memory_errors, needed_bytes
from .pixel_format import eight_bits, pad_lr, split_pixel_format
from .tile_weights import plan_tiles
from .tiled import TiledPredictor

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16")
STARTS = ("noise", "rrdb")
OnStep = Callable[[int], Any] | None


@dataclass(frozen=True)
class InferConfig:
    """How to make a picture larger."""

    steps: int | None = None
    """Of the sampler; None: all T (from the start on)."""
    seed: int = 0
    """Of the noise; the same seed gives the same picture on one device."""
    sampler: str | None = None
    """See `sampler.SAMPLERS`; None: the one that fits the model."""
    average: int = 1
    """Mean of so many samples: smoother, and closer in the mean square."""
    start: str = "noise"
    """noise, or rrdb: the RRDB's picture brought to time `start_time`."""
    start_time: int | None = None
    """For `rrdb`: 0 … T - 1; the higher, the more is made anew. None: T / 2."""
    consistent: bool = False
    """Whether the result is made consistent with LR (see `consistency`)."""
    regress: bool = False
    """The RRDB's picture alone (stage one), no diffusion: smoother, and closer in the mean square."""
    tile: int = 192
    """Largest side of a tile in pixels of the input; 0: the whole picture at once."""
    overlap: int = 16
    """Of neighbouring tiles, in pixels of the input."""
    batch: int = 1
    """Tiles per call of the network."""
    cache_mb: int = 1024
    """Memory for the RRDB's features, which every step needs; what does not fit is computed again."""
    precision: str = "fp32"
    """fp32 or bf16, of the U-Net."""

    def __post_init__(self) -> None:
        for name, known in (("start", STARTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name, least in (("average", 1), ("batch", 1), ("cache_mb", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.start_time is not None and self.start != "rrdb":
            raise ConfigError("start_time: only together with start 'rrdb'")


def load_model(path: Path | str, device: str | torch.device = "auto") -> SuperResolver:
    """A trained model, ready to use.

    Args:
        path: `model.safetensors`, or the run's folder, or the word `shipped`: the small model that comes with samdiff.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps` or a torch device.

    Raises:
        CheckpointError: there is no such file, it is not one of ours, or its weights do not fit its configuration.
        ConfigError: the device is not there.
    """
    checkpoint = load_checkpoint(Path(path), kind="diffusion")
    return SuperResolver(checkpoint, str(path), pick_device(device))


class SuperResolver:
    """A diffusion model with its condition network: `model(image)` is `scale` times larger. The checkpoint decides sizes and scale."""

    def __init__(self, checkpoint: Checkpoint, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.sha256 = weights_digest(checkpoint.tensors)
        self.config: RunConfig = _config_of(checkpoint, name)
        self.scale = self.config.scale
        self.modulation: Modulation = self.config.diffusion.build()
        self.rrdb: RRDB = self._ready(build_rrdb(self.config), checkpoint.part("rrdb"))
        self.unet: UNet = self._ready(build_unet(self.config), checkpoint.part("unet"))
        self._halved: UNet | None = None

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
        self, image: ImageKind, settings: InferConfig | None = None, *, on_step: OnStep = None, **changes: Any
    ) -> ImageKind: ...

    @overload
    def upscale(
        self, image: str | Path, settings: InferConfig | None = None, *, on_step: OnStep = None, **changes: Any
    ) -> Image.Image: ...

    def upscale(self, image: Any, settings: InferConfig | None = None, *, on_step: OnStep = None, **changes: Any) -> Any:
        """One sample of the image `scale` times larger; the same for the same seed on one device.

        Args:
            image: an array [H, W] grey, [H, W, 2] grey with alpha, [H, W, 3] RGB or [H, W, 4] RGBA, of any size from 1 x 1; uint8,
                uint16, or floats of 0 to 1. Or a PIL image, a file's path, or a tensor: [H, W], [C, H, W], [H, W, C] or a batch of them
                (where both fit, channels first).
            settings: see `InferConfig`; None: the defaults.
            on_step: called with the time after each step, for progress.
            changes: fields of the settings, such as `steps=25, seed=1`; `seed=None` draws one at random.

        Returns:
            The same kind of image, [s H, s W, …]; for a path a PIL image of 8 bits, upright, with the file's colour profile and EXIF. Grey
            stays grey; alpha is enlarged bicubically. Tensors keep layout, dtype and device; each image of a batch is upscaled as if alone.

        Raises:
            ImageError: an array of another dtype or shape, floats out of range, a file that cannot be read, or more than the memory holds.
            ConfigError: a sampler, a number of steps or a tile that does not fit the model.
        """
        if changes.get("seed", 0) is None:
            changes["seed"] = secrets.randbelow(1 << 32)
            log.info("seed %d", changes["seed"])
        settings = _changed(settings or InferConfig(), changes)
        self.check(settings)
        if isinstance(image, str | Path):
            file = read_picture_file(Path(image))
            return to_pil(self._in_memory(file.pixels, settings, on_step), file)
        if isinstance(image, Image.Image):
            large = Image.fromarray(self._in_memory(np.asarray(eight_bits(image)), settings, on_step))
            large.info.update({key: value for key, value in image.info.items() if key in ("icc_profile", "exif", "dpi")})
            return large
        if is_tensor(image):
            arrays, layout = split_tensor(image)
            return layout.restore([self._in_memory(array, settings, on_step) for array in arrays])
        if not isinstance(image, np.ndarray):
            raise ImageError(f"expected an image: an array, a PIL image, a tensor or a path, got {type(image).__name__}")
        return self._in_memory(image, settings, on_step)

    __call__ = upscale

    def regress(self, image: ImageKind) -> ImageKind:
        """The RRDB's image alone (stage one): `upscale(image, regress=True)`."""
        return self.upscale(image, regress=True)

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

    def _in_memory(self, image: np.ndarray, settings: InferConfig, on_step: OnStep) -> np.ndarray:
        """`_upscale`, refused if the memory does not suffice; a wrong shape is told by `split_pixel_format`."""
        if image.ndim not in (2, 3) or image.size == 0:
            return self._upscale(image, settings, on_step)
        height, width = image.shape[:2]
        tiled = 0 < settings.tile < max(height, width)
        if tiled or self.device.type != "cuda":  # else a GPU's own
            least = -(-2 * self.unet.multiple // self.scale)  # as pad_lr makes of thinner ones
            needed = needed_bytes(
                max(height, least),
                max(width, least),
                self.scale,
                channels=self.config.model.rrdb_features if settings.regress else self.config.model.width,
                planes=1 if settings.regress else 3 + (settings.average > 1),
                pixel_bytes=image.itemsize * (image.shape[2] if image.ndim == 3 else 1),
                tile_lr=settings.tile,
                batch=settings.batch,
            )
            check_memory(height, width, self.scale, needed, free_bytes())
        with memory_errors(height, width):
            return self._upscale(image, settings, on_step)

    @torch.inference_mode()
    def _upscale(self, image: np.ndarray, settings: InferConfig, on_step: OnStep) -> np.ndarray:
        colour, nature = split_pixel_format(image)
        canvas = self._canvas(colour, settings)
        lr = (
            torch.from_numpy(colour).permute(2, 0, 1)[None].contiguous()
        )  # not padded: the bicubic part must not lean on padding
        if len(canvas.tiling.tiles) == 1:  # otherwise it may be too large for a GPU
            lr = lr.to(self.device)
        height, width = (side * self.scale for side in lr.shape[2:])
        whole = self._regress(canvas, lr) if settings.regress else self._sample(canvas, lr, settings, on_step)
        picture = whole[:, :, :height, :width]
        if settings.consistent:
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
        unet = self.unet if settings.precision == "fp32" else self._in_bf16()
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
        for number in range(settings.average):
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
        for rows, lr_up in self._bands(mean.div_(settings.average), lr):
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


def _changed(settings: InferConfig, changes: dict[str, Any]) -> InferConfig:
    known = {field.name for field in fields(InferConfig)}
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise ConfigError(f"upscale: unknown setting {unknown[0]}; known: {', '.join(sorted(known))}")
    return replace(settings, **changes)


def _config_of(checkpoint: Checkpoint, name: str) -> RunConfig:
    try:
        return config_of(checkpoint.config)
    except ConfigError as error:
        raise CheckpointError(
            f"{name}: its configuration is not understood ({error}); use the samdiff release that wrote it"
        ) from error
