"""What all upscalers have in common: kinds of images in and out; and `OneStepResolver`, for networks of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import CheckpointError, ConfigError, ImageError, printable
from ...pipeline.images.given import ImageKind, is_tensor, split_tensor
from ...pipeline.scientific.sample_format import RGB8, SampleFormat
from ...settings import changed
from ..diffusion.noise import BLOCK
from ..infer_config import InferConfig
from ..samples.raster_file import read_sample_file
from .back_projection import make_consistent
from .image_io import read_image_file, to_pil
from .memory import check_memory, free_bytes, memory_errors, needed_bytes
from .pixel_format import array_of, split_pixel_format
from .tile_weights import Tile, plan_tiles
from .tiled import blend_tiles, count_tiles, part_of

OnProgress = Callable[[float], object] | None
OneStepNetwork = Callable[[Tensor], Tensor]
"""LR [B, 3, h, w] in [-1, 1] -> HR [B, 3, s h, s w], not clipped."""

_OF_SAMPLING = ("steps", "seed", "sampler", "quality", "num_samples", "realism", "start", "start_time", "rrdb_only", "amp")
"""Settings without a meaning for a network of one step."""


def by_kind(image: Any, work: Callable[[np.ndarray], np.ndarray], samples: SampleFormat = RGB8) -> Any:
    """Apply `work` to an image of any kind: an array, a PIL image, a tensor or a path. The result has the same kind; a PIL image for a path.

    With other samples than 8-bit RGB: an array of them, or a path, whose result is an array too.

    Raises:
        ImageError: another kind, or a file that cannot be read.
    """
    if not samples.is_rgb8:
        if isinstance(image, str | Path):
            return work(read_sample_file(Path(image), samples).values)
        if not isinstance(image, np.ndarray):
            raise ImageError(f"expected an array of the model's samples ({samples.describe()}), got {type(image).__name__}")
        return work(image)
    if isinstance(image, str | Path):
        file = read_image_file(Path(image))
        return to_pil(work(file.pixels), file)
    if isinstance(image, Image.Image):
        large = Image.fromarray(work(array_of(image)))
        large.info.update({key: value for key, value in image.info.items() if key in ("icc_profile", "exif", "dpi")})
        return large
    if is_tensor(image):
        arrays, layout = split_tensor(image)
        return layout.restore([work(array) for array in arrays])
    if not isinstance(image, np.ndarray):
        raise ImageError(f"expected an image: an array, a PIL image, a tensor or a path, got {type(image).__name__}")
    return work(image)


class OneStepResolver:
    """A network of one step, without noise or settings of sampling: `model(image)` is `scale` times larger."""

    def __init__(
        self, network: OneStepNetwork, *, name: str, scale: int, sha256: str, device: torch.device, channels: int, side: int = 0
    ) -> None:
        """
        Args:
            network: see `OneStepNetwork`.
            name: of the file, for messages.
            scale: s.
            sha256: of the weights.
            device: that the network runs on.
            channels: of its features, for the estimate of memory.
            side: the only size of LR, side x side, that the network takes; 0: any.
        """
        self.network, self.name, self.scale, self.sha256, self.device = network, name, scale, sha256, device
        self.channels, self.side = channels, side
        self.samples = RGB8

    def __repr__(self) -> str:
        return f"OneStepResolver({self.name!r}, x{self.scale}, one step, on {self.device})"

    def resolve(self, settings: InferConfig) -> InferConfig:
        """The settings in use. ConfigError for settings of sampling, which it has not, or tiles that it cannot take."""
        defaults = InferConfig()
        given = [each for each in _OF_SAMPLING if getattr(settings, each) != getattr(defaults, each)]
        if given:
            raise ConfigError(
                f"{given[0]}: {printable(self.name)} is a network of one step, without sampling; leave {', '.join(given)} out"
            )
        if not self.side:
            return settings
        if settings.tile not in (defaults.tile, self.side) or settings.batch != 1:
            raise ConfigError(
                f"tile: {printable(self.name)} takes one tile of {self.side} x {self.side} pixels at a time, got --tile {settings.tile}, "
                f"--batch {settings.batch}; leave them out"
            )
        return replace(settings, tile=self.side)

    def sampling_plan(self, settings: InferConfig) -> None:
        """There is none. ConfigError for settings that do not fit, like that of `SuperResolver`."""
        settings = self.resolve(settings)
        plan_tiles(1, 1, self.scale, multiple=self.scale, tile=settings.tile, overlap=settings.overlap)

    def expect_scale(self, scale: int | None) -> None:
        """CheckpointError if `scale` is given and the model was trained for another."""
        if scale is not None and scale != self.scale:
            raise CheckpointError(f"{self.name}: trained for x{self.scale}, x{scale} was requested; give another checkpoint")

    @overload
    def upscale(
        self, image: ImageKind, settings: InferConfig | None = None, *, on_progress: OnProgress = None, **changes: Any
    ) -> ImageKind: ...

    @overload
    def upscale(
        self, image: str | Path, settings: InferConfig | None = None, *, on_progress: OnProgress = None, **changes: Any
    ) -> Image.Image: ...

    def upscale(
        self, image: Any, settings: InferConfig | None = None, *, on_progress: OnProgress = None, **changes: Any
    ) -> Any:
        """Upscale an image by `scale`. Images in and out and errors as for `SuperResolver.upscale`; of the settings, only those of tiles
        and `back_project` have a meaning.
        """
        settings = self.resolve(changed(settings or InferConfig(), changes, "upscale"))
        self.sampling_plan(settings)
        return by_kind(image, partial(self._in_memory, settings=settings, on_progress=on_progress))

    __call__ = upscale

    def _in_memory(self, image: np.ndarray, *, settings: InferConfig, on_progress: OnProgress) -> np.ndarray:
        if image.ndim in (2, 3) and image.size:
            height, width = image.shape[:2]
            if 0 < settings.tile < max(height, width) or self.device.type != "cuda":  # else it needs the GPU's memory
                needed = needed_bytes(
                    height,
                    width,
                    self.scale,
                    channels=-(-self.channels // self.scale**2),  # its features have the size of LR
                    planes=1,
                    pixel_bytes=image.itemsize * (image.shape[2] if image.ndim == 3 else 1),
                    tile_lr=settings.tile,
                    batch=settings.batch,
                )
                check_memory(height, width, self.scale, needed=needed, free=free_bytes())
            with memory_errors(height, width):
                return self._upscale(image, settings, on_progress)
        return self._upscale(image, settings, on_progress)  # reports the wrong shape

    @torch.inference_mode()
    def _upscale(self, image: np.ndarray, settings: InferConfig, on_progress: OnProgress) -> np.ndarray:
        colour, pixel_format = split_pixel_format(image)
        small = torch.from_numpy(colour).permute(2, 0, 1)[None].contiguous()
        least = self.side or 1
        padded = torch.from_numpy(pad_to(colour, least)).permute(2, 0, 1)[None]
        lr = padded.to(self.device).contiguous(memory_format=torch.channels_last)
        height, width = lr.shape[2:]
        tiling = plan_tiles(height, width, self.scale, multiple=self.scale, tile=settings.tile, overlap=settings.overlap)
        on_tiles = (lambda _: None) if on_progress is None else count_tiles(len(tiling.tiles), on_progress)

        def network(tiles: list[Tile]) -> Tensor:
            return self.network(torch.cat([part_of(lr, tile, 1, tiling=tiling) for tile in tiles]))

        whole = blend_tiles(network, tiling, size=lr.shape[2:], device=lr.device, batch=settings.batch, on_tiles=on_tiles)
        height, width = (side * self.scale for side in colour.shape[:2])  # without the padding
        result = whole.clamp_(-1, 1)[:, :, :height, :width]
        if settings.back_project:
            make_consistent(result, small.to(lr.device), self.scale)
        out = pixel_format.empty(height, width)
        for top in range(0, height, BLOCK):
            out[top : top + BLOCK] = pixel_format.restore(result[0, :, top : top + BLOCK].permute(1, 2, 0).cpu().numpy())
        return pixel_format.with_alpha(out, self.scale)


def pad_to(lr: np.ndarray, least: int) -> np.ndarray:
    """Mirror LR [h, w, 3] at the bottom and the right until its sides are at least `least`."""
    height, width = (max(0, least - side) for side in lr.shape[:2])
    return np.pad(lr, ((0, height), (0, width), (0, 0)), mode="symmetric") if height or width else lr
