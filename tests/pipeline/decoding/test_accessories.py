"""EXIF, profiles and texts are metadata: an image that can be decoded comes out, and goes into every format, whatever they hold."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from samdiff.model.inference.image_io import plan_write, read_image_file, write_planned
from samdiff.pipeline.images.decode import decode_rgb

from ...helpers.odd_exif import ODD_EXIF
from ...helpers.zoo import SMALL, chunk, file_of

JPEG = file_of(SMALL, "JPEG", quality=95)
PNG = file_of(SMALL, "PNG")
LARGE = np.zeros((24, 32, 3), np.uint8)


def with_app1(block):
    """The JPEG with an EXIF segment."""
    body = b"Exif\0\0" + block
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + JPEG[2:]


@pytest.mark.parametrize("name", ODD_EXIF)
@pytest.mark.parametrize("container", ["jpg", "png"])
def test_odd_exif_costs_nothing(name, container, tmp_path):
    """Read by both entrances, and written into each format after the work was planned; the pixels are those without EXIF."""
    block = ODD_EXIF[name]
    data = with_app1(block) if container == "jpg" else PNG[:33] + chunk(b"eXIf", block) + PNG[33:]
    expected = decode_rgb(JPEG if container == "jpg" else PNG, f"a.{container}").pixels
    path = tmp_path / f"a.{container}"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's
        np.testing.assert_array_equal(decode_rgb(data, path.name).pixels, expected)
        found = read_image_file(path)
        np.testing.assert_array_equal(found.pixels, expected)
        for kind in ("png", "jpg", "webp", "tif"):
            plan = plan_write(
                tmp_path / f"o.{kind}", LARGE.shape, np.uint8, source=found, origin={"Software": "s", "Description": "d"}
            )
            assert write_planned(LARGE, plan) == []
            with Image.open(tmp_path / f"o.{kind}") as again:
                assert again.size == (32, 24)
                assert (again.text["Software"] if kind == "png" else again.getexif()[0x0131]).startswith(("s", "Software: s"))


BROKEN = {
    "a bomb of text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(4 << 20))),
    "text without an end": chunk(b"iTXt", b"\0"),
    "a profile that is none": chunk(b"iCCP", b"name\0\0not compressed"),
    "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "sizes cut short": chunk(b"pHYs", b"\0"),
    "colours cut short": chunk(b"cHRM", b"\0\0"),
    "gamma cut short": chunk(b"gAMA", b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_chunks_of_a_png(name):
    """They say nothing of the pixels. A wrong checksum of pixels is still damage (see the zoo)."""
    np.testing.assert_array_equal(decode_rgb(PNG[:33] + BROKEN[name] + PNG[33:], "a.png").pixels, SMALL)


def test_broken_segments_of_a_jpeg():
    """Photoshop's, of several images, a profile in parts of which some are missing, comments."""
    plain = decode_rgb(JPEG, "a.jpg").pixels
    for marker, body in (
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0"),
        (0xE2, b"MPF\0II*\0" + bytes(9)),
        (0xE2, b"ICC_PROFILE\0\x09\x02"),
        (0xFE, b""),
    ):
        data = JPEG[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + JPEG[2:]
        np.testing.assert_array_equal(decode_rgb(data, "a.jpg").pixels, plain)


def test_what_is_written_is_tried_before_the_work(tmp_path):
    """A name that is no text, and an EXIF that one format cannot hold, are left out with a note; the rest stays."""
    exif = Image.Exif()
    exif[0x010F] = "x" * 70_000
    (tmp_path / "a.png").write_bytes(file_of(SMALL, "PNG", exif=exif.tobytes()))
    source = read_image_file(tmp_path / "a.png")
    plan = plan_write(tmp_path / "o.jpg", LARGE.shape, np.uint8, source=source, origin={"Software": "s"})
    assert ["EXIF" in note for note in plan.notes] == [True]
    write_planned(LARGE, plan)
    assert Image.open(tmp_path / "o.jpg").getexif()[0x0131] == "Software: s"
    for dtype in (np.uint8, np.uint16):
        plan = plan_write(tmp_path / "o.png", LARGE.shape, dtype, source=source, origin={"Software": "\udcff"})
        assert ["how it was made" in note for note in plan.notes] == [True]
        write_planned(LARGE.astype(dtype), plan)
        assert Image.open(tmp_path / "o.png").getexif()[0x010F] == "x" * 70_000


def test_an_encoder_that_fails_late_keeps_the_pixels(tmp_path, monkeypatch):
    """Metadata that fit a tiny image and not the large one are dropped, and the result is written."""
    plan = plan_write(tmp_path / "o.png", LARGE.shape, np.uint8, origin={"Software": "s"})
    monkeypatch.setattr(PngImagePlugin.PngInfo, "add_text", lambda *_: (_ for _ in ()).throw(struct.error("late")))
    assert "late" in write_planned(LARGE, plan)[0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO((tmp_path / "o.png").read_bytes()))), LARGE)
