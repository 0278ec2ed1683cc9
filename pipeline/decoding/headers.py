"""What a file's header states, read before a decoder may take memory for it; and files without their metadata."""

from __future__ import annotations

import re
import struct
import zlib

from ...errors import ImageError
from .formats import AVIF, HEIC, JPEG, JPEG2000, PNG, WEBP, ImageFormat

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
        check_size(width, height, max_pixels=max_pixels, advice=advice)
    elif known is JPEG:
        if data.count(b"\xff\xda") > _MAX_SCANS:
            raise ImageError(f"a JPEG file of more than {_MAX_SCANS} scans, made to keep decoders busy; save it again")
        _check_jpeg_kind(data)
    elif known is JPEG2000:
        width, height, _ = jpeg2000_size(data)
        check_size(width, height, max_pixels=max_pixels, advice=advice)


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


def without_metadata(data: bytes, known: ImageFormat) -> bytes | None:
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
    match = re.search(rb"\xff\x4f\xff\x51", data)
    if match is None or len(data) < match.start() + 44:
        raise ImageError("damaged or cut off JPEG 2000 file: it has no codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, match.start() + 8)
    return max(0, right - left), max(0, bottom - top), (data[match.start() + 42] & 0x7F) + 1


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


_PRIMARIES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # of ITU-T H.273, table 2: those that are wider than sRGB
_TRANSFERS = {16: "PQ", 18: "HLG"}  # of table 3: those of HDR
_MAX_PARTS = 2000  # boxes or chunks that are looked at; a grid of a large image has some hundred items


def colour_notes(data: bytes, known: ImageFormat) -> list[str]:
    """What the header states of bits and colours that decoding does not keep. Never raises: a damaged header gives no note.

    Args:
        data: the whole file; untrusted.
        known: its format. PNG's cICP chunk is read, and of AVIF and HEIC the properties of the primary item (ISO/IEC 23008-12).
    """
    depth, primaries, transfer = 8, 0, 0
    if known is PNG:
        primaries, transfer = _png_cicp(data)
    elif known in (AVIF, HEIC):
        depth, primaries, transfer = _heif_colour(data)
    notes = [f"{depth} bits reduced to 8"] if depth > 8 else []
    stated = [names[code] for names, code in ((_PRIMARIES, primaries), (_TRANSFERS, transfer)) if code in names]
    if stated:
        notes.append(f"its {'HDR' if transfer in _TRANSFERS else 'wide-gamut'} colours ({', '.join(stated)}) were read as sRGB")
    return notes


def _png_cicp(data: bytes) -> tuple[int, int]:
    """(primaries, transfer) of a PNG file's cICP chunk; zeros without a sound one before the pixels."""
    at = 8
    for _ in range(_MAX_PARTS):
        kind, size = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if kind == b"cICP":  # 4 bytes and their CRC; a damaged chunk states nothing
            sound = size == 4 and data[at + 12 : at + 16] == zlib.crc32(data[at + 4 : at + 12]).to_bytes(4, "big")
            return (data[at + 8], data[at + 9]) if sound else (0, 0)
        if len(kind) < 4 or kind == b"IDAT":
            break
        at += 12 + size
    return 0, 0


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, body) of the boxes in a range of ISO base media; ends where the structure does."""
    boxes: list[tuple[bytes, bytes]] = []
    at = 0
    while at + 8 <= len(data) and len(boxes) < _MAX_PARTS:
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = len(data) - at
        if size < head:
            break
        boxes.append((data[at + 4 : at + 8], data[at + head : at + size]))
        at += size
    return boxes


def _heif_colour(data: bytes) -> tuple[int, int, int]:
    """(bits per channel, primaries, transfer) of the primary item; 8, 0, 0 where they are not stated."""
    meta = dict(reversed(_boxes(dict(reversed(_boxes(data))).get(b"meta", b"")[4:])))
    iprp = dict(reversed(_boxes(meta.get(b"iprp", b""))))
    properties = _boxes(iprp.get(b"ipco", b""))
    pitm = meta.get(b"pitm", b"")
    chosen = _properties_of(int.from_bytes(pitm[4 : 6 if pitm[:1] == b"\0" else 8], "big"), iprp.get(b"ipma", b""))
    depth, primaries, transfer = 8, 0, 0
    for kind, body in (properties[k - 1] for k in chosen if 0 < k <= len(properties)):
        if kind == b"pixi" and len(body) > 5:
            depth = max(depth, *body[5 : 6 + body[4]])
        elif kind == b"av1C" and len(body) > 2 and body[2] & 0x40:
            depth = max(depth, 12 if body[2] & 0x20 else 10)
        elif kind == b"hvcC" and len(body) > 17:
            depth = max(depth, 8 + (body[17] & 7))
        elif kind == b"colr" and body[:4] == b"nclx" and len(body) >= 8:
            primaries, transfer = int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big")
    return (depth if depth <= 16 else 8), primaries, transfer


def _properties_of(item: int, ipma: bytes) -> list[int]:
    """Indices, from 1, of an item's properties (ISO/IEC 23008-12, 9.3)."""
    wide_id, wide_index = ipma[:1] > b"\0", bool(ipma[3:4] and ipma[3] & 1)
    at, step = 8, 2 if wide_index else 1
    for _ in range(min(int.from_bytes(ipma[4:8], "big"), _MAX_PARTS)):
        end = at + (4 if wide_id else 2)
        if end >= len(ipma):
            break
        count, owner = ipma[end], int.from_bytes(ipma[at:end], "big")
        at = end + 1 + count * step
        if owner == item:
            mask = 0x7FFF if wide_index else 0x7F
            return [int.from_bytes(ipma[k : k + step], "big") & mask for k in range(end + 1, at, step)]
    return []
