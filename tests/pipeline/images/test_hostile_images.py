"""Images that are meant to hurt: other formats, sizes that lie or that no memory holds; and hundreds of damaged ones."""

import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samdiff import load_model
from samdiff.errors import ImageError
from samdiff.model.inference import memory
from samdiff.model.inference import upscaler as infer_module
from samdiff.model.inference.image_io import plan_write, read_image_file, save_image, write_planned
from samdiff.model.inference.memory import check_memory, free_bytes, memory_errors, needed_bytes
from samdiff.model.inference.tile_weights import plan_tiles
from samdiff.pipeline.images.decode import decode_rgb

from ...helpers.damaged_files import (
    archive_zoo,
    foreign_zoo,
    fuzz,
    image_zoo,
    mutations,
    quickly,
    read_archive,
    read_everywhere,
)
from ...helpers.models import write_model
from ...helpers.zoo import RGB, chunk, file_of, photo, wide_file

pytestmark = pytest.mark.filterwarnings("ignore:")  # Pillow's remarks on what is damaged
PNG = file_of(RGB, "PNG")
GB = 10**9


@pytest.mark.parametrize(
    ("kind", "named"), [("DDS", "DDS"), ("PCX", "PCX"), ("ICO", "ICO"), ("IM", "no image of a known format")]
)
def test_only_listed_formats_are_decoded(kind, named, tmp_path):
    """By `infer` too, which once tried all of Pillow's, some with exceptions of their own. Known formats are named."""
    (tmp_path / "a.png").write_bytes(file_of(photo(8, 8), kind))
    for read in (lambda: read_image_file(tmp_path / "a.png"), lambda: decode_rgb(file_of(photo(8, 8), kind), "a.png")):
        with pytest.raises(ImageError, match=named) as caught:
            read()
        assert "damaged" not in str(caught.value)


def test_exceptions_of_a_decoder_become_reasons(tmp_path, monkeypatch):
    """Whatever they are; text with a line break or a surrogate is made printable."""
    (tmp_path / "a.png").write_bytes(PNG)
    for error in (
        NotImplementedError("a\n\x1b[31m\udc80"),
        RuntimeError(),
        TypeError("t"),
        struct.error("s"),
        RecursionError("r"),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
        for read in (lambda: decode_rgb(PNG, "a.png"), lambda: read_image_file(tmp_path / "a.png")):
            with pytest.raises(ImageError, match="damaged or cut off PNG file") as caught:
                read()
            assert str(caught.value).isprintable()
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda _: bytes(1 << 60))
    with pytest.raises(ImageError, match="not enough memory to decode"):
        decode_rgb(PNG, "a.png")


def test_exif_that_is_too_long_is_left_out_before_the_work(tmp_path):
    """It can be read and not be written into a JPEG: decided when the file is planned, not after hours. PNG holds it."""
    exif = Image.Exif()
    exif[0x010F] = "x" * 70_000
    (tmp_path / "a.png").write_bytes(file_of(RGB, "PNG", exif=exif.tobytes()))
    found = read_image_file(tmp_path / "a.png")
    plan = plan_write(tmp_path / "out.jpg", RGB.shape, np.uint8, source=found, origin={"Software": "s"})
    assert len(plan.notes) == 1
    assert plan.notes[0].startswith("its EXIF could not be kept (")
    write_planned(RGB, plan)
    assert Image.open(tmp_path / "out.jpg").getexif()[0x0131] == "Software: s"
    save_image(found.pixels, tmp_path / "out.png", found)
    assert Image.open(tmp_path / "out.png").getexif()[0x010F] == "x" * 70_000


def two_headers():
    """A 16-bit PNG that says 30,000 x 30,000 first and 8 x 6 then: Pillow believes the last, libpng the first."""
    data = wide_file(RGB[:6, :8].astype(np.uint16), ".png")
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 16, 2, 0, 0, 0))
    return data[:8] + large + data[8:]


def test_decoders_that_would_differ_about_the_size():
    """OpenCV is not asked: it would take the memory of the header that was not checked."""
    with pytest.raises(ImageError, match="damaged"):
        decode_rgb(two_headers(), "a.png")
    data = wide_file(RGB[:6, :8].astype(np.uint16), ".tif")
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    width = struct.pack("<HHII", 256, 4, 1, 30_000)
    twice = data[:4] + struct.pack("<I", len(data)) + data[8:]
    twice += struct.pack("<H", count + 1) + width + data[start + 2 : start + 6 + 12 * count]
    with pytest.raises(ImageError, match="damaged TIFF file"):
        decode_rgb(twice, "a.tif")


def test_a_tiff_tile_that_is_larger_than_its_image():
    """A decoder takes memory for one tile, whatever it has to put there."""
    entries = [(256, 4, 8), (257, 4, 6), (258, 3, 8), (259, 3, 5), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, 60_000), (323, 4, 60_000), (324, 4, 8), (325, 4, 100)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in entries) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 200) + bytes(192) + directory
    with quickly(), pytest.raises(ImageError, match="tiles of 3600000000 pixels in an image of 8 x 6"):
        decode_rgb(data, "a.tif")


def test_a_jpeg_of_endless_scans():
    """Each is a pass over all pixels."""
    data = file_of(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with quickly(), pytest.raises(ImageError, match="more than 500 scans"):
        decode_rgb(data[:last] + data[last:-2] * 600 + data[-2:], "a.jpg")


def thin(width, height):
    """A 16-bit grey PNG of zeros."""
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    body = zlib.compress(bytes((2 * width + 1) * height), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8_000_000, 1), (1, 8_000_000)])
def test_a_thin_image_of_eight_million_pixels(size, tmp_path):
    """Within the megapixels, and no decoder's side: refused from its header by all commands."""
    data = thin(*size)
    (tmp_path / "a.png").write_bytes(data)
    for read in (lambda: decode_rgb(data, "a.png"), lambda: read_image_file(tmp_path / "a.png")):
        with quickly(), pytest.raises(ImageError, match="a side has at most 1048576"):
            read()


def test_tiles_of_a_long_image_take_no_square_of_memory():
    """Weights of each tile alone: 10 TB once for 8,000,000 pixels."""
    with quickly():
        tiling = plan_tiles(16, 1 << 20, 4, 16, 192, 16)
    columns = tiling.columns
    assert sum(weights.nbytes for weights in (tiling.rows.weights, columns.weights)) < 1 << 25
    for last in (0, len(columns.starts_lr) // 2, len(columns.starts_lr) - 2):  # two tiles share a pixel: 1 in all
        start, after = columns.starts_lr[last : last + 2]
        shared = 4 * (columns.size_lr - (after - start))
        total = columns.weights[last][-shared:] + columns.weights[last + 1][:shared]
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_memory_is_asked_for_before_it_is_taken(tmp_path, monkeypatch):
    """A result that the memory cannot hold is refused with both numbers; nothing is computed."""
    model = load_model(write_model(tmp_path / "model.safetensors"), "cpu")
    image = np.zeros((30, 40, 3), np.uint8)
    monkeypatch.setattr(infer_module, "free_bytes", lambda: 100_000)
    with pytest.raises(ImageError, match=r"40 x 30 pixels become 160 x 120, which takes about .* GB are free; crop it"):
        model.upscale(image, regress=True)
    monkeypatch.setattr(infer_module, "free_bytes", lambda: None)
    assert model.upscale(image, regress=True).shape == (120, 160, 3)
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), _cuda_error()):
        with pytest.raises(ImageError, match="not enough memory"), memory_errors(1, 1):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(1, 1):
        raise RuntimeError("shapes differ")


def _cuda_error():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory")


def test_needed_memory_by_hand():
    """48 megapixels out of docs/inference.md: about three planes of 576 MB, its 144 MB, and a tile's features; more tiles need no more."""
    shape = {"channels": 48, "pixel_bytes": 3, "tile_lr": 192, "batch": 1}
    needed = needed_bytes(1500, 2000, 4, planes=3, **shape)
    assert needed == 48_000_000 * (3 * 12 + 3) + 36 * 3_000_000 + (192 * 4) ** 2 * 48 * 4 * 3
    assert needed_bytes(1500, 2000, 4, planes=3, **{**shape, "tile_lr": 0}) > 10 * needed
    check_memory(1500, 2000, 4, needed, needed)
    check_memory(1500, 2000, 4, needed, None)
    with pytest.raises(ImageError):
        check_memory(1500, 2000, 4, needed, needed - 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="known on Linux only")
def test_free_memory_obeys_ulimit(monkeypatch):
    """What is left of the address space, if that is less than what the system has."""
    assert free_bytes() > 1 << 20
    used = memory._numbers(Path("/proc/self/status"))["VmSize"] * 1024
    monkeypatch.setattr("resource.getrlimit", lambda _: (used + (50 << 20), used + (50 << 20)))
    assert 0 < free_bytes() <= 60 << 20
    monkeypatch.setattr("resource.getrlimit", lambda _: (used // 2, used))
    assert free_bytes() == 0


def test_damaged_images(tmp_path):
    """A few of each kind; thousands in `make slow`."""
    fuzz(image_zoo(), read_everywhere, tmp_path, seed=0, count=300)


def test_damaged_files_of_other_formats(tmp_path):
    """Pillow has readers for them, with exceptions of their own; they are not asked."""
    for name, data in [*foreign_zoo().items(), *mutations(foreign_zoo(), seed=0, count=300)]:
        assert read_everywhere(name, data, tmp_path) == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, int(time.time())])
def test_many_damaged_files(tmp_path, seed):
    """A known seed and a fresh one, which the name of the test says."""
    fuzz(image_zoo(), read_everywhere, tmp_path, seed, 10_000)
    fuzz(archive_zoo(), read_archive, tmp_path, seed, 10_000)
