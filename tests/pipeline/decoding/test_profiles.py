"""Colour profiles: sRGB is no news, others are noted and kept, or converted where that was requested."""

import functools
import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from samdiff.errors import ConfigError
from samdiff.pipeline.decoding.image_data import ReadConfig, decode_image
from samdiff.pipeline.images.decode import Limits, decode_rgb
from samdiff.pipeline.prepare.run import PrepareConfig

from ...helpers.zoo import RGB, file_of

CONVERT = ReadConfig(to_srgb=True)


@functools.cache  # it holds the time
def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@functools.cache
def swapped() -> bytes:
    """sRGB with red and green exchanged: the places of two tags in the profile's table (ICC.1, 7.3)."""
    data = bytearray(srgb())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


def test_srgb_is_kept_without_a_note():
    """Whatever it is called: its effect is looked at."""
    found = decode_image(file_of(RGB, "PNG", icc_profile=srgb()), "a.png")
    assert found.notes == ()
    assert found.icc == srgb()
    found = decode_image(file_of(RGB, "PNG", icc_profile=srgb()), "a.png", CONVERT)
    np.testing.assert_array_equal(found.pixels, RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_another_profile_is_noted_or_converted(kind):
    """The pixels stay and the profile is kept; or they are in sRGB and it is gone. Alpha is no colour."""
    alpha = np.arange(RGB[..., 0].size, dtype=np.uint32).astype(np.uint8).reshape(RGB.shape[:2])
    data = file_of(np.dstack([RGB, alpha]), kind, icc_profile=swapped())
    name = f"a.{kind.lower()}"
    found = decode_image(data, name)
    np.testing.assert_array_equal(found.pixels[..., :3], RGB)
    assert found.icc == swapped()
    assert len(found.notes) == 1
    assert "was not applied (--to-srgb converts)" in found.notes[0]
    found = decode_image(data, name, CONVERT)
    assert np.abs(found.pixels[..., :3].astype(int) - RGB[..., [1, 0, 2]]).max() <= 2
    np.testing.assert_array_equal(found.pixels[..., 3], alpha)
    assert found.icc is None
    assert "to sRGB" in found.notes[0]


def test_prepare_says_and_does_the_same():
    """And a store that was converted is another store."""
    data = file_of(RGB, "PNG", icc_profile=swapped())
    plain, converted = decode_rgb(data, "a.png"), decode_rgb(data, "a.png", Limits(to_srgb=True))
    np.testing.assert_array_equal(plain.pixels, RGB)
    np.testing.assert_array_equal(converted.pixels, decode_image(data, "a.png", CONVERT).pixels)
    assert plain.notes == decode_image(data, "a.png").notes
    default, other = (PrepareConfig(limits=Limits(to_srgb=on)).as_attributes({}) for on in (False, True))
    assert default["limits"] == {"max_megapixels": 200.0}
    assert other["limits"] == {"max_megapixels": 200.0, "to_srgb": True}
    with pytest.raises(ConfigError):
        Limits(max_megapixels=0, to_srgb=True)


def test_damaged_profiles_are_left_out():
    """With a note; a profile for other colours without one, as it says nothing of these."""
    broken = srgb()[:200] + bytes(len(srgb()) - 200)
    for settings in (None, CONVERT):
        found = decode_image(file_of(RGB, "PNG", icc_profile=broken), "a.png", settings)
        np.testing.assert_array_equal(found.pixels, RGB)
        assert found.icc is None
        assert len(found.notes) == 1
        assert "profile" in found.notes[0]
    found = decode_image(file_of(RGB[..., 0], "PNG", icc_profile=srgb()), "a.png")
    assert (found.icc, found.notes) == (None, ())


def test_sixteen_bits_are_reduced_for_the_conversion():
    """LittleCMS has RGB in 8 bits here; it is said."""
    buffer = io.BytesIO()
    import tifffile

    tifffile.imwrite(buffer, RGB.astype(np.uint16) * 257, photometric="rgb", iccprofile=swapped())
    found = decode_image(buffer.getvalue(), "a.tif", CONVERT)
    assert np.abs(found.pixels.astype(int) - RGB[..., [1, 0, 2]]).max() <= 2
    assert found.notes[0] == "reduced to 8 bits for the conversion of colours"
    assert decode_image(buffer.getvalue(), "a.tif").pixels.dtype == np.uint16


def test_cmyk_is_converted_by_its_own_profile_only():
    """Without one, Pillow's formula, and the note says so."""
    image = Image.fromarray(RGB).convert("CMYK")
    found = decode_image(file_of(image, "TIFF"), "a.tif", CONVERT)
    np.testing.assert_array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert found.notes == ("CMYK turned into RGB without its colour profile",)
