"""The RRDB's weights with the names of ESRGAN, so that spandrel, chaiNNer and other programs load them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import torch

from ...errors import CheckpointError, ConfigError
from ...pipeline.storage.outputs import claim_outputs, write_output
from ..checkpoints.format import Checkpoint
from ..checkpoints.official_names import RRDB_NAMES, to_official
from .tile_network import network_of

SCALES = (2, 4, 8)
"""Those that ESRGAN's layout has."""
SUFFIXES = (".safetensors", ".pth")


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
        CheckpointError: the checkpoint has no RRDB, or its scale is not one of ESRGAN's.
        SamdiffError: the file cannot be written.
    """
    from safetensors.torch import save

    network = network_of(checkpoint, "rrdb", name)
    scale = checkpoint.config["scale"]
    if scale not in SCALES:
        raise CheckpointError(f"{name}: of scale {scale}; ESRGAN's layout has {', '.join(map(str, SCALES))}")
    file = out if out.suffix in SUFFIXES else out / f"rrdb-x{scale}.safetensors"
    if out.suffix not in ("", *SUFFIXES):
        raise ConfigError(f"--out: expected a folder or a file ending in {' or '.join(SUFFIXES)}, got {out}")
    claim_outputs([("--out", file)], inputs, overwrite)
    weights = {key: value.contiguous() for key, value in to_official(network.state_dict(), RRDB_NAMES).items()}
    if file.suffix == ".pth":
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        write_output(file, buffer.getvalue(), overwrite)
    else:
        write_output(file, save(weights, metadata={"format": "pt"}), overwrite)
    return file
