"""Converts published checkpoints of SAM-DiffSR, SRDiff or their RRDB to samdiff checkpoints; every name and shape is verified.

Pickles are read with `weights_only=True` only: a file that needs code is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError, printable
from ..config import MOST_TIMES, RunConfig, config_from
from ..diffusion.schedule import Schedule
from .expected import check_shapes, model_shapes
from .format import Checkpoint, check_finite
from .official_names import RRDB_NAMES, UNET_NAMES, to_ours
from .plain import brief
from .published import read_published

OFFICIAL_LEVELS = 256
"""The official code divides LR by 256 (not 255) before bicubic upsampling, and its weights are trained for that."""


def import_official(path: Path, modulation: str = "official") -> Checkpoint:
    """Read a published checkpoint as one of kind `diffusion` (U-Net and RRDB), or `rrdb` if the file holds no U-Net.

    Sizes, scale and T are derived from the shapes of the tensors; the noise schedule must be cosine or linear.

    Args:
        path: the `.ckpt` / `.pth` file; `.npz` and `.safetensors` of the same names are read too.
        modulation: of its training, which the file does not state: `official` (SAM-DiffSR) or `none` (SRDiff).
            Both are sampled in the same way.

    Raises:
        ConfigError: an unknown modulation.
        CheckpointError: a missing file, a pickle that needs code, false sizes, an unknown name, a missing or misshapen tensor, another schedule.
    """
    if modulation not in ("official", "none"):
        raise ConfigError(f"--modulation: expected official (SAM-DiffSR) or none (SRDiff), got {modulation!r}")
    tensors, sha256 = read_published(path)
    if any(name.startswith("conv_first.") for name in tensors):
        tensors = {f"rrdb.{name}": value for name, value in tensors.items()}
    unet, rrdb = _below(tensors, "denoise_fn."), _below(tensors, "rrdb.")
    unknown = [name for name in tensors if not name.startswith(("denoise_fn.", "rrdb.")) and name != "betas"]
    if unknown or not rrdb:
        problem = f"{len(unknown)} unknown entries (such as {printable(unknown[0])[:80]})" if unknown else "no RRDB"
        raise CheckpointError(
            f"{path}: expected a published SAM-DiffSR, SRDiff or RRDB checkpoint (denoise_fn.…, rrdb.…), got {problem}"
        )
    try:
        config = config_from(_settings(unet, rrdb, tensors.get("betas"), modulation=modulation if unet else "none", path=path))
        ours = {f"rrdb.{name}": value for name, value in to_ours(rrdb, RRDB_NAMES).items()}
        ours |= {f"unet.{name}": value for name, value in to_ours(unet, UNET_NAMES).items()}
        expected = model_shapes(config, "diffusion" if unet else "rrdb")
    except KeyError as error:
        raise CheckpointError(
            f"{path}: the entry {printable(error)[:80]} is unknown, missing or of another shape; not one of the published layouts"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: its shapes do not match a network that samdiff supports ({error})") from error
    check_shapes(
        expected, {name: tuple(value.shape) for name, value in ours.items()}, str(path), hint="not one of the published layouts"
    )
    check_finite(ours, str(path), "take another copy of the file")
    facts = {"imported_from": path.name, "sha256": sha256}
    return Checkpoint("diffusion" if unet else "rrdb", ours, config=config.as_dict(), facts=facts)


def describe(checkpoint: Checkpoint) -> str:
    """One line about an imported checkpoint."""
    config: RunConfig = config_from(checkpoint.config)
    count = sum(value.numel() for value in checkpoint.tensors.values()) / 1e6
    m = config.model
    parts = [f"{checkpoint.kind}, x{config.scale}, {count:.1f} M parameters"]
    parts += [f"RRDB {m.rrdb_blocks} x {m.rrdb_features} ({m.rrdb_growth})"]
    if checkpoint.kind == "diffusion":
        parts += [f"U-Net {m.width} x {'-'.join(map(str, m.multipliers))}", f"T = {config.diffusion.timesteps}"]
        parts += [f"LR divided by {config.diffusion.lr_levels} before upsampling, as in its training"]
    return ", ".join(parts)


def _settings(
    unet: Mapping[str, Tensor], rrdb: Mapping[str, Tensor], betas: Tensor | None, modulation: str, path: Path
) -> dict[str, object]:
    """The configuration that follows from the shapes. KeyError for a missing tensor."""
    model: dict[str, object] = {
        "rrdb_features": _length(rrdb, "conv_first.bias"),
        "rrdb_growth": _length(rrdb, "RRDB_trunk.0.RDB1.conv1.bias"),
        "rrdb_blocks": _count(rrdb, "RRDB_trunk"),
    }
    scale = 2 ** sum(f"upconv{number}.weight" in rrdb for number in (1, 2, 3))
    diffusion: dict[str, object] = {"modulation": modulation, "e_mean": "image"}
    if unet:
        model["width"] = width = _length(unet, "cond_proj.bias")
        levels = range(_count(unet, "downs"))
        model["multipliers"] = [_length(unet, f"downs.{level}.0.block1.block.1.bias") // width for level in levels]
        scale = _length(unet, "cond_proj.weight", 4) // 2  # its kernel is twice its stride
        diffusion |= {"lr_levels": OFFICIAL_LEVELS, **_schedule(betas, path)}
    return {"preset": "published", "scale": scale, "model": model, "diffusion": diffusion}


def _length(tensors: Mapping[str, Tensor], name: str, axes: int = 1) -> int:
    """Length of the last axis of a tensor. KeyError if the tensor is missing, empty or has another number of axes."""
    if tensors[name].ndim != axes or tensors[name].shape[-1] == 0:
        raise KeyError(name)
    return tensors[name].shape[-1]


def _count(tensors: Mapping[str, Tensor], part: str) -> int:
    """Number of distinct indices below `part`; each needs a tensor of its own, so a high index alone does not count."""
    numbers = {match[1] for match in (re.match(rf"{part}\.([0-9]+)\.", name) for name in tensors) if match}
    return len(numbers)


def _schedule(betas: Tensor | None, path: Path) -> dict[str, object]:
    """`timesteps` and `schedule` from the betas in the file; empty (the official ones) if it holds none."""
    if betas is None:
        return {}
    if betas.ndim == 1 and 2 <= len(betas) <= MOST_TIMES:
        for name, build in (("cosine", Schedule.cosine), ("linear", Schedule.linear)):
            if torch.allclose(build(len(betas)).betas.float(), betas, atol=1e-5):
                return {"timesteps": len(betas), "schedule": name}
    raise CheckpointError(
        f"{path}: its betas {brief(betas.flatten()[:3].tolist())} … of shape {list(betas.shape)} are neither the cosine nor the linear schedule"
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
