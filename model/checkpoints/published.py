"""Reads tensors by name from published pickles, `.npz` and safetensors, with bounded memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from ...errors import CheckpointError, printable
from ...pipeline.storage.regular import read_regular, why_not_regular
from .format import FORMAT
from .pickles import check_claims
from .plain import brief

_MOST_BYTES = 4 << 30  # published checkpoints have about 100 MB
_MOST_UNPACKED = 20  # times the size of the file, plus 64 MB: weights hardly compress to half
_WRAPPERS = ("state_dict", "model", "params_ema", "params", "module")  # keys below which published files nest their tensors
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_BUFFERS = "betas|alphas_cumprod|sqrt_|log_one_minus|posterior_"  # noise schedule tables in the state dict


def read_published(path: Path) -> tuple[dict[str, Tensor], str]:
    """Float32 tensors by name, from the dict that they are nested in, and the SHA-256 of the file.

    Prefixes of wrapping modules are removed, and all tables of the noise schedule except `betas`.

    Raises:
        CheckpointError: a missing file, a pickle that needs code, false sizes, an unsupported dtype, a duplicate name.
    """
    data = _bytes_of(path)
    try:
        content = _content(path, data)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint that holds only tensors: reading it as a pickle would run code from the file, which samdiff "
            f"never does ({printable(error)[:200]}); give the published checkpoint's file"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001  # damaged files raise many kinds of exceptions: reported for this file
        reason = f"{type(error).__name__}: {printable(error)[:200]}"
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason}); is the file whole?") from error
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: expected tensors by name, possibly nested in state_dict or model, got something else")
    return _named(path, content), hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes:
    try:
        status = os.stat(path)
        if status.st_size > _MOST_BYTES and not why_not_regular(status.st_mode):
            raise CheckpointError(
                f"{path}: has {status.st_size >> 20} MB, published checkpoints have 100; is it the right file?"
            )
        return read_regular(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file; give the published checkpoint's file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: cannot be read ({printable(reason)}); give the published checkpoint's file") from error


def _content(path: Path, data: bytes) -> object:
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_UNPACKED * len(data) + (64 << 20):
                raise ValueError("unpacks to much more than weights do")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    if path.suffix == ".safetensors":
        content = load_safetensors(data)
        texts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        if texts.get("format") == FORMAT:
            raise CheckpointError(f"{path}: already a samdiff checkpoint; use it without import")
        return content
    check_claims(data)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _named(path: Path, content: Mapping[object, Tensor]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        name = re.sub(r"^(module\.|model\.)+", "", str(key))
        if name in tensors:
            raise CheckpointError(f"{path}: holds {brief(name)} twice, under two prefixes; remove one of them")
        if re.match(_BUFFERS, name) and name != "betas":
            continue
        if value.dtype not in _FLOATS:
            raise CheckpointError(
                f"{path}: {brief(name)} is {value.dtype}, expected weights of float16, bfloat16, float32 or float64"
            )
        tensors[name] = value.detach().float()
    return tensors
