"""What a file's header states, read before a decoder may take memory for it; and files without their accessories."""

from __future__ import annotations

import re
import struct

from ...errors import ImageError
from .formats import JPEG, JPEG2000, PNG, WEBP, ImageFormat

MAX_SIDE = 1 << 20
"""Pixels; OpenCV reads no more."""
_MAX_SCANS = 500  # of a progressive JPEG, which has about ten: each costs a pass over all pixels

_PNG_ACCESSORIES = frozenset(
    (
        b"eXIf",
        b"iCCP",
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"tIME",
        b"pHYs",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"cICP",
        b"sBIT",
        b"hIST",
        b"bKGD",
    )
    + (b"sPLT", b"mDCV", b"cLLI", b"caBX")
)
"""Chunks without which the pixels are the same (PNG specification, third edition, chapter 11.3)."""


def check_size(width: int, height: int, max_pixels: float, advice: str) -> None:
    """ImageError for an image of too many pixels or too long a side.

    Args:
        width: in pixels.
        height: in pixels.
        max_pixels: most pixels.
        advice: what to do with a larger image.
    """
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than {max_pixels / 1e6:g} megapixels; {advice}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels: a side has at most {MAX_SIDE}; cut it into parts")


def check_header(data: bytes, known: ImageFormat, max_pixels: float, advice: str) -> None:
    """ImageError for a file whose decoder would take too much memory or time when it opens it, or that has a kind no decoder here reads.

    Args:
        data: the whole file.
        known: its format.
        max_pixels: most pixels.
        advice: what to do with a larger image.
    """
    if known is WEBP:  # libwebp allocates the canvas when it opens a file
        width, height = _webp_size(data)
        check_size(width, height, max_pixels, advice)
    elif known is JPEG:
        if data.count(b"\xff\xda") > _MAX_SCANS:
            raise ImageError(f"a JPEG file of more than {_MAX_SCANS} scans, made to keep decoders busy; save it anew")
        _check_jpeg_kind(data)
    elif known is JPEG2000:
        width, height, _ = jpeg2000_size(data)
        check_size(width, height, max_pixels, advice)


def _check_jpeg_kind(data: bytes) -> None:
    """Of the processes of T.81 table B.1, those that libjpeg-turbo decodes through Pillow: 8 bits, baseline to progressive."""
    for marker, body in _jpeg_segments(data)[0]:
        if marker == 0xF7:
            raise ImageError("JPEG-LS, a format that samdiff does not read; save it as PNG")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(body) and body[0] != 8:
                raise ImageError(f"a JPEG file with {body[0]} bits per channel, which is not read; save it as 16-bit PNG")
            if marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF):
                raise ImageError("a lossless or hierarchical JPEG file, which is not read; save it as PNG")
            return


def _jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """(marker, body) up to the first scan, and where the scan begins; cut short where the structure ends."""
    segments, at = [], 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + max(2, length)
    return segments, at


def without_accessories(data: bytes, known: ImageFormat) -> bytes | None:
    """The file without EXIF, profile and texts, its pixels untouched; None for formats where that is not done here."""
    if known is JPEG:
        segments, at = _jpeg_segments(data)
        keep = [(m, b) for m, b in segments if m not in (0xFE, *range(0xE1, 0xEE), 0xEF)]  # APP0 is JFIF, APP14 Adobe's colours
        return b"\xff\xd8" + b"".join(struct.pack(">BBH", 0xFF, m, len(b) + 2) + b for m, b in keep) + data[at:]
    if known is PNG:
        parts, at = [data[:8]], 8
        while at + 12 <= len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            if data[at + 4 : at + 8] not in _PNG_ACCESSORIES:
                parts.append(data[at:end])
            at = end
        return b"".join(parts)
    return None


def png_depth(data: bytes) -> int:
    """Bits per sample of a PNG file."""
    return data[24]


def jpeg2000_size(data: bytes) -> tuple[int, int, int]:
    """(width, height, bits of the first component) from the codestream's SIZ marker (T.800, A.5.1).

    Raises:
        ImageError: there is none.
    """
    found = re.search(rb"\xff\x4f\xff\x51", data)
    if found is None or len(data) < found.start() + 44:
        raise ImageError("damaged or cut off JPEG 2000 file: it has no codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, found.start() + 8)
    return max(0, right - left), max(0, bottom - top), (data[found.start() + 42] & 0x7F) + 1


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
