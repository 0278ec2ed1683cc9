"""Damaged files by the thousand, the same for the same seed: flips, cuts, splices and edited numbers over a small zoo of every format."""

import contextlib
import io
import re
import signal
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, features

from samdiff.errors import ImageError
from samdiff.model.inference.image_io import has_provenance, read_image_file, save_image
from samdiff.pipeline.images.decode import Limits, decode_rgb
from samdiff.pipeline.images.sources import SourceReader, check_archives, list_source

from .zoo import file_of, photo, wide_file

SECONDS = 10
"""No file may take longer; the largest of the zoo takes milliseconds."""
LIMITS = Limits(max_megapixels=20)
_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    32,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 20,
    0x7FFFFFFF,
    1 << 31,
    0xFFFFFFFF,
    1 << 63,
)


def image_zoo() -> dict[str, bytes]:
    """name.suffix -> a small whole file, of every format that is read and most of its kinds."""
    rgb, grey = photo(20, 28), photo(20, 28)[..., 0]
    wide = np.random.default_rng(0).integers(0, 65536, (12, 10, 4), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    exif.get_ifd(0x8769)[0xA002] = 28
    rgba = np.dstack([rgb, grey])
    frames = {"save_all": True, "append_images": [Image.fromarray(photo(20, 28, 1))]}
    cmyk, palette = Image.fromarray(rgb).convert("CMYK"), Image.fromarray(rgb).quantize(16)
    return {
        "rgb.png": file_of(rgb, "PNG", exif=exif, icc_profile=bytes(200)),
        "alpha.png": file_of(rgba, "PNG"),
        "palette.png": file_of(palette, "PNG", transparency=0),
        "frames.png": file_of(rgb, "PNG", **frames),
        "wide.png": wide_file(wide[..., :3], ".png"),
        "wide alpha.png": wide_file(wide, ".png"),
        "wide grey.png": wide_file(wide[..., 0], ".png"),
        "rgb.jpg": file_of(rgb, "JPEG", exif=exif, icc_profile=bytes(200)),
        "progressive.jpg": file_of(rgb, "JPEG", progressive=True),
        "cmyk.jpg": file_of(cmyk, "JPEG"),
        "lossy.webp": file_of(rgb, "WEBP", exif=exif),
        "lossless.webp": file_of(rgba, "WEBP", lossless=True),
        "frames.webp": file_of(rgb, "WEBP", **frames),
        "raw.tif": file_of(rgb, "TIFF", exif=exif),
        "grey.tif": file_of(grey, "TIFF"),
        "float.tif": file_of((grey / 255).astype(np.float32), "TIFF"),
        "pages.tif": file_of(rgb, "TIFF", **frames),
        "big.tif": file_of(rgb, "TIFF", big_tiff=True),
        "wide.tif": wide_file(wide[..., :3], ".tif"),
        "wide raw.tif": cv2.imencode(".tif", wide[..., 0], [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes(),
        **{f"{kind}.tif": file_of(rgb, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")},
        "rgb.bmp": file_of(rgb, "BMP"),
        "palette.bmp": file_of(palette, "BMP"),
        "rgb.gif": file_of(rgb, "GIF"),
        "frames.gif": file_of(rgb, "GIF", **frames),
        "rgb.tga": file_of(rgb, "TGA"),
        "packed.tga": file_of(rgba, "TGA", compression="tga_rle"),
        "rgb.ppm": file_of(rgb, "PPM"),
        "wide.pgm": file_of(Image.fromarray(wide[..., 0]), "PPM"),
        "rgb.jp2": file_of(rgb, "JPEG2000"),
        "wide.jp2": file_of(Image.fromarray(wide[..., 0]), "JPEG2000"),
        **({"rgb.avif": file_of(rgb, "AVIF", exif=exif)} if features.check("avif") else {}),
        **{f"{name}.tif": tiff for name, tiff in unusual_tiffs().items()},
    }  # fmt: skip


def unusual_tiffs() -> dict[str, bytes]:
    """TIFF files whose samples Pillow has no mode for."""
    wide = np.random.default_rng(1).integers(0, 65536, (12, 10, 4), dtype=np.uint16)
    planes = np.moveaxis(wide[..., :3], 2, 0)
    kinds = {
        "bands": (wide, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        "planes": (planes, {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib", "predictor": True}),
        "tiles": (wide, {"photometric": "rgb", "extrasamples": ["assocalpha"], "tile": (16, 16), "bigtiff": True}),
        "wide cmyk": (wide, {"photometric": "separated", "byteorder": ">"}),
    }
    made = {}
    for name, (pixels, options) in kinds.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **options)
        made[name] = buffer.getvalue()
    return made


def foreign_zoo() -> dict[str, bytes]:
    """Whole files of formats that are not read, named as if they were."""
    kinds = ["DDS", "PCX", "ICO", "SGI", "ICNS", "IM", "MSP", "XBM"]
    one_bit = Image.fromarray(photo(20, 28)[..., 0]).convert("1")
    return {f"{kind}.png": file_of(one_bit if kind in ("MSP", "XBM") else photo(20, 28), kind) for kind in kinds}


def archive_zoo() -> dict[str, bytes]:
    """name.suffix -> a small whole archive."""
    members = [(name, file_of(photo(6, 8, k), "PNG")) for k, name in enumerate(("a.png", "b/ü.png", f"{'long' * 35}/c.png"))]
    zoo = {}
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED), ("lzma", zipfile.ZIP_LZMA)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for member, data in members:
                archive.writestr(member, data)
        zoo[f"{name}.zip"] = buffer.getvalue()
    for name, mode, form in (
        ("pax.tar", "w", tarfile.PAX_FORMAT),
        ("gnu.tar", "w", tarfile.GNU_FORMAT),
        ("ustar.tar", "w", tarfile.USTAR_FORMAT),
        ("a.tar.gz", "w:gz", tarfile.PAX_FORMAT),
        ("a.tar.bz2", "w:bz2", tarfile.GNU_FORMAT),
        ("a.tar.xz", "w:xz", tarfile.PAX_FORMAT),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size, info.mtime = len(data), 1
                if form == tarfile.PAX_FORMAT:
                    info.pax_headers = {"size": str(len(data)), "comment": "c" * 40, "GNU.sparse.name": "s.png"}
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "a.png"
            archive.addfile(link)
        zoo[name] = buffer.getvalue()
    return zoo


def mutations(zoo: dict[str, bytes], seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """(name, damaged file), `count` of them, the kinds in turn."""
    names, others = list(zoo), list(zoo.values())
    for number in range(count):
        random = np.random.default_rng((seed, number))
        name = names[number % len(names)]
        data = bytearray(zoo[name])
        for _ in range(int(random.choice([1, 1, 1, 2, 4]))):
            _damage(data, others, random)
        if random.random() < 0.7:  # or most damage would end at a checksum
            data = bytearray(_with_checksums(name, bytes(data)))
        yield name, bytes(data)


def _damage(data: bytearray, others: list[bytes], random: np.random.Generator) -> None:
    if not data:
        return
    kind = random.choice(["flip", "number", "header", "tail", "text", "cut", "splice", "drop", "repeat"])
    place = int(random.integers(len(data)))
    length = int(min(len(data) - place, random.choice([1, 2, 4, 12, 100])))
    if kind == "flip":
        data[place] ^= 1 << int(random.integers(8))
    elif kind in ("number", "header", "tail"):
        size = int(random.choice([1, 2, 4, 8]))
        last = max(1, len(data) - size)
        first, end = {"header": (0, min(last, 160)), "tail": (max(0, last - 160), last), "number": (0, last)}[kind]
        place = int(random.integers(first, max(first + 1, end)))
        value = int(random.choice(_NUMBERS)) if random.random() < 0.7 else int(random.integers(1 << 32))
        new = (value % (1 << 8 * size)).to_bytes(size, "little" if random.random() < 0.5 else "big")
        data[place : place + size] = new
    elif kind == "text":  # tar headers and pax records are text
        digits = [match.start() for match in re.finditer(rb"[0-9]", bytes(data[:20000]))]
        if digits:
            data[int(random.choice(digits))] = int(random.choice(list(b"-0179 \0=\n\x80\xff")))
    elif kind == "cut":
        del data[place:]
    elif kind == "splice":
        other = others[int(random.integers(len(others)))]
        start = int(random.integers(len(other)))
        data[place : place + length] = other[start : start + int(random.choice([4, 30, 200]))]
    elif kind == "drop":
        del data[place : place + length]
    else:
        data[place:place] = data[place : place + length] * int(random.choice([1, 5]))


def _with_checksums(name: str, data: bytes) -> bytes:
    """The file with the checksums of its PNG chunks or tar headers made right, as far as its structure is whole."""
    if name.endswith(".png"):
        out, at = bytearray(data), 8
        while at + 12 <= len(data):
            end = at + 8 + int.from_bytes(data[at : at + 4], "big")
            if end + 4 > len(data):
                break
            out[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
            at = end + 4
        return bytes(out)
    if name.endswith(".tar"):
        out = bytearray(data)
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                total = sum(data[at : at + 148]) + 8 * 32 + sum(data[at + 156 : at + 512])
                out[at + 148 : at + 156] = f"{total:06o}\0 ".encode()
        return bytes(out)
    return data


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """AssertionError for what takes too long."""

    def ring(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_everywhere(name: str, data: bytes, folder: Path) -> int:
    """Read one image file as `prepare` and as `infer` do; returns how many gave pixels. Anything but pixels or an ImageError is raised."""
    good = 0
    path = folder / name
    path.write_bytes(data)
    with quickly():
        try:
            pixels = decode_rgb(data, name, LIMITS).pixels
            assert pixels.dtype == np.uint8, pixels.dtype
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            good += 1
        except ImageError as error:
            _check_message(error)
        assert not has_provenance(path, {"Software": "samdiff"})
        try:
            found = read_image_file(path)
            assert found.pixels.dtype in (np.uint8, np.uint16, np.float32)
            assert found.pixels.ndim == 2 or found.pixels.shape[2] in (2, 3, 4)
            grey = found.pixels.ndim == 2
            for suffix in (".png", ".jpg"):  # what was read beside the pixels can be written
                save_image(np.zeros((2, 3) if grey else (2, 3, 3), np.uint8), folder / f"out{suffix}", found, {"Software": "s"})
            good += 1
        except ImageError as error:
            _check_message(error)
    return good


def read_archive(name: str, data: bytes, folder: Path) -> int:
    """List an archive and read all that it holds; returns how many members could be read. Anything but an ImageError is raised."""
    path = folder / name
    path.write_bytes(data)
    good = 0
    with quickly():
        try:
            pictures = list_source(path, LIMITS)
            check_archives(pictures, LIMITS)
        except ImageError as error:
            _check_message(error)
            return 0
        with SourceReader() as source_reader:
            for picture in pictures:
                picture.name.encode()  # valid UTF-8
                assert not {"..", ""} & set(picture.name.split("/")), picture.name
                assert "\0" not in picture.name
                try:
                    source_reader.read(picture, LIMITS.max_bytes)
                    good += 1
                except ImageError as error:
                    _check_message(error)
    return good


def _check_message(error: ImageError) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert "not enough memory" not in text, text
    text.encode()  # goes into a store


def fuzz(zoo, read, folder, seed, count):
    """Read the zoo whole, then so many damaged files of it; AssertionError with the seed for any exception but an ImageError."""
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
