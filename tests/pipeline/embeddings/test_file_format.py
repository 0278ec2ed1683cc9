"""The file of one embedding: a round trip, its name, and every kind of damage."""

import json

import numpy as np
import pytest

from samdiff.errors import ConfigError, StoreError
from samdiff.pipeline.embeddings.file_format import EncoderFacts, encoder_facts, file_bytes, is_embedding, key_of, pack, unpack

SAM = EncoderFacts("mobile_sam", "ab" * 32, compiled=False, family="sam")


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(256, 64, 64)).astype(np.float16)


def test_round_trip():
    """Bit for bit; a line that other programs can read, then little-endian float16; no larger than announced."""
    data = pack(values(), "k" * 64, SAM)
    assert np.array_equal(unpack(data, "k" * 64, SAM), values())
    line, _, payload = data.partition(b"\n")
    assert json.loads(line)["shape"] == [256, 64, 64]
    assert np.array_equal(np.frombuffer(payload, "<f2"), values().ravel())
    assert len(data) <= file_bytes("sam") == SAM.file_bytes


def test_the_name_depends_on_all_that_determines_an_embedding():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    others = [
        EncoderFacts("vit_b", SAM.weights, compiled=False, family="sam"),
        EncoderFacts(SAM.name, "cd" * 32, compiled=False, family="sam"),
        EncoderFacts(SAM.name, SAM.weights, compiled=True, family="sam"),
    ]
    keys = {key_of(pixels, encoder) for encoder in [SAM, *others]}
    keys |= {key_of(other, SAM) for other in (pixels + 1, pixels.reshape(4, 2, 3), pixels[:, ::-1])}
    assert len(keys) == 7
    assert key_of(np.asfortranarray(pixels), SAM) == key_of(pixels, SAM)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "damaged"),
        (lambda data: data[:-2], "damaged"),
        (lambda data: data + b"\0\0", "damaged"),
        (lambda data: data[:200], "damaged|another file"),
        (lambda data: b"", "another file"),
        (lambda data: b"\x89PNG" + data, "another file"),
        (lambda data: data.replace(b'"version": 1', b'"version": 2'), "version differ"),
        (lambda data: data.replace(b'"dtype": "float16"', b'"dtype": "float32"'), "dtype differ"),
        (lambda data: data.replace(b'"key":', b'"key"'), "first line is damaged"),
        (
            lambda data: data.replace(b'{"format": "samdiff embedding"', b'{"format": "samdiff embedding"' + b" " * 5000),
            "another file",
        ),
    ],
)
def test_damage_is_found(change, match):
    with pytest.raises(StoreError, match=match):
        unpack(change(pack(values(), "k" * 64, SAM)), "k" * 64, SAM)


def test_a_renamed_file_and_infinity_are_found():
    data = pack(values(), "k" * 64, SAM)
    with pytest.raises(StoreError, match=r"other pixels or another segmenter \(key differ"):
        unpack(data, "m" * 64, SAM)
    infinite = values()
    infinite[3, 4, 5] = np.inf
    with pytest.raises(StoreError, match="not finite"):
        unpack(pack(infinite, "k" * 64, SAM), "k" * 64, SAM)
    assert is_embedding(data[:64])
    assert not is_embedding(b'{"format": "other"}')


def test_weights_without_a_hash_are_refused():
    with pytest.raises(ConfigError, match="SHA-256 of the segmenter's weights is not known"):
        encoder_facts({"name": "custom", "weights": {"sha256": None}}, "sam")
    assert encoder_facts({"name": "vit_b", "weights": {"sha256": "00"}, "compile": True}, "sam").compiled
