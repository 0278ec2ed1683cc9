"""The ONE table of image formats: which are read, by which reader, and the names of those that are not. A format is told by its content.

Light: neither Pillow nor numpy is imported before a file is opened.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ...errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    Opener = Callable[..., ImageFile]


@dataclass(frozen=True)
class ImageFormat:
    """A format that is read."""

    name: str
    """As people call it."""
    suffixes: tuple[str, ...]
    """Usual endings of file names, lower case; the first is the one to recommend."""
    reader: str
    """Module and attribute of Pillow's reader, called by name: `Image.open` tries dozens of formats, each with exceptions of its own."""
    magic: tuple[bytes, ...] = ()
    """First bytes; empty where `recognise` looks deeper."""
    feature: str = ""
    """What this build of Pillow must have, as `PIL.features` calls it."""
    remedy: str = ""
    """What to do where the reader is missing."""


_NEWER = "install a Pillow with this decoder (pip install -U pillow), or save it as PNG"

PNG = ImageFormat("PNG", suffixes=(".png",), reader="PIL.PngImagePlugin:PngImageFile", magic=(b"\x89PNG\r\n\x1a\n",))
JPEG = ImageFormat(
    "JPEG",
    suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
    reader="PIL.JpegImagePlugin:jpeg_factory",
    magic=(b"\xff\xd8\xff",),
    feature="jpg",
    remedy=_NEWER,
)
WEBP = ImageFormat(
    "WebP", suffixes=(".webp",), reader="PIL.WebPImagePlugin:WebPImageFile", magic=(), feature="webp", remedy=_NEWER
)
TIFF = ImageFormat(
    "TIFF",
    suffixes=(".tif", ".tiff"),
    reader="PIL.TiffImagePlugin:TiffImageFile",
    magic=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    feature="libtiff",
    remedy=_NEWER,
)
BMP = ImageFormat("BMP", suffixes=(".bmp", ".dib"), reader="PIL.BmpImagePlugin:BmpImageFile", magic=(b"BM",))
GIF = ImageFormat("GIF", suffixes=(".gif",), reader="PIL.GifImagePlugin:GifImageFile", magic=(b"GIF8",))
AVIF = ImageFormat(
    "AVIF",
    suffixes=(".avif",),
    reader="PIL.AvifImagePlugin:AvifImageFile",
    magic=(),
    feature="avif",
    remedy="install Pillow 11.3 or later, or save it as PNG",
)
HEIC = ImageFormat(
    "HEIC",
    suffixes=(".heic", ".heif", ".hif"),
    reader="pillow_heif:HeifImageFile",
    magic=(),
    feature="",
    remedy="pip install 'samdiff[heif]', or save it as PNG",
)
JPEG2000 = ImageFormat(
    "JPEG 2000",
    suffixes=(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    reader="PIL.Jpeg2KImagePlugin:Jpeg2KImageFile",
    magic=(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    feature="jpg_2000",
    remedy=_NEWER,
)
PNM = ImageFormat("PPM", suffixes=(".ppm", ".pgm", ".pbm", ".pnm"), reader="PIL.PpmImagePlugin:PpmImageFile")
TGA = ImageFormat("TGA", suffixes=(".tga", ".icb", ".vda", ".vst"), reader="PIL.TgaImagePlugin:TgaImageFile")

FORMATS = (PNG, JPEG, WEBP, TIFF, BMP, GIF, AVIF, HEIC, JPEG2000, PNM, TGA)
"""Every format that is read, by every command."""

SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes)
"""File names that count as images, in any case; what a file really is decides its content."""

MEASURED_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings of files of measured values only, which `prepare`, `masks` and `infer` read; see `pipeline.scientific`."""

VOLUME_SUFFIXES = (".nii", ".nii.gz")
"""Endings of volumes, whose slices `prepare` reads; see `pipeline.volumes`."""

UNREAD_SUFFIXES = {
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".wdp": "JPEG XR",
    ".jls": "JPEG-LS",
    ".psd": "Photoshop",
    ".psb": "Photoshop",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".pfm": "PFM",
    ".pam": "PAM",
    ".dds": "DDS",
    ".pcx": "PCX",
    ".sgi": "SGI",
    ".qoi": "QOI",
    ".ico": "ICO",
    ".xcf": "GIMP",
    ".fits": "FITS",
    ".rgb": "SGI",
    ".xbm": "X bitmap",
    ".xpm": "X pixmap",
    ".kra": "Krita",
    ".svg": "SVG",
    ".icns": "ICNS",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".rw2"), "camera RAW"),
    **dict.fromkeys((".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq"), "camera RAW"),
}
"""Endings of images that samdiff does not read -> the format's name, so that listings can name what they leave out."""

_UNREAD: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"8BPS", "Photoshop"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"PF\n", "PFM"),
    (0, b"Pf\n", "PFM"),
    (0, b"P7\n", "PAM"),
    (0, b"DDS ", "DDS"),
    (0, b"\x0a\x05\x01", "PCX"),
    (0, b"\x01\xda", "SGI"),
    (0, b"qoif", "QOI"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"icns", "ICNS"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1\0", "NIfTI"),
    (4, b"n+2\0", "NIfTI"),
    (0, b"FUJIFILMCCD-RAW", "camera RAW (Fujifilm)"),
    (0, b"IIU\0", "camera RAW (Panasonic)"),
    (0, b"IIRO", "camera RAW (Olympus)"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
)
"""Offset, bytes, name of image formats that are recognised so that the reason can name them."""

_NO_IMAGES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%!PS", "a PostScript document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
)

_BRANDS = ((("avif", "avis"), AVIF), (("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"), HEIC))
"""Brands of ISO/IEC 23008-12 (HEIF) -> format. An AVIF file may name `mif1` first, so AVIF is looked for first."""


def is_volume_name(name: str) -> bool:
    """Whether a file of this name holds a volume, by its ending."""
    return name.lower().endswith(VOLUME_SUFFIXES)


def recognise(data: bytes, name: str = "") -> ImageFormat:
    """The format of a file's bytes.

    Args:
        data: the whole file.
        name: the file's name; only TGA, which has no signature, needs it.

    Raises:
        ImageError: no image, or an image of a format that is not read, which is named.
    """
    if not data:
        raise ImageError("an empty file (0 bytes)")
    if (
        data[128:132] == b"DICM" and PurePosixPath(name).suffix.lower() in MEASURED_SUFFIXES
    ):  # its preamble may be that of a TIFF file
        raise _not_read("DICOM")
    if data[:2] == b"\x1f\x8b" and is_volume_name(name):
        raise _not_read("NIfTI")
    for known in FORMATS:
        if data.startswith(known.magic):
            return known
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] in (b" ", b"\t", b"\r", b"\n", b"#"):
        return PNM
    if _is_tga(data, name):
        return TGA
    unread = next((what for at, magic, what in _UNREAD if data[at : at + len(magic)] == magic), None)
    if unread is not None:
        raise _not_read(unread)
    raise ImageError(f"no image of a known format ({', '.join(known.name for known in FORMATS)}): {_looks_like(data)}")


def opener(known: ImageFormat) -> Opener:
    """Pillow's reader of a format.

    Raises:
        ImageError: it is not installed; says what to do.
    """
    from PIL import features

    module, _, attribute = known.reader.partition(":")
    try:
        if known.feature and not features.check(known.feature):
            raise ImportError(known.feature)
        reader: Opener = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ImageError(f"{known.name}, whose decoder is not installed; {known.remedy}") from error
    return reader


def suffix_note(known: ImageFormat, name: str) -> list[str]:
    """What is to be noted of a file whose name ends unlike its format's."""
    suffix = PurePosixPath(name).suffix.lower()
    return [] if suffix in known.suffixes else [f"named {suffix or 'without suffix'} but holds {known.name}"]


def _not_read(name: str) -> ImageError:
    if name in ("DICOM", "NIfTI"):
        return ImageError(
            f"{name}: measured values, which are no image for display; `samdiff prepare` keeps them (docs/bands.md)"
        )
    return ImageError(f"{name}, a format that samdiff does not read; save it as PNG")


def _of_brands(data: bytes) -> ImageFormat:
    """ISO base media: the major brand, then the compatible ones up to the end of the box."""
    end = max(16, min(int.from_bytes(data[:4], "big"), 512))
    listed = [data[at : at + 4].decode("latin-1") for at in (8, *range(16, end, 4))]
    for brands, known in _BRANDS:
        if any(brand in brands for brand in listed):
            return known
    if "jxl " in listed:
        raise _not_read("JPEG XL")
    if "crx " in listed:
        raise _not_read("camera RAW (Canon CR3)")
    raise ImageError(
        f"no image of a known format: a video or other ISO media file ({listed[0]!r}); extract the frames of a video into a folder, and give the folder"
    )


def _is_tga(data: bytes, name: str) -> bool:
    """TGA 2.0 has a footer; older files have a header that makes sense and a name that says so."""
    if len(data) < 18 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11) or data[16] not in (8, 15, 16, 24, 32):
        return False
    return data[-18:] == b"TRUEVISION-XFILE.\0" or PurePosixPath(name).suffix.lower() in TGA.suffixes


def _looks_like(data: bytes) -> str:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML)"
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "a drawing (SVG)"
    for magic, what in _NO_IMAGES:
        if data.startswith(magic):
            return what
    text = data[:64].isascii() and data[:64].decode("ascii").isprintable()
    return f"text ({data[:24].decode('ascii')!r} …)" if text else f"starts with {data[:8].hex(' ')}"
