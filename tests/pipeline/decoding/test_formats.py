"""One table of formats: each is read alike by `prepare` and by `infer`, or refused by name by both."""

import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from samdiff.errors import ImageError
from samdiff.model.inference.image_io import open_opaque, read_image_file
from samdiff.pipeline.decoding import formats
from samdiff.pipeline.decoding.formats import FORMATS, SUFFIXES, UNREAD_SUFFIXES
from samdiff.pipeline.images.decode import decode_rgb
from samdiff.pipeline.images.sources import list_source

from ...helpers.zoo import RGB, chunk, file_of

LOSSLESS = [
    ("PPM", "ppm", {}),
    ("TGA", "tga", {}),
    ("TGA", "tga", {"compression": "tga_rle"}),
    ("JPEG2000", "jp2", {}),
    ("JPEG2000", "j2k", {}),
]


@pytest.mark.parametrize(("kind", "suffix", "options"), LOSSLESS)
def test_both_entrances_read(kind, suffix, options, tmp_path):
    """The pixels themselves, without a note; listed by its name."""
    (tmp_path / f"a.{suffix}").write_bytes(file_of(RGB, kind, **options))
    found = decode_rgb((tmp_path / f"a.{suffix}").read_bytes(), f"a.{suffix}")
    assert found.notes == ()
    np.testing.assert_array_equal(found.pixels, RGB)
    np.testing.assert_array_equal(read_image_file(tmp_path / f"a.{suffix}").pixels, RGB)
    assert [picture.name for picture in list_source(tmp_path)] == [f"a.{suffix}"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path, monkeypatch):
    """Read by both; refused by name, with what to do, where its decoder is missing."""
    (tmp_path / "a.avif").write_bytes(file_of(RGB, "AVIF", quality=95))
    data = (tmp_path / "a.avif").read_bytes()
    assert np.abs(decode_rgb(data, "a.avif").pixels.astype(int) - RGB).mean() < 8
    np.testing.assert_array_equal(read_image_file(tmp_path / "a.avif").pixels, decode_rgb(data, "a.avif").pixels)
    monkeypatch.setattr(features, "check", lambda _: False)
    for read in (lambda: decode_rgb(data, "a.avif"), lambda: read_image_file(tmp_path / "a.avif")):
        with pytest.raises(ImageError, match="AVIF, whose decoder is not installed; install Pillow 11.3"):
            read()


def test_heic(tmp_path, monkeypatch):
    """With the extra it is read; without it, both entrances say what to install."""
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    (tmp_path / "a.heic").write_bytes(data)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read in (lambda: decode_rgb(data, "a.heic"), lambda: read_image_file(tmp_path / "a.heic")):
        with pytest.raises(ImageError, match=r"HEIC, whose decoder is not installed; pip install 'samdiff\[heif\]'"):
            read()
    monkeypatch.undo()
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(RGB)).save(tmp_path / "b.heic", quality=-1)
    found = decode_rgb((tmp_path / "b.heic").read_bytes(), "b.heic")
    assert np.abs(found.pixels.astype(int) - RGB).mean() < 8


NAMED = {
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "JPEG XR": b"II\xbc\1" + bytes(40),
    "OpenEXR": b"v/1\x01" + bytes(40),
    "Radiance HDR": b"#?RADIANCE\n" + bytes(40),
    "Canon CR3": b"\0\0\0\x18ftypcrx \0\0\0\0crx isom" + bytes(40),
    "Fujifilm": b"FUJIFILMCCD-RAW " + bytes(40),
    "DICOM": bytes(128) + b"DICM" + bytes(20),
    "HTML": b"\n<!DOCTYPE html><html>404</html>",
    "SVG": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "PDF": b"%PDF-1.7\n" + bytes(40),
    "12 bits per channel": b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x08\0\x08\x01\1\x11\0",
    "JPEG-LS": b"\xff\xd8\xff\xf7\0\x0b\x08\0\x08\0\x08\x01\1\x11\0",
    "lossless or hierarchical JPEG": b"\xff\xd8\xff\xc3\0\x0b\x08\0\x08\0\x08\x01\1\x11\0",
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_read_is_named(name, tmp_path):
    """By both entrances, in the same words, and not as damage."""
    (tmp_path / "a.png").write_bytes(NAMED[name])
    with pytest.raises(ImageError, match=name) as ours:
        decode_rgb(NAMED[name], "a.png")
    with pytest.raises(ImageError, match=name) as theirs:
        read_image_file(tmp_path / "a.png")
    assert str(theirs.value).endswith(str(ours.value))
    assert "damaged" not in str(ours.value)


def test_the_table():
    """No suffix twice, and none both read and not read."""
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert not set(SUFFIXES) & set(UNREAD_SUFFIXES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in (*SUFFIXES, *UNREAD_SUFFIXES))
    assert {known.name for known in FORMATS} >= {
        "PNG",
        "JPEG",
        "WebP",
        "TIFF",
        "BMP",
        "GIF",
        "AVIF",
        "HEIC",
        "JPEG 2000",
        "PPM",
        "TGA",
    }
    assert formats.recognise(file_of(RGB, "TGA"), "a.png") is formats.TGA  # by its footer


@pytest.mark.parametrize(
    ("colour", "depth", "key"), [(0, 1, 1), (0, 2, 2), (0, 4, 5), (0, 8, 77), (0, 16, 3000), (2, 8, 9), (2, 16, 700)]
)
def test_a_transparent_colour_is_an_alpha_band(colour, depth, key, tmp_path):
    """PNG specification, 11.3.1.1: at every depth, grey and RGB; `infer` keeps it, `prepare` and `evaluate` composite over white."""
    bands = 3 if colour == 2 else 1
    values = np.random.default_rng(depth).integers(0, 1 << depth, (6, 8, bands))
    values[2, 3], values[2, 4] = key, (key + 1) % (1 << depth)
    bits = np.array([[f"{v:0{depth}b}" for v in row] for row in values.reshape(6, -1)])
    rows = b"".join(b"\0" + int("".join(row), 2).to_bytes(8 * bands * depth // 8, "big") for row in bits)
    header = struct.pack(">2I5B", 8, 6, depth, colour, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"tRNS", struct.pack(f">{bands}H", *[key] * bands)),
        chunk(b"IDAT", zlib.compress(rows)),
    )
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    found = read_image_file(path).pixels
    top = 65535 if depth == 16 else 255
    clear = (values == key).all(axis=2)
    np.testing.assert_array_equal(found[..., -1], np.where(clear, 0, top))
    np.testing.assert_array_equal(found[..., :-1], values * (top // ((1 << depth) - 1)))
    decoded = decode_rgb(path.read_bytes(), "a.png")
    assert (decoded.pixels[clear] == 255).all()
    assert "transparent parts composited over white" in decoded.notes
    np.testing.assert_array_equal(open_opaque(path).reshape(6, 8, -1), decoded.pixels[..., : found.shape[2] - 1])


def test_wide_grey_of_other_formats(tmp_path):
    """16 bits of PGM and JPEG 2000 are kept."""
    wide = np.random.default_rng(0).integers(0, 65536, (12, 10), dtype=np.uint16)
    for kind, suffix in (("PPM", "pgm"), ("JPEG2000", "jp2")):
        (tmp_path / f"a.{suffix}").write_bytes(file_of(Image.fromarray(wide), kind))
        np.testing.assert_array_equal(read_image_file(tmp_path / f"a.{suffix}").pixels, wide)


def test_alpha_that_a_tga_does_not_declare():
    """32 bits and no alpha bits in the descriptor: games write 0 there, which would make everything transparent."""
    data = bytearray(file_of(np.dstack([RGB, np.zeros_like(RGB[..., :1])]), "TGA"))
    data[17] &= 0xF0
    found = decode_rgb(bytes(data), "a.tga")
    np.testing.assert_array_equal(found.pixels, RGB)
    assert found.notes == ("a fourth band that is no alpha was left out",)
