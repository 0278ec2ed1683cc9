"""One embedding of an image as bytes: a line of JSON with a digest, then float16 values. Pure, without PyTorch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import ConfigError, StoreError

_FORMAT = "samdiff embedding"
_VERSION = 1
_BEGIN = f'{{"format": "{_FORMAT}"'.encode()
_LINE = 1024
"""Most bytes of the line of JSON."""
_SIDE = 64
_CHANNELS = {"sam": 256, "sam2": 1024}
"""Of `PointModel.encode`."""


@dataclass(frozen=True)
class EncoderFacts:
    """All that determines an embedding besides the pixels."""

    name: str
    """Of the segmenter."""
    weights: str
    """SHA-256 of its weights, hexadecimal."""
    compiled: bool
    """Whether `torch.compile` made the encoder: it rounds sums differently."""
    family: str
    """`sam` or `sam2`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an embedding: (C', 64, 64)."""
        return _CHANNELS[self.family], _SIDE, _SIDE

    @property
    def file_bytes(self) -> int:
        """Most bytes of one file."""
        return file_bytes(self.family)


def file_bytes(family: str) -> int:
    """Most bytes of the file of one embedding, `sam` or `sam2`: 2.1 or 8.4 MB."""
    return _LINE + 2 * _CHANNELS[family] * _SIDE * _SIDE


def encoder_facts(facts: Mapping[str, object], family: str) -> EncoderFacts:
    """The encoder of a segmenter, from what the segmenter says of itself (`masks.settings.segmenter_facts`).

    Raises:
        ConfigError: the hash of the weights is not known, so embeddings could not be told from those of another model.
    """
    weights = facts.get("weights")
    sha256 = weights.get("sha256") if isinstance(weights, Mapping) else None
    if not isinstance(sha256, str):
        raise ConfigError(
            "keep_embeddings: the SHA-256 of the segmenter's weights is not known; give the segmenter by its name"
        )
    return EncoderFacts(str(facts["name"]), sha256, compiled=bool(facts.get("compile", False)), family=family)


def key_of(pixels: np.ndarray, encoder: EncoderFacts) -> str:
    """The name of an embedding: a SHA-256, hexadecimal, of the encoder and the pixels uint8 [H, W, 3] that it is given."""
    said = [_FORMAT, _VERSION, encoder.name, encoder.weights, encoder.compiled, list(pixels.shape)]
    digest = hashlib.sha256(json.dumps(said).encode() + b"\n")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def pack(values: np.ndarray, key: str, encoder: EncoderFacts) -> bytes:
    """The file of an embedding, float16 of the encoder's shape."""
    payload = values.astype("<f2").tobytes()
    line = json.dumps(_head(key, encoder, hashlib.sha256(payload).hexdigest()))
    return line.encode() + b"\n" + payload


def unpack(data: bytes, key: str, encoder: EncoderFacts) -> np.ndarray:
    """The embedding of a file: float16 of the encoder's shape, finite.

    Raises:
        StoreError: damaged, of other pixels or another encoder, or not an embedding; the message is the reason.
    """
    line, mark, payload = data[:_LINE].partition(b"\n")
    if not is_embedding(data) or not mark:
        raise StoreError("expected an embedding, got another file")
    payload = data[len(line) + 1 :]
    expected = _head(key, encoder, hashlib.sha256(payload).hexdigest())
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StoreError("its first line is damaged") from error
    differing = [name for name, value in expected.items() if not isinstance(found, dict) or found.get(name) != value]
    if differing == ["sha256"] or len(payload) != 2 * np.prod(encoder.shape):
        raise StoreError(f"damaged: {len(payload)} bytes of values, whose SHA-256 is not the recorded one")
    if differing:
        raise StoreError(f"of other pixels or another segmenter ({', '.join(differing)} differ)")
    values = np.frombuffer(payload, "<f2").reshape(encoder.shape)
    if not np.isfinite(values).all():
        raise StoreError("its values are not finite")
    return values


def is_embedding(data: bytes) -> bool:
    """Whether a file, of which at least 64 bytes are given, was begun by `pack`."""
    return data.startswith(_BEGIN)


def _head(key: str, encoder: EncoderFacts, sha256: str) -> dict[str, object]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "key": key,
        "segmenter": encoder.name,
        "weights": encoder.weights,
        "shape": list(encoder.shape),
        "dtype": "float16",
        "sha256": sha256,
    }
