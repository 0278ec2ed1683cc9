"""Every kind of file, and a zoo of bad ones: each gives right pixels or an ImageError that says why."""

import io
import struct
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from samdiff.errors import ConfigError, ImageError
from samdiff.pipeline.images import decode as images
from samdiff.pipeline.images.decode import Decoded, Limits, decode_rgb, read_ahead, read_rgb
from samdiff.pipeline.images.sources import list_source

from ...helpers.zoo import FORMATS, RGB, SMALL, ZOO, bomb, chunk, file_of, flipped, photo, wide_file

pytestmark = pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated File|Tag data)")  # Pillow's remarks on bad TIFF


@pytest.mark.parametrize(
    ("kind", "suffix", "options"),
    [
        ("PNG", ".png", {}),
        ("BMP", ".bmp", {}),
        ("TIFF", ".tif", {}),
        ("TIFF", ".tiff", {"compression": "tiff_lzw"}),
        ("TIFF", ".tif", {"compression": "tiff_deflate"}),
        ("WEBP", ".webp", {"lossless": True}),
    ],
)
def test_lossless_files_give_their_pixels(kind, suffix, options):
    """No note, the same bytes, whatever the case of the suffix."""
    found = decode_rgb(file_of(RGB, kind, **options), "a" + suffix.upper())
    assert found.notes == ()
    assert found.pixels.flags.c_contiguous
    assert np.array_equal(found.pixels, RGB)


@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 95, "progressive": True}, {"quality": 95, "subsampling": 0}])
def test_jpeg_is_decoded_like_opencv_does(options):
    """Two builds of libjpeg agree to a few levels."""
    data = file_of(RGB, "JPEG", **options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = decode_rgb(data, "a.jpg")
    assert np.abs(found.pixels.astype(int) - expected).mean() < 1
    assert found.notes == ()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "PA"])
def test_grey_and_palette_become_rgb(mode):
    """The same colours in three channels."""
    image = Image.fromarray(RGB).quantize(32) if mode in ("P", "PA") else Image.fromarray(RGB).convert("L")
    image = image.convert(mode)
    found = decode_rgb(file_of(image, "TIFF" if mode == "PA" else "PNG"), "a.png")
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGBA").convert("RGB")))


def test_transparency_is_composited_over_white_and_said():
    """RGBA, and a palette with a transparent colour; an opaque alpha channel is dropped without a word."""
    alpha = np.linspace(0, 255, 48 * 64).astype(np.uint8).reshape(48, 64, 1)
    white = (RGB * (alpha / 255.0) + 255 * (1 - alpha / 255.0) + 0.5).astype(int)
    found = decode_rgb(file_of(np.concatenate([RGB, alpha], axis=2), "PNG"), "a.png")
    assert np.abs(found.pixels - white).max() <= 1
    assert found.notes == ("transparent parts composited over white",)
    opaque = np.concatenate([RGB, np.full_like(alpha, 255)], axis=2)
    assert decode_rgb(file_of(opaque, "PNG"), "a.png").notes == ()
    palette = Image.fromarray(RGB).quantize(8)
    found = decode_rgb(file_of(palette, "PNG", transparency=0), "a.png")
    assert (found.pixels[np.asarray(palette) == 0] == 255).all()
    assert found.notes


def test_cmyk_is_converted_and_said():
    """As Pillow does it without a profile."""
    image = Image.fromarray(RGB).convert("CMYK")
    found = decode_rgb(file_of(image, "TIFF"), "a.tif")
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert "CMYK" in found.notes[0]
    assert "CMYK" in decode_rgb(file_of(image, "JPEG"), "a.jpg").notes[0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 3])
def test_sixteen_bits_are_scaled_not_cut(suffix, bands):
    """round(v / 257): 128 becomes 0, 129 becomes 1, 65535 becomes 255."""
    wide = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    wide[0, :3, :] = [[128], [129], [65535]]
    wide = wide if bands == 3 else wide[..., 0]
    found = decode_rgb(wide_file(wide, suffix), "a" + suffix)
    expected = np.floor(wide / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(found.pixels, expected if bands == 3 else np.repeat(expected[..., None], 3, axis=2))
    assert found.pixels[0, :3, 0].tolist() == [0, 1, 255]
    assert found.notes == ("16 bits scaled to 8",)


def test_sixteen_bits_with_transparency():
    """Scaled, then composited."""
    wide = np.zeros((4, 4, 4), np.uint16)
    wide[..., 3] = 65535
    wide[0, 0, 3] = 0
    data = cv2.imencode(".png", wide)[1].tobytes()
    found = decode_rgb(data, "a.png")
    assert found.pixels[0, 0].tolist() == [255] * 3
    assert found.pixels[1, 1].tolist() == [0] * 3
    assert len(found.notes) == 2


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "wide PNG", "wide TIFF"])
def test_exif_orientation_is_applied(turn, kind):
    """All eight, as Pillow's own function has them."""
    image = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[0x0112] = turn
    if kind.startswith("wide"):
        upright = np.asarray(ImageOps.exif_transpose(with_exif(image, exif)))
        upright = np.repeat(upright[..., :1], 3, axis=2) if kind == "wide TIFF" else upright
        data = _wide_with_orientation(kind, turn)
    else:
        options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
        data = file_of(image, kind, exif=exif, **options)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    found = decode_rgb(data, "a." + kind.split()[-1].lower())
    assert np.array_equal(found.pixels, upright)
    assert any("orientation" in note for note in found.notes) == (turn != 1)


def with_exif(image, exif):
    """An image that carries EXIF, as if it were just opened."""
    copy = image.copy()
    copy.info["exif"] = exif.tobytes()
    return copy


def _wide_with_orientation(kind, turn):
    wide = RGB.astype(np.uint16) * 257
    if kind == "wide PNG":
        exif = Image.Exif()
        exif[0x0112] = turn
        block = exif.tobytes().removeprefix(b"Exif\0\0")
        data = wide_file(wide, ".png")
        return data[:33] + chunk(b"eXIf", block) + data[33:]
    height, width = wide.shape[:2]
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (274, 3, turn)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, height * width * 2)]
    grey = wide[..., 0].astype("<u2").tobytes()  # the red channel
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, code, 1, value) for tag, code, value in tags
    ) + bytes(4)  # fmt: skip
    return b"II*\0" + struct.pack("<I", 8 + len(grey)) + grey + directory


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_said(kind):
    """Animations and pages."""
    first = Image.fromarray(RGB).quantize(200).convert("RGB")
    options = {
        "save_all": True,
        "append_images": [Image.fromarray(photo(seed=1))],
        **({"lossless": True} if kind == "WEBP" else {}),
    }
    found = decode_rgb(file_of(first, kind, **options), "a." + kind.lower())
    assert found.notes == ("the first of several frames or pages",)
    assert np.abs(found.pixels.astype(int) - np.asarray(first)).mean() < 1


def test_a_wrong_suffix_is_said():
    """The content decides."""
    found = decode_rgb(file_of(RGB, "PNG"), "folder/a.jpg")
    assert np.array_equal(found.pixels, RGB)
    assert found.notes == ("named .jpg but holds PNG",)


def test_floats_from_0_to_1_are_scaled_and_said():
    """Other floats have no known range (see the zoo)."""
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    found = decode_rgb(file_of(grey, "TIFF"), "a.tif")
    assert np.array_equal(found.pixels[..., 0], np.floor(grey * 255 + 0.5))
    assert found.notes


def test_the_zoo_is_large_enough():
    """At least 40 kinds of bad files."""
    assert len(ZOO) >= 40


@pytest.mark.parametrize("name", ZOO)
def test_a_bad_file_says_why(name):
    """An ImageError with the reason, quickly, and nothing else."""
    data, says = ZOO[name]
    start = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        decode_rgb(data, name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_off_anywhere_is_an_error_or_whole(kind):
    """Never a half-grey image: at every offset an error, or all pixels as in the whole file."""
    data, whole = FORMATS[kind], decode_rgb(FORMATS[kind], "a." + kind).pixels
    errors = 0
    for length in range(len(data)):
        try:
            found = decode_rgb(data[:length], "a." + kind)
        except ImageError:
            errors += 1
        else:
            assert np.array_equal(found.pixels, whole), length
    assert errors > 0.9 * len(data)


def test_changed_bytes_never_raise_anything_else():
    """Random damage of every format: pixels or an ImageError."""
    random = np.random.default_rng(0)
    for kind, data in FORMATS.items():
        for _ in range(60):
            try:
                decode_rgb(flipped(data, int(random.integers(len(data)))), "a." + kind)
            except ImageError as error:
                assert str(error)  # noqa: PT017


def test_size_limit_can_be_raised():
    """The error names the option; thin images count by their area."""
    data = file_of(np.zeros((1, 5000, 3), np.uint8), "PNG")
    assert decode_rgb(data, "a.png").pixels.shape == (1, 5000, 3)
    with pytest.raises(ImageError, match="5000 x 1 pixels are more than 0.004 megapixels; raise --max-megapixels"):
        decode_rgb(data, "a.png", Limits(max_megapixels=0.004))
    assert decode_rgb(data, "a.png", Limits(max_megapixels=0.005)).pixels.shape == (1, 5000, 3)
    assert decode_rgb(file_of(RGB[:1, :1], "PNG"), "a.png").pixels.shape == (1, 1, 3)
    with pytest.raises(ConfigError, match="max_megapixels"):
        Limits(max_megapixels=0)


def test_a_bomb_allocates_nothing(monkeypatch):
    """Its size is known before any pixel is decoded."""
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="60000 x 60000"):
        decode_rgb(bomb("png"), "a.png")


def test_text_chunks_do_not_matter():
    """A PNG with kilobytes of text, a time and unknown chunks."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 10_000, zip=True)
    info.add(b"teSt", b"12345")
    assert np.array_equal(decode_rgb(file_of(RGB, "PNG", pnginfo=info), "a.png").pixels, RGB)


@pytest.fixture
def folder(tmp_path):
    """Eight images, the third of them bad."""
    for k in range(8):
        (tmp_path / f"{k}.png").write_bytes(file_of(photo(seed=k), "PNG") if k != 2 else b"nothing")
    return tmp_path


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_ahead_keeps_the_order(folder, workers):
    """Pixels or the error of each image, whichever thread was faster."""
    pictures = list_source(folder)
    found = list(read_ahead(pictures, workers=workers, ahead=3))
    assert [picture for picture, _ in found] == pictures
    for k, (picture, decoded) in enumerate(found):
        if k == 2:
            assert isinstance(decoded, ImageError)
            continue
        assert isinstance(decoded, Decoded)
        assert np.array_equal(decoded.pixels, read_rgb(picture).pixels)


def test_reading_ahead_is_bounded(folder, monkeypatch):
    """No more than `ahead` images are decoded before the caller asks for more, and leaving early stops the threads."""
    done, lock = [], threading.Lock()

    def count(picture, *_):
        with lock:
            done.append(picture.name)
        return Decoded(SMALL)

    monkeypatch.setattr(images, "read_rgb", count)
    reader = read_ahead(list_source(folder), workers=2, ahead=3)
    for taken in range(1, 4):
        next(reader)
        time.sleep(0.05)
        assert len(done) <= taken + 3
    reader.close()
    seen = len(done)
    time.sleep(0.05)
    assert len(done) == seen < 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
