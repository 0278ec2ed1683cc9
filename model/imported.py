"""Published weights in: a checkpoint of SAM-DiffSR, SRDiff or their RRDB becomes one of ours, every name and shape verified.

Pickles are read with `weights_only=True` only: a file that would run code is refused.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .checkpoint import FORMAT, Checkpoint, load_into
from .config import RunConfig, config_from
from .networks import build_rrdb, build_unet
from .official import RRDB_NAMES, UNET_NAMES, to_ours
from .schedule import Schedule

OFFICIAL_LEVELS = 256
"""The official code divides LR by 256 (not 255) before it enlarges it, and its weights have learnt the difference."""

_WRAPPERS = ("state_dict", "model", "params_ema", "params", "module")  # what published files nest their tensors in
_BUFFERS = "betas|alphas_cumprod|sqrt_|log_one_minus|posterior_"  # tables of the schedule, kept in the state dict


def import_official(path: Path, modulation: str = "official") -> Checkpoint:
    """A published checkpoint as ours: kind `diffusion` (U-Net and RRDB), or `rrdb` if the file holds no U-Net.

    Sizes, scale and T are read from the tensors' shapes; the schedule must be one that we know.

    Args:
        path: the `.ckpt` / `.pth` file; `.npz` and `.safetensors` of the same names are read too.
        modulation: what it was trained with, which the file does not say: `official` (SAM-DiffSR) or `none` (SRDiff).
            Both are sampled the same way.

    Raises:
        ConfigError: another modulation.
        CheckpointError: no such file, a pickle that needs code, an unknown name, a missing or misshapen tensor, another schedule.
    """
    if modulation not in ("official", "none"):
        raise ConfigError(f"--modulation: expected official (SAM-DiffSR) or none (SRDiff), got {modulation!r}")
    tensors = {re.sub(r"^(module\.|model\.)+", "", name): value for name, value in _tensors(path).items()}
    if any(name.startswith("conv_first.") for name in tensors):
        tensors = {f"rrdb.{name}": value for name, value in tensors.items()}
    unet, rrdb = _below(tensors, "denoise_fn."), _below(tensors, "rrdb.")
    strange = [n for n in tensors if not n.startswith(("denoise_fn.", "rrdb.")) and not re.match(_BUFFERS, n)]
    if strange or not rrdb:
        found = f"{len(strange)} unknown entries (such as {strange[0]})" if strange else "no RRDB"
        raise CheckpointError(
            f"{path}: expected a published SAM-DiffSR, SRDiff or RRDB checkpoint (denoise_fn.…, rrdb.…), got {found}"
        )
    try:
        config = config_from(_settings(unet, rrdb, tensors.get("betas"), modulation if unet else "none", path))
        ours = {f"rrdb.{name}": value for name, value in to_ours(rrdb, RRDB_NAMES).items()}
        ours |= {f"unet.{name}": value for name, value in to_ours(unet, UNET_NAMES).items()}
    except KeyError as error:
        raise CheckpointError(f"{path}: the entry {error} is unknown or missing; not one of the published layouts") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: its shapes give no network that samdiff knows ({error})") from error
    facts = {"imported_from": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    checkpoint = Checkpoint("diffusion" if unet else "rrdb", ours, config.as_dict(), facts)
    load_into(build_rrdb(config), checkpoint.part("rrdb"), str(path))
    if unet:
        load_into(build_unet(config), checkpoint.part("unet"), str(path))
    return checkpoint


def describe(checkpoint: Checkpoint) -> str:
    """One line about an imported checkpoint."""
    config: RunConfig = config_from(checkpoint.config)
    count = sum(value.numel() for value in checkpoint.tensors.values()) / 1e6
    m = config.model
    parts = [f"{checkpoint.kind}, x{config.scale}, {count:.1f} M parameters"]
    parts += [f"RRDB {m.rrdb_blocks} x {m.rrdb_features} ({m.rrdb_growth})"]
    if checkpoint.kind == "diffusion":
        parts += [f"U-Net {m.width} x {'-'.join(map(str, m.multipliers))}", f"T = {config.diffusion.timesteps}"]
        parts += [f"LR divided by {config.diffusion.lr_levels} before its enlargement, as in its training"]
    return ", ".join(parts)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Name -> float32 tensor of the file, out of whatever it is nested in."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; give the published checkpoint's file")
    ours = False
    try:
        if path.suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as data:
                content: Any = {name: torch.from_numpy(data[name]) for name in data}
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                ours = (opened.metadata() or {}).get("format") == FORMAT
                content = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors alone (or none at all): to read it as a pickle would run code from the file, which samdiff never does"
        ) from error
    except Exception as error:  # torch raises many kinds for files that are cut short or no archives
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({type(error).__name__}); is the file whole?") from error
    if ours:
        raise CheckpointError(f"{path}: a checkpoint of samdiff's own, which needs no import; use it as it is")
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: expected tensors by name, possibly below state_dict.model, got something else")
    return {str(name): value.float() if value.is_floating_point() else value for name, value in content.items()}


def _settings(
    unet: Mapping[str, Tensor], rrdb: Mapping[str, Tensor], betas: Tensor | None, modulation: str, path: Path
) -> dict[str, Any]:
    """The configuration that the shapes tell. KeyError for a tensor that is missing."""
    model: dict[str, Any] = {
        "rrdb_features": len(rrdb["conv_first.bias"]),
        "rrdb_growth": len(rrdb["RRDB_trunk.0.RDB1.conv1.bias"]),
        "rrdb_blocks": 1 + max(int(n.split(".")[1]) for n in rrdb if n.startswith("RRDB_trunk.")),
    }
    scale = 2 ** sum(f"upconv{number}.weight" in rrdb for number in (1, 2, 3))
    diffusion: dict[str, Any] = {"modulation": modulation, "e_mean": "image"}
    if unet:
        model["width"] = width = len(unet["cond_proj.bias"])
        levels = 1 + max(int(name.split(".")[1]) for name in unet if name.startswith("downs."))
        model["multipliers"] = [len(unet[f"downs.{level}.0.block1.block.1.bias"]) // width for level in range(levels)]
        scale = unet["cond_proj.weight"].shape[-1] // 2  # its kernel is twice its stride
        diffusion |= {"lr_levels": OFFICIAL_LEVELS, **_schedule(betas, path)}
    return {"preset": "published", "scale": scale, "model": model, "diffusion": diffusion}


def _schedule(betas: Tensor | None, path: Path) -> dict[str, Any]:
    """`timesteps` and `schedule` of the tables in the file; the official ones if it holds none."""
    if betas is None:
        return {}
    for name, build in (("cosine", Schedule.cosine), ("linear", Schedule.linear)):
        if len(betas) >= 2 and torch.allclose(build(len(betas)).betas.float(), betas, atol=1e-5):
            return {"timesteps": len(betas), "schedule": name}
    raise CheckpointError(
        f"{path}: its {len(betas)} betas ({float(betas[0]):.3g} … {float(betas[-1]):.3g}) are neither the cosine nor the linear schedule"
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
