"""Safetensors with a digest: declarations are checked before memory is allocated, the content against the digest.

The digest is SHA-256 over the texts of the header and the name, dtype, shape and bytes of each tensor, in sorted order, so it does not
depend on the order in the file. It is stored in the header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...errors import printable
from .plain import brief

DIGEST = "sha256"
"""Key of the digest in the header."""
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Allowed dtypes of weights."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def content_digest(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of a file's content.

    Args:
        texts: of the header; the key `sha256` is ignored.
        tensors: on the CPU, of one of `DTYPES`.
    """
    digest = hashlib.sha256()

    def add(text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)

    for name in sorted(texts.keys() - {DIGEST}):
        add(name)
        add(texts[name])
    for name, value in sorted(tensors.items()):
        add(name)
        add(f"{_NAMES[value.dtype]} {list(value.shape)}")
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_bytes(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytes:
    """The file's bytes, with the digest in its header. Tensors are contiguous and on the CPU."""
    return save(dict(tensors), {**texts, DIGEST: content_digest(texts, tensors)})


def read_texts(path: Path) -> dict[str, str]:
    """The texts of the header alone; nothing else is read or checked. ValueError if it is no regular safetensors file, OSError as for `read`."""
    if not path.is_file():  # a pipe could block forever
        raise ValueError("not a readable safetensors file (expected a regular file)")
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            return dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"not a readable safetensors file ({printable(error)[:200]})") from error


def read(
    path: Path, accept: Callable[[dict[str, str], dict[str, tuple[int, ...]]], None]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the texts of the header and the tensors; the digest is checked if there is one.

    Args:
        path: a file.
        accept: called with the texts and the shapes by name before a tensor is read; raises if they are not acceptable.

    Raises:
        ValueError: not a regular file, not safetensors, an unsupported dtype, or a content that does not match the digest.
        OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe could block forever
        raise ValueError("not a readable safetensors file (expected a regular file)")
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            texts = dict(opened.metadata() or {})
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(entry.get_shape()) for name, entry in slices.items()}
            accept(texts, shapes)
            for name, entry in slices.items():
                if entry.get_dtype() not in DTYPES:
                    raise ValueError(f"{printable(name)[:80]} is {entry.get_dtype()}, expected weights of {', '.join(DTYPES)}")
            # clone: our own memory, since another process may change the pages of the file after the check
            tensors = {name: opened.get_tensor(name).clone() for name in slices}
    except SafetensorError as error:
        raise ValueError(f"not a readable safetensors file ({printable(error)[:200]})") from error
    expected = texts.get(DIGEST)
    got = None if expected is None else content_digest(texts, tensors)
    if got != expected:
        raise ValueError(f"its content does not match its digest (expected SHA-256 {brief(expected)}, got {got})")
    return texts, tensors
