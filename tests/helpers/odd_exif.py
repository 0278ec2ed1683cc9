"""EXIF as clumsy editors and flipped bits leave it: Pillow reads most of it and cannot write it again."""

import struct


def _directory(*entries, more=b""):
    """A little-endian TIFF header and one directory of (tag, type, count, 4 bytes)."""
    body = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + more


_UPRIGHT = (0x0112, 3, 1, b"\x01\0\0\0")
_AFTER = struct.pack("<I", 8 + 2 + 12 * 2 + 4)

ODD_EXIF = {
    "bytes for text": _directory((0x010F, 7, 4, b"Acme"), _UPRIGHT),
    "two short resolutions": _directory((0x011A, 3, 2, struct.pack("<2H", 72, 72)), _UPRIGHT),
    "negative orientation": _directory((0x0112, 9, 1, struct.pack("<i", -1)), (0x010E, 2, 4, b"abc\0")),
    "orientation as text": _directory((0x0112, 2, 2, b"6\0\0\0")),
    "unknown type": _directory((0x010E, 99, 1, b"abc\0"), _UPRIGHT),
    "pointer beyond the end": _directory((0x8769, 4, 1, struct.pack("<I", 60000)), _UPRIGHT),
    "GPS is the main directory": _directory((0x8825, 4, 1, struct.pack("<I", 8)), _UPRIGHT),
    "division by zero": _directory((0x011A, 5, 1, _AFTER), _UPRIGHT, more=struct.pack("<2I", 72, 0)),
    "negative fraction": _directory((0x011A, 10, 1, _AFTER), _UPRIGHT, more=struct.pack("<2i", -72, 1)),
    "pointer as text": _directory((0x8769, 2, 4, b"abc\0"), _UPRIGHT),
    "resolution as text": _directory((0x011A, 2, 4, b"72\0\0"), _UPRIGHT),
    "number as text": _directory((0x0109, 2, 4, b"abc\0"), _UPRIGHT),
    "text as number": _directory((0x0131, 3, 1, b"\x05\0\0\0"), _UPRIGHT),
    "nothing": b"",
    "only a header": b"II*\0",
    "no TIFF": b"hello, EXIF",
}
