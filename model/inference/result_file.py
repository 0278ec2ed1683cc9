"""What the file of a result carries besides its pixels: the source's EXIF and profile, and how it was made; and finding that again.

All of it is an accessory. It is tried before the work, on an image of one pixel; what cannot be written is left out with a note.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from ...errors import printable
from ...pipeline.decoding.exif import DESCRIPTION, EXIF_IFD, SOFTWARE
from ...pipeline.decoding.image_data import ImageData

_WIDTH, _HEIGHT = 0xA002, 0xA003  # of the image, inside the Exif directory
_MAX_EXIF = {"JPEG": 65_533}  # bytes: one APP1 segment


@dataclass(frozen=True)
class Accessories:
    """What is written beside the pixels."""

    exif: bytes = b""
    icc: bytes | None = None
    text: tuple[tuple[str, str], ...] = ()
    """PNG keywords and their text."""


def plan_accessories(
    source: ImageData | None,
    said: Mapping[str, str],
    *,
    kind: str,
    size: tuple[int, int],
    encode: Callable[[Accessories], object],
) -> tuple[Accessories, list[str]]:
    """What can be written beside the pixels, and notes of what cannot.

    Args:
        source: whose EXIF and profile are kept.
        said: how the image was made: PNG text, or EXIF's Software (and ImageDescription, if that is free) in other formats.
        kind: Pillow's name of the format.
        size: (width, height) of the result.
        encode: encodes a tiny image with accessories; whatever it raises means that they cannot be written.
    """
    notes: list[str] = []
    text = tuple(said.items()) if kind == "PNG" else ()
    in_exif = {} if kind == "PNG" else said
    exif = b""
    if source is not None and len(source.exif):
        exif, reason = _tried(lambda: _exif(source.exif, size, in_exif), kind, encode)
        notes += [f"its EXIF could not be kept ({reason})"] if reason else []
    if not exif and in_exif:
        exif, reason = _tried(lambda: _exif(Image.Exif(), size, in_exif), kind, encode)
        notes += [f"how it was made could not be written into it ({reason})"] if reason else []
    icc = source.icc if source is not None else None
    if icc and (reason := _problem(lambda: encode(Accessories(icc=icc)))):
        notes, icc = [*notes, f"its colour profile could not be kept ({reason})"], None
    if text and (reason := _problem(lambda: encode(Accessories(text=text)))):
        notes, text = [*notes, f"how it was made could not be written into it ({reason})"], ()
    return Accessories(exif, icc, text), notes


def _tried(make: Callable[[], bytes], kind: str, encode: Callable[[Accessories], object]) -> tuple[bytes, str]:
    """EXIF that can be written, and otherwise nothing and the reason."""
    made: list[bytes] = []
    reason = _problem(lambda: made.append(make())) or _problem(lambda: encode(Accessories(made[0])))
    most = _MAX_EXIF.get(kind)
    if not reason and most is not None and len(made[0]) > most:
        reason = f"{len(made[0])} bytes, {kind} holds {most}"
    return (b"", reason) if reason else (made[0], "")


def _problem(work: Callable[[], object]) -> str:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - Pillow raises whatever comes, and an accessory is no reason to lose a result
        return printable(" ".join(str(error).split()))[:100] or type(error).__name__
    return ""


def _exif(source: Image.Exif, size: tuple[int, int], said: Mapping[str, str]) -> bytes:
    """The source's EXIF with the new size, and what is said about the making."""
    exif = Image.Exif()
    if len(source):
        exif.load(source.tobytes())
        inner = exif.get_ifd(EXIF_IFD)
        for tag, value in zip((_WIDTH, _HEIGHT), size, strict=True):
            if tag in inner:
                inner[tag] = value
    if said:
        exif[SOFTWARE] = in_one_line(said)
        exif.setdefault(DESCRIPTION, said.get("Description", ""))
    return exif.tobytes() if len(exif) else b""


def in_one_line(said: Mapping[str, str]) -> str:
    """ASCII, as EXIF holds it."""
    return "; ".join(f"{name}: {value}" for name, value in said.items()).encode("ascii", "replace").decode()


def file_says(path: Path, said: Mapping[str, str]) -> bool:
    """Whether a PNG, JPEG or WebP file says all this, as `image_io.save_picture` writes it, and is not cut short; pixels stay unread."""
    found = _said_by(path)
    return said.items() <= found.items() if isinstance(found, Mapping) else found == in_one_line(said)


def is_result(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP file says that `samdiff infer` made it."""
    found = _said_by(path)
    return "samdiff-model" in found if isinstance(found, Mapping) else "; samdiff-model: " in str(found)


def _said_by(path: Path) -> Mapping[str, object] | object:
    """A PNG's text by keyword, other formats' EXIF Software; empty for a file that is damaged or says nothing."""
    try:
        if not path.is_file() or not _has_end(path):
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
    except Exception:  # noqa: BLE001 - damaged, or of another format than its name says: Pillow raises whatever comes
        return {}


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
    """Whether a PNG, JPEG or WebP file ends as it must: a copy that was broken off says all that the whole one says."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 12))
        tail = file.read()
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 == size
    return tail.endswith((b"IEND\xaeB`\x82", b"\xff\xd9"))
