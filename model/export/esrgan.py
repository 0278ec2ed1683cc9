"""The RRDB's weights with the names of ESRGAN, so that spandrel, chaiNNer and other programs load them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...pipeline.storage.outputs import claim_outputs, write_output
from ..checkpoints.format import Checkpoint, config_in
from ..checkpoints.official_names import RRDB_NAMES, to_official
from ..networks.rrdb import RRDB
from .tile_network import network_of

SCALES = (2, 4, 8)
"""Those that ESRGAN's layout has."""
GROWTH = 32
"""Channels that each dense convolution adds in ESRGAN; programs take it for granted."""
SUFFIXES = (".safetensors", ".pth")
_DENSE = re.compile(r"blocks\.\d+\.dense\.\d+\.convs\.(\d)\.(?:weight|bias)")


def export_esrgan(
    checkpoint: Checkpoint, name: str, out: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> Path:
    """Write the RRDB of a checkpoint with ESRGAN's names. Images of such a network are RGB in [0, 1]. Returns the file.

    Args:
        checkpoint: with an RRDB.
        name: of the checkpoint's file, for messages.
        out: a file ending in `.safetensors` or `.pth`, or a folder for `rrdb-xS.safetensors`.
        overwrite: whether an existing file is replaced.
        inputs: files that are never replaced, such as the checkpoint.

    Raises:
        ConfigError: the file exists.
        CheckpointError: the checkpoint has no RRDB, or one whose scale or growth ESRGAN does not have.
        SamdiffError: the file cannot be written.
    """
    from safetensors.torch import save

    network = network_of(checkpoint, "rrdb", name)
    scale = checkpoint.config["scale"]
    if scale not in SCALES:
        raise CheckpointError(f"{name}: of scale {scale}; ESRGAN's layout has {', '.join(map(str, SCALES))}")
    growth = config_in(checkpoint, name).model.rrdb_growth
    if growth > GROWTH:
        raise CheckpointError(f"{name}: its RRDB has a growth of {growth}; ESRGAN's layout has at most {GROWTH}")
    file = out if out.suffix in SUFFIXES else out / f"rrdb-x{scale}.safetensors"
    if out.suffix not in ("", *SUFFIXES):
        raise ConfigError(f"--out: expected a folder or a file ending in {' or '.join(SUFFIXES)}, got {out}")
    claim_outputs([("--out", file)], inputs, overwrite)
    assert isinstance(network, RRDB)
    weights = {key: value.contiguous() for key, value in to_official(widened(network), RRDB_NAMES).items()}
    if file.suffix == ".pth":
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        write_output(file, buffer.getvalue(), overwrite)
    else:
        write_output(file, save(weights, metadata={"format": "pt"}), overwrite)
    return file


def widened(network: RRDB) -> dict[str, Tensor]:
    """The weights of an RRDB with a growth of `GROWTH`: the added channels are 0 and change no result."""
    weights = dict(network.state_dict())
    for name, value in weights.items():
        match = _DENSE.fullmatch(name)
        if match is None:
            continue
        number = int(match[1])  # of the convolution in its dense block, 0 to 4
        missing = GROWTH - network.growth
        if number < 4:
            value = F.pad(value, (*(0, 0) * (value.ndim - 1), 0, missing))
        if value.ndim == 4 and number:
            parts = [value[:, : network.first.out_channels]]
            for start in range(network.first.out_channels, value.shape[1], network.growth):
                parts.append(F.pad(value[:, start : start + network.growth], (0, 0, 0, 0, 0, missing)))
            value = torch.cat(parts, dim=1)
        weights[name] = value
    return weights
