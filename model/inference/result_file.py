"""Metadata of a result's file: EXIF and colour profile of the source, and the provenance of the result; writing and reading it.

Metadata is optional. It is tried before the work, on an image of one pixel; what cannot be written is left out with a note.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ... import __version__
from ...errors import printable
from ...pipeline.decoding.exif import DESCRIPTION, EXIF_IFD, SOFTWARE
from ...pipeline.decoding.image_data import ImageData
from ..infer_config import InferConfig

if TYPE_CHECKING:
    from .upscaler import Upscaler

_WIDTH, _HEIGHT = 0xA002, 0xA003  # of the image, inside the Exif directory
_MAX_EXIF = {"JPEG": 65_533}  # bytes: one APP1 segment


@dataclass(frozen=True)
class Metadata:
    """Metadata that is written with the pixels."""

    exif: bytes = b""
    icc: bytes | None = None
    text: tuple[tuple[str, str], ...] = ()
    """PNG keywords and their text."""


def plan_metadata(
    source: ImageData | None,
    origin: Mapping[str, str],
    *,
    kind: str,
    size: tuple[int, int],
    encode: Callable[[Metadata], object],
) -> tuple[Metadata, list[str]]:
    """The metadata that can be written, and notes on what cannot.

    Args:
        source: its EXIF and colour profile are kept.
        origin: how the image was made: PNG text, or EXIF's Software (and ImageDescription, unless the source has one) in other formats.
        kind: Pillow's name of the format.
        size: (width, height) of the result.
        encode: encodes a tiny image with metadata; an exception means that the metadata cannot be written.
    """
    notes: list[str] = []
    text = tuple(origin.items()) if kind == "PNG" else ()
    in_exif = {} if kind == "PNG" else origin
    exif = b""
    if source is not None and len(source.exif):
        exif, reason = _tried(lambda: _exif(source.exif, size, in_exif), kind, encode)
        notes += [f"its EXIF could not be kept ({reason})"] if reason else []
    if not exif and in_exif:
        exif, reason = _tried(lambda: _exif(Image.Exif(), size, in_exif), kind, encode)
        notes += [f"how it was made could not be written into it ({reason})"] if reason else []
    icc = source.icc if source is not None else None
    if icc and (reason := _problem(lambda: encode(Metadata(icc=icc)))):
        notes, icc = [*notes, f"its colour profile could not be kept ({reason})"], None
    if text and (reason := _problem(lambda: encode(Metadata(text=text)))):
        notes, text = [*notes, f"how it was made could not be written into it ({reason})"], ()
    return Metadata(exif, icc, text), notes


def _tried(make: Callable[[], bytes], kind: str, encode: Callable[[Metadata], object]) -> tuple[bytes, str]:
    """(EXIF, "") if it can be written, else (b"", reason)."""
    made: list[bytes] = []
    reason = _problem(lambda: made.append(make())) or _problem(lambda: encode(Metadata(made[0])))
    most = _MAX_EXIF.get(kind)
    if not reason and most is not None and len(made[0]) > most:
        reason = f"{len(made[0])} bytes, {kind} holds {most}"
    return (b"", reason) if reason else (made[0], "")


def _problem(work: Callable[[], object]) -> str:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds of exceptions, and metadata is no reason to lose a result
        return printable(" ".join(str(error).split()))[:100] or type(error).__name__
    return ""


def _exif(source: Image.Exif, size: tuple[int, int], origin: Mapping[str, str]) -> bytes:
    """The source's EXIF with the new size and the provenance."""
    exif = Image.Exif()
    if len(source):
        exif.load(source.tobytes())
        inner = exif.get_ifd(EXIF_IFD)
        for tag, value in zip((_WIDTH, _HEIGHT), size, strict=True):
            if tag in inner:
                inner[tag] = value
    if origin:
        exif[SOFTWARE] = in_one_line(origin)
        exif.setdefault(DESCRIPTION, origin.get("Description", ""))
    return exif.tobytes() if len(exif) else b""


def in_one_line(origin: Mapping[str, str]) -> str:
    """The provenance as one line of ASCII, for EXIF."""
    return "; ".join(f"{name}: {value}" for name, value in origin.items()).encode("ascii", "replace").decode()


def has_provenance(path: Path, origin: Mapping[str, str]) -> bool:
    """Whether a complete PNG, JPEG or WebP file holds this provenance, as `image_io.save_image` writes it. Pixels are not decoded."""
    written = _read_provenance(path)
    return origin.items() <= written.items() if isinstance(written, Mapping) else written == in_one_line(origin)


def is_result(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP file holds provenance of `samdiff infer`."""
    written = _read_provenance(path)
    return "samdiff-model" in written if isinstance(written, Mapping) else "; samdiff-model: " in str(written)


def _read_provenance(path: Path) -> Mapping[str, object] | object:
    """A PNG's text by keyword, other formats' EXIF Software; empty for a file that is damaged or has none."""
    try:
        if not path.is_file():
            return {}
        if path.suffix.lower() in (".tif", ".tiff"):
            return _software_of_tiff(path)
        if not _has_end(path):
            return {}
        # Image.open refuses large results as decompression bombs, and Pillow's own class for WebP does too.
        if path.suffix.lower() == ".png":
            with PngImageFile(path) as image:
                return dict(image.info)
        if path.suffix.lower() == ".webp":
            exif = Image.Exif()
            exif.load(_exif_of_webp(path))
        else:
            with JpegImageFile(path) as image:
                exif = image.getexif()
        return exif.get(SOFTWARE)
    except Exception:  # noqa: BLE001 - damaged, or of another format than its suffix: Pillow raises many kinds of exceptions
        return {}


def _software_of_tiff(path: Path) -> object:
    """Software of the first directory, whatever the samples are; Pillow has no mode for many of them."""
    with path.open("rb") as file:
        head = file.read(16)
        directory = ImageFileDirectory_v2(head if head[2:4] in (b"+\0", b"\0+") else head[:8])
        file.seek(directory.next)
        directory.load(file)
        return directory.get(SOFTWARE)


def _exif_of_webp(path: Path) -> bytes:
    """The EXIF chunk of a RIFF file; empty if it has none."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"EXIF":
                return file.read(size)
            file.seek(size + size % 2, io.SEEK_CUR)
    return b""


def _has_end(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP file has its end marker: a truncated copy holds the same metadata as the complete file."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 12))
        tail = file.read()
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 == size
    return tail.endswith((b"IEND\xaeB`\x82", b"\xff\xd9"))


def provenance(model: Upscaler, settings: InferConfig) -> dict[str, str]:
    """How a result was made: PNG keywords and their text."""
    settings = model.resolve(settings)
    plan = model.sampling_plan(settings)
    if plan is None:
        how = "one step"
    elif settings.rrdb_only:
        how = "regression (RRDB)"
    else:
        how = f"{plan.sampler}, {len(plan.times)} steps, seed {settings.seed}"
        how += f", mean of {settings.num_samples} samples" if (settings.num_samples or 1) > 1 else ""
        how += f", realism {settings.realism + 0.0!r}" if settings.realism != 1 else ""
        how += f", started from the RRDB at t = {plan.first}" if settings.start == "rrdb" else ""
    how += ", made consistent with the input" if settings.back_project else ""
    how += f", tiles of {settings.tile} overlapping by {settings.overlap}" if settings.tile else ", no tiles"
    how += f", {'fp32' if settings.amp == 'off' else settings.amp}"
    return {
        "Software": f"samdiff {__version__}",
        "Description": f"Enlarged {model.scale} times; the detail is synthesised by a model and was not photographed.",
        "samdiff-model": f"{printable(Path(model.name).name)} sha256 {model.sha256[:16]}",
        "samdiff-settings": how,
    }
