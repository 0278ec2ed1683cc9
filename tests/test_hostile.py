"""Files that are meant to hurt: pipes and devices, sparse files, endless archives, sizes that lie, and thousands of damaged files."""

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from samdiff import load_model
from samdiff.errors import ConfigError, ImageError
from samdiff.model import infer as infer_module
from samdiff.model.batch import list_inputs
from samdiff.model.evaluate import read_pairs
from samdiff.model.memory import check_memory, free_bytes, memory_errors, needed_bytes
from samdiff.model.pictures import open_picture, read_picture_file, save_picture
from samdiff.model.tiles import plan_tiles
from samdiff.pipeline import archives
from samdiff.pipeline.images import Limits, decode_picture, read_picture
from samdiff.pipeline.prepare import PrepareSettings, prepare
from samdiff.pipeline.regular import open_regular, read_regular
from samdiff.pipeline.scan import scan
from samdiff.pipeline.sources import Shelf, list_source

from .fuzz import archive_zoo, foreign_zoo, image_zoo, mutations, quickly, read_archive, read_everywhere
from .models import write_model
from .zoo import RGB, NoMasks, chunk, file_of, photo, wide_file

pytestmark = pytest.mark.filterwarnings("ignore:")  # Pillow's remarks on what is damaged
PNG = file_of(RGB, "PNG")
GB = 10**9


@pytest.fixture
def odd_files(tmp_path):
    """A folder with a good image and a pipe, a socket, a device, a folder and a dangling link, all named like images."""
    (tmp_path / "good.png").write_bytes(file_of(photo(64, 64), "PNG"))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        os.chdir(here)
        yield tmp_path


REASONS = {
    "pipe.png": "a named pipe",
    "endless.png": "a device",
    "socket.png": "a socket",
    "folder.png": "a folder",
    "nowhere.png": "a link to nowhere",
}


def test_prepare_lists_what_is_no_file(odd_files, tmp_path_factory):
    """Each with its reason, in no time; the good image is used."""
    out = tmp_path_factory.mktemp("out") / "a.zarr"
    with quickly():
        report = prepare(odd_files, out, NoMasks(), PrepareSettings(tile=64))
    assert report.tiles == 1
    assert set(report.skipped) == set(REASONS)
    for name, says in REASONS.items():
        assert says in report.skipped[name]


def test_the_other_commands_do_not_wait_for_a_pipe(odd_files):
    """infer, compare, evaluate and masks read through these."""
    for name, says in REASONS.items():
        with quickly(), pytest.raises(ImageError) as caught:
            open_picture(odd_files / name)
        assert says in str(caught.value) or "no such file" in str(caught.value)
    inputs = [path.name for path in list_inputs([odd_files], "_x4")]
    assert inputs == ["endless.png", "good.png", "nowhere.png", "pipe.png", "socket.png"]  # each will be told with its reason
    assert "pipe.png" in [path.name for path in list_inputs([str(odd_files / "p*.png")], "_x4")]
    with quickly(), pytest.raises(ImageError, match="a named pipe|a device|a folder"):
        read_pairs(odd_files, 4)
    with quickly(), pytest.raises(ImageError, match="no such file or folder"):
        list_source(odd_files / "pipe.png")


def test_a_pipe_in_place_of_a_file_after_the_look(tmp_path, monkeypatch):
    """What was looked at is not what is opened: it is looked at again, and opening did not wait."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(PNG)
    real = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **more: real(tmp_path / "b.png" if str(path).endswith("a.png") else path, **more)
    )
    with quickly(), pytest.raises(OSError, match="a named pipe"):
        open_regular(tmp_path / "a.png")


def test_a_file_that_grows_is_read_no_further(tmp_path, monkeypatch):
    """Its size is asked before, its bytes are counted."""
    (tmp_path / "a.png").write_bytes(bytes(100))
    with pytest.raises(OSError, match="more than"):
        read_regular(tmp_path / "a.png", 99)
    real = os.fstat
    small = os.stat_result((*real(os.open(tmp_path / "a.png", os.O_RDONLY))[:6], 10, 0, 0, 0))
    monkeypatch.setattr("samdiff.pipeline.regular.os.fstat", lambda _: small)
    monkeypatch.setattr("samdiff.pipeline.regular.os.stat", lambda _: small)
    with pytest.raises(OSError, match="more than"):
        read_regular(tmp_path / "a.png", 99)


def test_a_sparse_file_is_told_unread(tmp_path, monkeypatch):
    """30 GB that take no disk, beside a good image: that file's reason, and not one byte of it is read."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "good.png").write_bytes(file_of(photo(64, 64), "PNG"))
    with open(source / "sparse.png", "wb") as file:
        file.truncate(30 * GB)
    with quickly():
        report = prepare(source, tmp_path / "a.zarr", NoMasks(), PrepareSettings(tile=64))
    assert "30000 MB, more than the 1617 MB that an image may have" in report.skipped["sparse.png"]
    with quickly(), pytest.raises(ImageError, match=r"sparse.png.*30000 MB, more than the 417 MB"):
        read_picture_file(source / "sparse.png")


def shared_zip(path, entries, size):
    """A zip whose entries all have the same bytes: zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("0000.png", "w", force_zip64=False) as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
        info = archive.infolist()[0]
        for number in range(1, entries):
            other = zipfile.ZipInfo(f"{number:04}.png")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, name, getattr(info, name))
            archive.filelist.append(other)
        archive._didModify = True
    path.write_bytes(buffer.getvalue())
    return path


def test_a_zip_whose_entries_share_their_bytes(tmp_path):
    """All but one are listed with the reason, unread."""
    path = shared_zip(tmp_path / "a.zip", 2000, 8 << 20)
    with quickly():
        found = scan(path)
    troubles = [item.picture.trouble for item in found]
    assert len(found) == 2000
    assert sum("shares its bytes" in trouble for trouble in troubles) == 1999


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    """Told with the option; a tar of hard links likewise; images that are too large by themselves do not count."""
    members = [(f"{k}.png", bytes(1 << 20)) for k in range(30)]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(Shelf, "chunks", lambda *_: pytest.fail("read"))
    with pytest.raises(ImageError, match=r"a.zip: its images unpack to 0.0 GB, more than 0.02 GB; raise --max-archive-gb"):
        scan(path, limits=Limits(max_archive_gb=0.02))
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        info = tarfile.TarInfo("first.png")
        info.size = 1 << 20
        archive.addfile(info, io.BytesIO(bytes(1 << 20)))
        for k in range(29):
            link = tarfile.TarInfo(f"{k}.png")
            link.type, link.linkname = tarfile.LNKTYPE, "first.png"
            archive.addfile(link)
    with pytest.raises(ImageError, match="--max-archive-gb"):
        scan(tmp_path / "b.tar", limits=Limits(max_archive_gb=0.02))
    monkeypatch.undo()
    assert len(scan(path, limits=Limits(max_archive_gb=0.04))) == 30
    assert len(scan(path, limits=Limits(max_megapixels=0.001, max_archive_gb=0.04))) == 30
    with pytest.raises(ConfigError, match="max_archive_gb"):
        Limits(max_archive_gb=0)


def test_the_bound_on_archives_does_not_change_a_store(tmp_path):
    """Its settings and fingerprint are those of 0.1."""
    attributes = [PrepareSettings(limits=Limits(max_archive_gb=gb)).as_attributes({})["limits"] for gb in (1, 2)]
    assert attributes == [{"max_megapixels": 200.0}] * 2


def test_a_compressed_tar_that_does_not_end(tmp_path):
    """Listing it means unpacking it: no further than the bound. Nor are images read in an order that unpacks it again for each."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, size in (("z.bin", 8 << 20), *((f"{99 - k}.png", 1000) for k in range(40))):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    with pytest.raises(ImageError, match=r"unpacks to more than 0.005 GB; raise --max-archive-gb"):
        list_source(tmp_path / "a.tar.gz", Limits(max_archive_gb=0.005))
    with pytest.raises(ImageError, match="in another order than that of their names"):
        scan(tmp_path / "a.tar.gz", limits=Limits(max_archive_gb=0.0085))
    assert len(scan(tmp_path / "a.tar.gz")) == 40


def tar_with(path, headers, name="a.png", data=PNG, mode="w"):
    """A tar of two images, the first with these pax headers as they are."""
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for member, more in ((name, headers), ("last.png", {})):
            info = tarfile.TarInfo(member)
            info.size, info.pax_headers = len(data), more
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "-1024"},
        {"size": "-512"},
        {"size": "99999999999999999999"},
        {"size": str(1 << 62)},
        {"size": "many"},
        {"path": "a\0b.png"},
        {"path": "../../../a.png"},
        {"path": "\udcff.png"},
        {"GNU.sparse.map": "0,-5,7"},
        {"GNU.sparse.map": "a,b"},
        {"GNU.sparse.size": str(1 << 62), "GNU.sparse.map": "0,9"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "-1"},
        {"GNU.sparse.name": ""},
    ],
)
def test_pax_headers_that_lie(tmp_path, headers):
    """Members or reasons, never another exception, never for ever."""
    path = tar_with(tmp_path / "a.tar", headers)
    read_archive("b.tar", path.read_bytes(), tmp_path)
    read_archive("b.tar.gz", tar_with(tmp_path / "a.tar.gz", headers, mode="w:gz").read_bytes(), tmp_path)


def test_a_nul_in_a_tar_name_is_made_visible(tmp_path):
    """It would end the name elsewhere."""
    found = list_source(tar_with(tmp_path / "a.tar", {"path": "a\0b.png"}))
    assert [picture.name for picture in found] == ["a\\x00b.png", "last.png"]
    assert np.array_equal(read_picture(found[0]).pixels, RGB)


def test_a_tar_header_that_claims_gigabytes(tmp_path):
    """A pax header's size is what tarfile reads at once: here 20 GB of a sparse file."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 20 * GB
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(21 * GB)
    with quickly(), pytest.raises(ImageError, match="a header that claims 2000\\d* bytes"):
        list_source(tmp_path / "a.tar")


def test_a_zip_with_a_name_that_is_not_utf8(tmp_path):
    """Said as that; a name without the mark is taken as the old code page."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ü.png", PNG)
    (tmp_path / "a.zip").write_bytes(buffer.getvalue().replace("ü".encode(), b"\xff\xfe"))
    with pytest.raises(ImageError, match="a name in it is said to be UTF-8 and is not"):
        list_source(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(buffer.getvalue())
    found = list_source(tmp_path / "b.zip")
    local = buffer.getvalue().index("ü".encode())
    data = buffer.getvalue()
    (tmp_path / "b.zip").write_bytes(data[:local] + b"\xff\xfe" + data[local + 2 :])  # in the local header alone
    with pytest.raises(ImageError, match="no valid text"):
        read_picture(found[0])


def test_an_archive_that_changed_since_it_was_listed(tmp_path):
    """Fewer members than before: a reason, not an IndexError."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(3):
            archive.writestr(f"{k}.png", PNG)
    found = list_source(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.png", PNG)
    with pytest.raises(ImageError, match="cannot be read: damaged"):
        read_picture(found[2])


def test_a_zip_of_another_method(tmp_path):
    """Python unpacks bzip2 and LZMA in a zip without a bound on memory: 1 MiB becomes terabytes."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", bytes(1 << 24))
    with pytest.raises(ImageError, match="another method than deflate"):
        read_picture(list_source(tmp_path / "a.zip")[0])


def test_too_many_members(tmp_path, monkeypatch):
    """Each takes memory."""
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    for name, data in (("a.zip", archive_zoo()["stored.zip"]), ("a.tar", archive_zoo()["gnu.tar"])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match="holds more than 2 files"):
            list_source(tmp_path / name)


@pytest.mark.parametrize("kind", ["DDS", "AVIF", "PCX", "TGA", "ICO", "PPM", "JPEG2000"])
def test_only_listed_formats_are_decoded(kind, tmp_path):
    """By `infer` too, which once tried all of Pillow's, some with exceptions of their own."""
    if kind == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow has no AVIF")
    (tmp_path / "a.png").write_bytes(file_of(photo(8, 8), kind))
    with pytest.raises(ImageError, match="no image of a known format"):
        read_picture_file(tmp_path / "a.png")


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
        for read in (lambda: decode_picture(PNG, "a.png"), lambda: read_picture_file(tmp_path / "a.png")):
            with pytest.raises(ImageError, match="damaged or cut off PNG file") as caught:
                read()
            assert str(caught.value).isprintable()
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda _: bytes(1 << 60))
    with pytest.raises(ImageError, match="not enough memory to decode"):
        decode_picture(PNG, "a.png")


def test_damaged_exif_is_left_out_before_the_work(tmp_path, caplog):
    """It can be read and not be written again: told at once, not after hours."""
    exif = Image.Exif()
    exif[0x010F] = "x" * 65_000
    (tmp_path / "a.png").write_bytes(file_of(RGB, "PNG", exif=exif.tobytes()))
    found = read_picture_file(tmp_path / "a.png")
    assert "its EXIF is damaged and is left out" in caplog.text
    save_picture(found.pixels, tmp_path / "out.jpg", found, {"Software": "s"})


def two_headers():
    """A 16-bit PNG that says 30,000 x 30,000 first and 8 x 6 then: Pillow believes the last, libpng the first."""
    data = wide_file(RGB[:6, :8].astype(np.uint16), ".png")
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 16, 2, 0, 0, 0))
    return data[:8] + large + data[8:]


def test_decoders_that_would_differ_about_the_size():
    """OpenCV is not asked: it would take the memory of the header that was not checked."""
    with pytest.raises(ImageError, match="damaged"):
        decode_picture(two_headers(), "a.png")
    data = wide_file(RGB[:6, :8].astype(np.uint16), ".tif")
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    width = struct.pack("<HHII", 256, 4, 1, 30_000)
    twice = data[:4] + struct.pack("<I", len(data)) + data[8:]
    twice += struct.pack("<H", count + 1) + width + data[start + 2 : start + 6 + 12 * count]
    with pytest.raises(ImageError, match="damaged TIFF file"):
        decode_picture(twice, "a.tif")


def test_a_tiff_tile_that_is_larger_than_its_image():
    """A decoder takes memory for one tile, whatever it has to put there."""
    entries = [(256, 4, 8), (257, 4, 6), (258, 3, 8), (259, 3, 5), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, 60_000), (323, 4, 60_000), (324, 4, 8), (325, 4, 100)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in entries) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 200) + bytes(192) + directory
    with quickly(), pytest.raises(ImageError, match="tiles of 3600000000 pixels in an image of 8 x 6"):
        decode_picture(data, "a.tif")


def test_a_jpeg_of_endless_scans():
    """Each is a pass over all pixels."""
    data = file_of(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with quickly(), pytest.raises(ImageError, match="more than 500 scans"):
        decode_picture(data[:last] + data[last:-2] * 600 + data[-2:], "a.jpg")


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
    for read in (lambda: decode_picture(data, "a.png"), lambda: read_picture_file(tmp_path / "a.png")):
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
def test_free_memory_obeys_ulimit():
    """With 4 GB of address space, less than 4 GB are free."""
    assert free_bytes() > 1 << 20
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 35, 1 << 35)); "
        "from samdiff.model.memory import free_bytes; print(free_bytes())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert 0 < int(done.stdout) < 1 << 35


def test_odd_words_for_a_source(tmp_path):
    """An unknown home, NUL, a name that is too long: one error each."""
    for source in ("~nobody-of-this-name/x", "a\0b", "x" * 5000, str(tmp_path / ("y" * 300))):
        with pytest.raises(ImageError):
            list_source(source)
        with pytest.raises(ImageError):
            open_picture(type(tmp_path)(source))


def test_a_folder_that_cannot_be_looked_into_is_listed(tmp_path, monkeypatch):
    """Once it was left out without a word."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def guarded(path):
        if str(path).endswith("closed"):  # tests may run as root
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = {picture.name: picture.trouble for picture in list_source(tmp_path)}
    assert found == {"a.png": "", "closed/": "a folder that cannot be read: Permission denied"}


def test_damaged_images(tmp_path):
    """A few of each kind; thousands in `make slow`."""
    _fuzz(image_zoo(), read_everywhere, tmp_path, seed=0, count=300)


def test_damaged_files_of_other_formats(tmp_path):
    """Pillow has readers for them, with exceptions of their own; they are not asked."""
    for name, data in [*foreign_zoo().items(), *mutations(foreign_zoo(), seed=0, count=300)]:
        assert read_everywhere(name, data, tmp_path) == 0, name


def test_damaged_archives(tmp_path):
    """Likewise."""
    _fuzz(archive_zoo(), read_archive, tmp_path, seed=0, count=300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, int(time.time())])
def test_many_damaged_files(tmp_path, seed):
    """A known seed and a fresh one, which the name of the test says."""
    _fuzz(image_zoo(), read_everywhere, tmp_path, seed, 10_000)
    _fuzz(archive_zoo(), read_archive, tmp_path, seed, 10_000)


def _fuzz(zoo, read, folder, seed, count):
    assert threading.current_thread() is threading.main_thread(), "its clock is a signal"
    assert hasattr(signal, "SIGALRM")
    for name, data in zoo.items():
        assert read(name, data, folder) or name == "lzma.zip", name
    good = 0
    for number, (name, data) in enumerate(mutations(zoo, seed, count)):
        try:
            good += read(name, data, folder) > 0
        except Exception as error:
            raise AssertionError(f"seed {seed}, mutation {number} of {name}: {error!r}") from error
    assert 0.1 < good / count < 0.9, "the damage is too little or too much to test anything"
