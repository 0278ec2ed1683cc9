"""TIFF: what samples mean is decided from the tags. Every variant in 8 and 16 bits against tifffile, decoded twice."""

import io
import itertools

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from samdiff.errors import ImageError
from samdiff.pipeline.decoding.image_data import decode_image, rgb8

from ...helpers.tiff_writer import tiff_of

H, W = 13, 21


def written(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def samples(bits, *shape):
    return np.random.default_rng(bits + sum(shape)).integers(0, 1 << bits, shape, dtype=np.uint8 if bits == 8 else np.uint16)


LAYOUTS = list(itertools.product(("contig", "separate"), (None, (16, 32)), (None, "zlib", "lzma"), (False, True)))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
def test_every_layout_as_tifffile_reads_it(bits, bands):
    """Planes or not, strips or tiles, compression, predictor, byte order, BigTIFF; further bands are dropped, alpha stays."""
    extra = {1: None, 2: ["unassalpha"], 3: None, 4: ["unspecified"], 5: ["unspecified", "unassalpha"]}[bands]
    used = {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2], 5: [0, 1, 2, 4]}[bands]
    pixels, count = samples(bits, H, W, bands), 0
    for (planar, tile, compression, predictor), order in itertools.product(LAYOUTS, "<>"):
        if (predictor and compression not in ("zlib", "lzma")) or (bands == 1 and planar == "separate"):
            continue
        data = written(
            np.moveaxis(pixels, 2, 0) if planar == "separate" else pixels if bands > 1 else pixels[..., 0],
            photometric="rgb" if bands > 2 else "minisblack",
            planarconfig=planar if bands > 1 else None,
            extrasamples=extra,
            tile=tile,
            rowsperstrip=None if tile else 5,
            compression=compression,
            predictor=predictor,
            byteorder=order,
            bigtiff=bool(count % 2),
        )
        theirs = tifffile.imread(io.BytesIO(data)).reshape(pixels.shape if planar == "contig" else (bands, H, W))
        theirs = (theirs if planar == "contig" else np.moveaxis(theirs, 0, 2))[..., used]
        for _ in range(2):
            found = decode_image(data, "a.tif")
            assert found.pixels.dtype == pixels.dtype
            np.testing.assert_array_equal(found.pixels.reshape(theirs.shape), theirs)
        assert any("no alpha" in note for note in found.notes) == (bands > 3)
        count += 1
    assert count > 10


@pytest.mark.parametrize("bits", [8, 16])
def test_what_samples_mean(bits):
    """WhiteIsZero is inverted, associated alpha divided, unassociated kept, CMYK converted like Pillow's 8 bits."""
    top = (1 << bits) - 1
    grey = samples(bits, H, W)
    np.testing.assert_array_equal(decode_image(written(grey, photometric="miniswhite"), "a.tif").pixels, top - grey)
    rgba = samples(bits, H, W, 4)
    rgba[0, 0, 3], rgba[0, 1] = 0, (top, 10, 0, top // 2)
    kept = decode_image(written(rgba, photometric="rgb", extrasamples=["unassalpha"]), "a.tif").pixels
    np.testing.assert_array_equal(kept, rgba)
    divided = decode_image(written(rgba, photometric="rgb", extrasamples=["assocalpha"]), "a.tif").pixels
    alpha = rgba[..., 3:].astype(float)
    exact = np.where(alpha > 0, (rgba[..., :3] * float(top) / alpha.clip(1)).clip(0, top), 0).round()
    np.testing.assert_array_equal(divided[..., :3], exact)
    np.testing.assert_array_equal(divided[..., 3], rgba[..., 3])
    cmyk = samples(8, H, W, 4)
    data = written(cmyk if bits == 8 else cmyk.astype(np.uint16) * 257, photometric="separated")
    np.testing.assert_array_equal(decode_image(data, "a.tif").pixels, np.asarray(Image.fromarray(cmyk, "CMYK").convert("RGB")))
    two = samples(bits, H, W, 2)
    found = decode_image(written(two, photometric="minisblack", extrasamples=["unspecified"]), "a.tif")
    np.testing.assert_array_equal(found.pixels, two[..., 0])
    assert found.notes == ("a second band that is no alpha was left out",)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("compression", [1, 8])
def test_bits_of_cameras_are_scaled(bits, compression):
    """Packed without gaps, scaled by 2^bits - 1; rows end at a byte."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, (H, W))
    rows = [int("".join(f"{v:0{bits}b}" for v in row).ljust(-(-W * bits // 8) * 8, "0"), 2) for row in values.tolist()]
    body = b"".join(row.to_bytes(-(-W * bits // 8), "big") for row in rows)
    found = decode_image(tiff_of(body, W, H, bits=(bits,), compression=compression), "a.tif")
    assert np.abs(found.pixels / 65535 - values / ((1 << bits) - 1)).max() < 1 / 65535
    assert found.pixels.dtype == np.uint16


def test_floats_with_their_predictor():
    """RGB floats of 0 to 1; predictor 3 (floating point) encoded by its definition."""
    values = np.random.default_rng(0).random((H, W, 3), np.float32)
    planes = values.astype(">f4").reshape(H, -1, 1).view(np.uint8).reshape(H, -1, 4).transpose(0, 2, 1).reshape(H, -1, 3)
    differences = np.diff(planes, axis=1, prepend=np.zeros((H, 1, 3), np.uint8))
    data = tiff_of(differences.tobytes(), W, H, bits=(32,) * 3, photometric=2, compression=8, t339=(3,) * 3, t317=(3,))
    np.testing.assert_array_equal(decode_image(data, "a.tif").pixels, values)
    pixels, notes = rgb8(decode_image(written(values, photometric="rgb"), "a.tif"))
    np.testing.assert_array_equal(pixels, np.floor(values * 255 + 0.5))
    assert notes == ("floats of 0 to 1 scaled to 8 bits",)


def test_lzw_of_16_bits_as_opencv_writes_it():
    """The compression that image editors choose, with and without the predictor."""
    pixels = samples(16, H, W, 3)
    for predictor in (1, 2):
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
        data = cv2.imencode(".tif", pixels[..., ::-1], options)[1].tobytes()
        np.testing.assert_array_equal(decode_image(data, "a.tif").pixels, pixels)


REFUSED = {
    "signed 16": (written(np.zeros((4, 4), np.int16)), "signed integers of 16 bits"),
    "signed 8": (written(np.zeros((4, 4), np.int8)), "signed integers of 8 bits"),
    "signed 32": (written(np.zeros((4, 4), np.int32)), "more than 16 bits"),
    "unsigned 32": (written(np.zeros((4, 4), np.uint32)), "integers of more than 16 bits"),
    "complex": (written(np.zeros((4, 4), np.complex64)), "complex numbers"),
    "floats": (written(np.full((4, 4, 3), 2, np.float32), photometric="rgb"), "floats from 2 to 2"),
    "lab": (written(np.zeros((4, 4, 3), np.uint16), photometric="cielab"), "CIELab colours"),
    "lab 8": (written(np.zeros((4, 4, 3), np.uint8), photometric="cielab"), "CIELab colours"),
    "raw": (tiff_of(bytes(32), 4, 4, bits=(16,), photometric=32803), "raw camera data"),
    "preview": (tiff_of(bytes(48), 4, 4, bits=(8,) * 3, photometric=2, t254=(1,), t330=(8,)), "only a preview"),
    "wide palette": (tiff_of(bytes(32), 4, 4, bits=(16,), photometric=3), "palette"),
    "no meaning": (tiff_of(bytes(16), 4, 4, photometric=None), "does not state what its samples mean"),
    "bands": (written(np.zeros((4, 4, 5), np.uint16), photometric="minisblack", planarconfig="contig"), "not declared as red"),
    "mixed": (tiff_of(bytes(32), 4, 4, bits=(5, 6, 5), photometric=2), "different numbers of bits"),
    "inks": (tiff_of(bytes(64), 4, 4, bits=(8,) * 4, photometric=5, t332=(2,)), "inks other than CMYK"),
    "lerc": (tiff_of(bytes(16), 4, 4, t259=(34887,)), "LERC"),
    "wide jpeg": (tiff_of(bytes(32), 4, 4, bits=(16,), t259=(7,)), "compressed as JPEG"),
    "bit order": (tiff_of(bytes(32), 4, 4, bits=(16,), t266=(2,)), "FillOrder 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named(name):
    """Never a wrong image, and never called damaged."""
    data, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        decode_image(data, "a.tif")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("bits", [8, 16])
def test_samples_beyond_the_end_are_damage(bits):
    """Not the bytes of whatever follows."""
    data = written(samples(bits, H, W, 4), photometric="rgb", extrasamples=["unspecified"])
    at = tifffile.TiffFile(io.BytesIO(data)).pages[0].tags["StripOffsets"].value[0]
    place = tifffile.TiffFile(io.BytesIO(data)).pages[0].tags["StripOffsets"].valueoffset
    moved = data[:place] + (at + 8).to_bytes(4, "little") + data[place + 4 :]
    with pytest.raises(ImageError, match="damaged or cut off TIFF"):
        decode_image(moved, "a.tif")


@pytest.mark.parametrize("bits", [8, 16])
def test_tags_beside_the_structure_never_matter(bits):
    """A resolution that is text, a profile that is none: the samples are the same."""
    pixels = samples(bits, H, W, 3)
    body = pixels.astype(f"<u{bits // 8}").tobytes()
    data = tiff_of(body, W, H, bits=(bits,) * 3, photometric=2, t282=b"72\0", t34675=b"no profile", t33723=(7,), t305=(5,))
    np.testing.assert_array_equal(decode_image(data, "a.tif").pixels, pixels)


def test_orientation_of_16_bits():
    """Applied once, also to planes."""
    pixels = samples(16, H, W, 3)
    data = written(np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate", extratags=[(274, 3, 1, 6, True)])
    found = decode_image(data, "a.tif")
    np.testing.assert_array_equal(found.pixels, np.rot90(pixels, -1))
    assert found.notes == ("turned upright as its EXIF orientation says",)


def test_the_first_of_several_pages():
    pixels = samples(16, 2, H, W, 3)
    found = decode_image(written(pixels, photometric="rgb"), "a.tif")
    np.testing.assert_array_equal(found.pixels, pixels[0])
    assert found.notes == ("the first of several frames or pages",)
