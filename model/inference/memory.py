"""Compares the memory that upscaling an image needs with the free memory: an error before the work, instead of a killed process.

Also measures the time that upscaling takes per pixel.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import ImageError
from ..config import RunConfig
from ..infer_config import InferConfig

if TYPE_CHECKING:
    from .upscaler import Upscaler

_TRIAL = 48  # pixels per side of the image whose time is measured
_FLOAT = 4  # bytes of a sample of float32
_MAPS = 3  # feature maps of a network that exist at the same time, at least


def needed_bytes(
    height_lr: int,
    width_lr: int,
    scale: int,
    *,
    channels: int,
    planes: int,
    pixel_bytes: int,
    tile_lr: int,
    batch: int,
    bands: int = 3,
) -> int:
    """Lower estimate of the peak memory: RGB planes of the result's size, the result, and the networks' features of a tile.

    Args:
        height_lr: of the input in pixels.
        width_lr: of the input in pixels.
        scale: HR pixels per LR pixel.
        channels: of the features at full resolution.
        planes: float32 images of the result's size that exist at the same time.
        pixel_bytes: bytes of one pixel of the result.
        tile_lr: largest side of a tile in LR pixels; 0: no tiles.
        batch: tiles per call of the network.
        bands: of the image.
    """
    pixels_hr = height_lr * width_lr * scale**2
    tiled = 0 < tile_lr < max(height_lr, width_lr)
    sides = [min(side, tile_lr) if tiled else side for side in (height_lr, width_lr)]
    features = sides[0] * sides[1] * scale**2 * channels * 4 * _MAPS * (batch if tiled else 1)
    return pixels_hr * (_FLOAT * bands * planes + pixel_bytes) + 3 * _FLOAT * bands * height_lr * width_lr + features


def needed_for(config: RunConfig, settings: InferConfig, image: np.ndarray, *, multiple: int) -> int:
    """`needed_bytes` of an image [H, W] or [H, W, C] and a model.

    Args:
        config: of the model.
        settings: of the inference.
        image: the input.
        multiple: of the U-Net's sides; smaller images are padded to twice it.
    """
    least = -(-2 * multiple // config.scale)
    planes = 3 + ((settings.num_samples or 1) > 1) + (config.diffusion.base == "rrdb") + (config.diffusion.scale_from != "none")
    return needed_bytes(
        max(image.shape[0], least),
        max(image.shape[1], least),
        config.scale,
        channels=config.model.rrdb_features if settings.rrdb_only else config.model.width,
        planes=1 if settings.rrdb_only else planes,
        pixel_bytes=image.itemsize * (image.shape[2] if image.ndim == 3 else 1),
        tile_lr=settings.tile,
        batch=settings.batch,
        bands=config.bands,
    )


def check_memory(height_lr: int, width_lr: int, scale: int, needed: int, free: int | None) -> None:
    """ImageError if more memory is needed than is free. None: the free memory is unknown."""
    if free is not None and needed > free:
        raise ImageError(
            f"{width_lr} x {height_lr} pixels become {width_lr * scale} x {height_lr * scale}, which takes about {needed / 1e9:.1f} GB of "
            f"memory, {free / 1e9:.1f} GB are free; crop it, cut it into parts, or use a machine with more"
        )


@contextmanager
def memory_errors(height_lr: int, width_lr: int) -> Iterator[None]:
    """Converts failed allocations into an ImageError: the system may have less memory than it reported, and a GPU has its own."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch raises a plain RuntimeError on the CPU
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known and "not enough memory" not in str(error):
            raise
        raise ImageError(
            f"{width_lr} x {height_lr} pixels: not enough memory; give a smaller --tile or --batch, or crop it"
        ) from error


def free_bytes() -> int | None:
    """Memory that this process may still allocate: the least of system, control group (containers) and `ulimit -v`. None: unknown."""
    known = [value for value in (_system(), _control_group(), _address_space()) if value is not None]
    return min(known, default=None)


def _system() -> int | None:
    fields = _numbers(Path("/proc/meminfo"))
    available = fields.get("MemAvailable")
    return None if available is None else (available + fields.get("SwapFree", 0)) * 1024


def _control_group() -> int | None:
    """The lowest limit of the process's cgroup and its parents (v1 or v2), minus the memory in use; file cache counts as free."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        number, controllers, inside = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") if number == "0" else Path("/sys/fs/cgroup/memory")
        most, used, cache = (
            ("memory.max", "memory.current", "inactive_file")
            if number == "0"
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        folder = root / inside.strip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(root):
                break
            limit, now = _number(place / most), _number(place / used)
            if limit is not None and now is not None:
                limits.append(max(0, limit - now + _numbers(place / "memory.stat").get(cache, 0)))
    return min(limits, default=None)


def _address_space() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _numbers(Path("/proc/self/status")).get("VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else max(0, limit - used * 1024)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # `max`: no limit


def _numbers(path: Path) -> dict[str, int]:
    """Lines such as `MemFree:  12 kB` or `cache 12`; empty if there is no such file."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {name: int(value) for name, value in re.findall(r"^(\w+):?\s+(\d+)", text, re.MULTILINE)}


def seconds_per_pixel(model: Upscaler, settings: InferConfig) -> float:
    """Seconds per input pixel, measured on an image of 48 x 48 pixels."""
    image = np.random.default_rng(0).integers(0, 256, (_TRIAL, _TRIAL, 3), dtype=np.uint8)
    started = time.perf_counter()
    model.upscale(image, settings)
    return (time.perf_counter() - started) / _TRIAL**2
