"""Notes of bits and colours that decoding does not keep: PNG's cICP, and the properties of AVIF and HEIC files."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from samdiff.pipeline.decoding.formats import AVIF, HEIC, PNG
from samdiff.pipeline.decoding.headers import colour_notes
from samdiff.pipeline.decoding.image_data import decode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def png(primaries: int, transfer: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG")
    body = b"cICP" + bytes((primaries, transfer, 0, 1))
    return out.getvalue()[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + out.getvalue()[33:]


def avif(primaries: int, transfer: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "AVIF")
    data = out.getvalue()
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


CASES = [
    (1, 13, []),
    (9, 16, ["its HDR colours (BT.2020, PQ) were read as sRGB"]),
    (9, 18, ["its HDR colours (BT.2020, HLG) were read as sRGB"]),
    (12, 13, ["its wide-gamut colours (Display P3) were read as sRGB"]),
]


@pytest.mark.parametrize(("primaries", "transfer", "notes"), CASES)
def test_png_with_cicp(primaries, transfer, notes):
    image = decode_image(png(primaries, transfer), "a.png")
    assert list(image.notes) == notes
    assert np.array_equal(image.pixels, PIXELS)


@pytest.mark.parametrize("chunk", [b"", b"\x09", b"\x09\x10\0\1more", b"\x09\x10\0\1 with a wrong CRC"])
def test_a_damaged_cicp_chunk_states_no_colours(chunk):
    """Of another length than 4, or with a wrong CRC: bytes of the CRC or of the next chunk are not colours."""
    plain, wrong = png(1, 13), b"wrong" in chunk
    body = b"cICP" + (chunk[:4] if wrong else chunk)
    crc = (zlib.crc32(body) ^ wrong).to_bytes(4, "big")
    data = plain[:33] + (len(body) - 4).to_bytes(4, "big") + body + crc + plain[49:]
    assert colour_notes(data, PNG) == []
    assert np.array_equal(decode_image(data, "a.png").pixels, PIXELS)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize(("primaries", "transfer", "notes"), CASES)
def test_avif_with_nclx(primaries, transfer, notes):
    assert list(decode_image(avif(primaries, transfer), "a.avif").notes) == notes


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize(("flags", "bits"), [(0x40, 10), (0x60, 12)])
def test_bits_of_avif(flags, bits):
    data = bytearray(avif(1, 13))
    data[data.index(b"av1C") + 6] |= flags
    assert colour_notes(bytes(data), AVIF) == [f"{bits} bits reduced to 8"]


def test_heic_of_10_bits():
    heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    try:
        heif.from_bytes(mode="RGB;16", size=(16, 16), data=(PIXELS.astype(np.uint16) * 257).tobytes()).save(out)
    except RuntimeError:
        pytest.skip("this pillow-heif has no encoder")
    image = decode_image(out.getvalue(), "a.heic")
    assert image.pixels.dtype == np.uint8
    assert [note for note in image.notes if "bits" in note] in (["10 bits reduced to 8"], ["12 bits reduced to 8"])


def test_damaged_headers_give_no_error():
    rng, whole = random.Random(0), [(png(9, 16), PNG)]
    if features.check("avif"):
        whole += [(avif(9, 16), AVIF), (avif(9, 16), HEIC)]
    for data, known in whole:
        for _ in range(1500):
            changed = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
            for _ in range(rng.randrange(1, 5)):
                if changed:
                    changed[rng.randrange(min(len(changed), 420))] = rng.choice((0, 1, 8, 127, 255))
            assert len(colour_notes(bytes(changed), known)) <= 2
