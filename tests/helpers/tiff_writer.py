"""TIFF files by hand, with any tags: what no library writes."""

import struct
import zlib


def tiff_of(body, width, height, *, compression=1, bits=(8,), photometric=1, **tags):
    """One strip, little endian.

    Args:
        body: bytes of the samples, not compressed yet.
        width: in pixels.
        height: in pixels.
        compression: 1 or 8 (deflate).
        bits: BitsPerSample.
        photometric: its tag; None leaves it out.
        tags: more of them, such as `t338=(0,)`, each a tuple of integers, or bytes for text.
    """
    packed = zlib.compress(body) if compression == 8 else body
    entries = {256: (width,), 257: (height,), 258: bits, 259: (compression,), 273: (8,), 277: (len(bits),), 278: (height,)}
    entries[279] = (len(packed),)
    if photometric is not None:
        entries[262] = (photometric,)
    entries |= {int(name[1:]): value for name, value in tags.items()}
    start = 8 + len(packed) + len(packed) % 2
    tail, values, directory = start + 6 + 12 * len(entries), b"", struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        kind = 2 if isinstance(value, bytes) else 4
        raw = value if isinstance(value, bytes) else struct.pack(f"<{len(value)}I", *value)
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", tail + len(values))
        values += raw if len(raw) > 4 else b""
        directory += struct.pack("<HHI", tag, kind, len(value)) + place
    return b"II*\0" + struct.pack("<I", start) + packed + bytes(len(packed) % 2) + directory + bytes(4) + values
