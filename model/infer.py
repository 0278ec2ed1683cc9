"""Pictures out: `load_model(path).upscale(image)`. Neither SAM nor masks are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import CheckpointError, ConfigError, ImageError
from ..pipeline.resize import imresize
from ..runtime import pick_device
from .checkpoint import Checkpoint, load_checkpoint, load_into
from .config import RunConfig, config_of
from .modulation import Modulation
from .networks import build_rrdb, build_unet
from .residual import base_picture, from_residual, to_picture_range, to_pixels
from .rrdb import RRDB, condition
from .sampler import DEFAULT as DEFAULT_SAMPLER
from .sampler import check_pair, sample_steps
from .unet import UNet


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
        self.config: RunConfig = _config_of(checkpoint, name)
        self.scale = self.config.scale
        self.modulation: Modulation = self.config.diffusion.build()
        self.rrdb: RRDB = self._ready(build_rrdb(self.config), checkpoint.part("rrdb"))
        self.unet: UNet = self._ready(build_unet(self.config), checkpoint.part("unet"))

    def upscale(
        self,
        image: np.ndarray | Image.Image,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: str | None = None,
        on_step: Callable[[int], Any] | None = None,
    ) -> np.ndarray | Image.Image:
        """One sample of the picture `scale` times larger; the same for the same seed on one device.

        Args:
            image: uint8 [H, W] grey, [H, W, 2] grey with alpha, [H, W, 3] RGB or [H, W, 4] RGBA, of any size from 1 x 1; or a PIL image.
            steps: of the sampler; None: all T.
            seed: of the noise.
            sampler: see `sampler.SAMPLERS`; None: the one that fits the model.
            on_step: called with the time after each step, for progress.

        Returns:
            The same kind of picture, [s H, s W, …]. Grey stays grey; alpha is enlarged bicubically.

        Raises:
            ImageError: an array of another dtype or shape.
            ConfigError: a sampler or a number of steps that does not fit the model.
        """
        check_pair(self.modulation, sampler or DEFAULT_SAMPLER[self.modulation.name], steps)
        return self._keep_nature(image, lambda lr, kept: self._diffuse(lr, kept, steps, seed, sampler, on_step))

    def regress(self, image: np.ndarray | Image.Image) -> np.ndarray | Image.Image:
        """The RRDB's picture alone (stage one): smoother, and closer in the mean square."""
        return self._keep_nature(image, lambda lr, _: self.rrdb(lr))

    def _ready(self, network: Any, weights: dict[str, Tensor]) -> Any:
        load_into(network, weights, self.name)
        return network.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)

    @torch.inference_mode()
    def _diffuse(
        self, lr: Tensor, kept: Tensor, steps: int | None, seed: int, sampler: str | None, on_step: Callable[[int], Any] | None
    ) -> Tensor:
        levels = self.config.diffusion.lr_levels
        given, lr_up = condition(self.rrdb.features(lr)), base_picture(lr, self.scale, levels)
        enlarged = base_picture(
            kept, self.scale, levels
        )  # the border of the padded picture would lean on the padding's own mirror
        lr_up[..., : enlarged.shape[2], : enlarged.shape[3]] = enlarged
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device starts from the same noise

        def noise(_: int) -> Tensor:
            return torch.randn(lr_up.shape, generator=generator).to(self.device)

        x_0 = lr_up
        for t, x_0 in sample_steps(lambda x, t: self.unet(x, t, given), self.modulation, noise, sampler, steps):  # noqa: B007
            if on_step is not None:
                on_step(t)
        return from_residual(x_0, lr_up)

    @torch.inference_mode()
    def _keep_nature(
        self, image: np.ndarray | Image.Image, enlarge: Callable[[Tensor, Tensor], Tensor]
    ) -> np.ndarray | Image.Image:
        if isinstance(image, Image.Image):
            return Image.fromarray(self._keep_nature(np.asarray(eight_bits(image)), enlarge))
        colour, alpha, grey = split_nature(image)
        height, width = colour.shape[:2]
        padded = pad_lr(colour, self.unet.multiple, self.scale)
        lr = to_picture_range(torch.from_numpy(padded)[None]).to(self.device).contiguous(memory_format=torch.channels_last)
        out = to_pixels(enlarge(lr, lr[..., :height, :width]))[0, : height * self.scale, : width * self.scale].cpu().numpy()
        if grey:
            out = _luma(out)
        if alpha is None:
            return out
        return np.dstack([out, imresize(alpha, self.scale)])


def split_nature(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """(RGB uint8 [H, W, 3], alpha uint8 [H, W] or None, whether it was grey) of a picture of one to four bands.

    Raises:
        ImageError: another dtype, another number of bands, or no pixel.
    """
    bands = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not 1 <= bands <= 4 or image.size == 0:
        raise ImageError(
            f"expected a uint8 picture [H, W] or [H, W, 1 to 4] with pixels, got {image.dtype} {list(image.shape)}"
        )
    layers = image.reshape(*image.shape[:2], bands)
    alpha = layers[..., -1] if bands in (2, 4) else None
    colour = layers[..., :3] if bands >= 3 else np.repeat(layers[..., :1], 3, axis=2)
    return np.ascontiguousarray(colour), alpha, bands < 3


def pad_lr(lr: np.ndarray, multiple: int, scale: int) -> np.ndarray:
    """Mirror LR [h, w, 3] at the bottom and the right until HR fits the U-Net: sides multiples of `multiple`, at least twice it.

    Mirroring is what the bicubic enlargement does at its borders, so the networks see what they know.
    """
    step = multiple // math.gcd(multiple, scale)
    least = -(-2 * multiple // scale)
    height, width = (-(-max(side, least) // step) * step for side in lr.shape[:2])
    return np.pad(lr, ((0, height - lr.shape[0]), (0, width - lr.shape[1]), (0, 0)), mode="symmetric")


def _luma(rgb: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> [H, W]: BT.601 luma, full range."""
    return (rgb @ np.array([0.299, 0.587, 0.114], np.float32)).round().astype(np.uint8)


def eight_bits(image: Image.Image) -> Image.Image:
    """The picture as L, LA, RGB or RGBA; 16-bit grey keeps its high byte, rounded. ImageError for floating-point pictures."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: the high byte, rounded
        return Image.fromarray(np.clip(np.round(np.asarray(image, np.float64) / 257), 0, 255).astype(np.uint8))
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "F":
        raise ImageError("a floating-point picture; save it with 8 or 16 bits")
    return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")


def _config_of(checkpoint: Checkpoint, name: str) -> RunConfig:
    try:
        return config_of(checkpoint.config)
    except ConfigError as error:
        raise CheckpointError(
            f"{name}: its configuration is not understood ({error}); use the samdiff release that wrote it"
        ) from error
