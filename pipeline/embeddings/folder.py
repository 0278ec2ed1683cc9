"""A folder of kept embeddings, one file per crop that the encoder was given: read if it is there and sound, else computed and written.

Values are rounded to float16 whether they are read or computed, so the masks do not depend on what was kept. Files that samdiff did not
write are never changed. Several processes may use one folder.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, StoreError, WeightsError, printable
from ...runtime import user_path
from ..storage.atomic import advice, write_atomic
from ..storage.foreign import is_plain_file
from ..storage.local import LocalStore, get_at_most
from .file_format import EncoderFacts, is_embedding, key_of, pack, unpack

log = logging.getLogger(__name__)

_SUFFIX = ".embedding"


def embedding_root(folder: Path | str) -> Path:
    """The folder of `--keep-embeddings`, absolute; it need not exist.

    Raises:
        ConfigError: it is a file or a URL.
    """
    root = user_path(folder, "keep_embeddings")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)):
        raise ConfigError(f"--keep-embeddings {printable(folder)}: expected a folder of this machine, got a URL")
    if os.path.lexists(root) and not root.is_dir():
        raise ConfigError(f"--keep-embeddings {printable(root)}: expected a folder or nothing, got a file; give another folder")
    return root.absolute()


class EmbeddingFolder:
    """Kept embeddings of one encoder.

    Args:
        root: from `embedding_root`.
        encoder: whose embeddings they are.
        crops: per image, for `most_bytes`.
    """

    def __init__(self, root: Path, encoder: EncoderFacts, crops: int = 1) -> None:
        self.root, self.encoder, self.crops = root, encoder, crops
        self.n_read = self.n_computed = 0
        """In this process."""

    def most_bytes(self, images: int) -> int:
        """Disk space that so many images need, if no embedding of them is kept yet."""
        return images * self.crops * self.encoder.file_bytes

    def embeddings(
        self,
        images: Sequence[np.ndarray],
        encode: Callable[[Sequence[np.ndarray | Tensor]], Tensor],
        device: torch.device,
        resized: Sequence[np.ndarray | Tensor] | None = None,
    ) -> Tensor:
        """Embeddings of images uint8 [H, W, 3] of any sizes, rounded to float16: float32 [B, C', 64, 64] on the device.

        Args:
            images: at least one.
            encode: computes those that are not kept: `MaskEngine.encode`; not called if all are.
            device: of the result.
            resized: what `encode` gets instead of the images, one for each; None: the images.

        Raises:
            WeightsError: a value is outside the range of float16.
            StoreError: a file cannot be written.
        """
        keys = [key_of(image, self.encoder) for image in images]
        kept = {key: self._read(key) for key in dict.fromkeys(keys)}
        found = {key: values for key, values in kept.items() if values is not None}
        inputs = zip(keys, images if resized is None else resized, strict=True)
        missing = {key: image for key, image in inputs if key not in found}
        self.n_read, self.n_computed = self.n_read + len(found), self.n_computed + len(missing)
        if missing:
            halves = encode(list(missing.values())).to(torch.float16)
            if not bool(torch.isfinite(halves).all()):
                raise WeightsError(
                    "--keep-embeddings: an embedding has values outside the range of float16; leave out --keep-embeddings"
                )
            for key, values in zip(missing, halves.cpu().numpy(), strict=True):
                self._write(key, values)
                found[key] = values
        return torch.from_numpy(np.stack([found[key] for key in keys])).to(device).float()

    def _read(self, key: str) -> np.ndarray | None:
        """A kept embedding; None if there is none, or with a warning if it cannot be used."""
        try:
            data = get_at_most(LocalStore(self.root), key + _SUFFIX, self.encoder.file_bytes)
            return None if data is None else unpack(data, key, self.encoder)
        except StoreError as error:
            log.warning("%s: not used, the embedding is computed again: %s", printable(self.root / (key + _SUFFIX)), error)
            return None

    def _write(self, key: str, values: np.ndarray) -> None:
        target = self.root / (key + _SUFFIX)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            exists = os.path.lexists(target)  # damaged, or it would have been read
            if exists and not _is_ours(target):
                log.warning(
                    "%s: left as it is, because samdiff did not write it; this embedding is not kept", printable(target)
                )
                return
            write_atomic(target, pack(values, key, self.encoder), replace=exists)
        except OSError as error:
            if isinstance(error, FileExistsError) and self.root.is_dir():
                return  # another process has just written the same
            raise StoreError(
                f"{printable(target)}: cannot be written: {error.strerror or error}; {advice(error)} or give another --keep-embeddings. "
                "What was finished is kept: the same command resumes"
            ) from error


def _is_ours(path: Path) -> bool:
    if not is_plain_file(path):
        return False
    with open(path, "rb") as file:
        return is_embedding(file.read(64))
