"""A zoo of bad files, and how to make good ones of every kind."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image


def photo(height=48, width=64, seed=0):
    """A smooth random image, uint8 [H, W, 3]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).cumsum(0).cumsum(1)
    return np.clip(noise * 4 + 128, 0, 255).astype(np.uint8)


def file_of(image, kind, **options):
    """An image (array or Pillow's) as the bytes of a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def wide_file(pixels, suffix):
    """uint16 RGB or grey as a 16-bit file."""
    return cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


RGB = photo()
SMALL = photo(6, 8)


def chunk(kind, data):
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def declared(width, height, depth=8, colour=2):
    """A small PNG that claims to be of any size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def flipped(data, place):
    """One byte changed."""
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


def bomb(kind):
    """A file whose header claims 60,000 pixels a side (WebP: its largest)."""
    if kind == "png":
        return declared(60_000, 60_000)
    if kind == "webp":
        payload = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\x00" + b"\xff\xff\x00"
        return b"RIFF" + struct.pack("<I", len(payload) + 4) + b"WEBP" + payload
    if kind == "webp lossless":
        payload = b"VP8L" + struct.pack("<I", 10) + b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(5)
        return b"RIFF" + struct.pack("<I", len(payload) + 4) + b"WEBP" + payload
    data = bytearray(file_of(SMALL, {"jpeg": "JPEG", "bmp": "BMP", "gif": "GIF", "tiff": "TIFF"}[kind]))
    if kind == "jpeg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    else:
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in data else None
            short = struct.pack("<HHI", tag, 3, 1)
            at = data.index(short) if at is None else at
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 60_000)
    return bytes(data)


def unusual_tiff():
    """32-bit integers."""
    return file_of(Image.fromarray(np.arange(12, dtype=np.int32).reshape(3, 4)), "TIFF")


def float_tiff(value):
    """A grey float image with one odd value."""
    grey = np.full((3, 4), 0.5, np.float32)
    grey[1, 2] = value
    return file_of(grey, "TIFF")


FORMATS = {
    "png": file_of(SMALL, "PNG"),
    "jpg": file_of(SMALL, "JPEG"),
    "webp": file_of(SMALL, "WEBP", lossless=True),
    "tif": file_of(SMALL, "TIFF"),
    "bmp": file_of(SMALL, "BMP"),
    "gif": file_of(SMALL, "GIF"),
}

ZOO = {
    "empty.png": (b"", "0 bytes"),
    "text.png": (b"hello, this is no picture", "text ('hello, this is no pictur' …)"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "no image of a known format"),
    "noise.jpg": (np.random.default_rng(0).bytes(500), "no image of a known format"),
    "zeros.bmp": (bytes(300), "no image of a known format"),
    "heic.jpg": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
    "jpeg xl.png": (b"\xff\x0a" + bytes(40), "JPEG XL, a format that samdiff does not read; save it as PNG"),
    "photoshop.png": (b"8BPS\0\1" + bytes(40), "Photoshop, a format that samdiff does not read"),
    "video.jpg": (b"\0\0\0\x18ftypmp42" + bytes(40), "a video or other ISO media file"),
    "pdf.tif": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "no image of a known format"),
    "zip.png": (b"PK\x03\x04" + bytes(60), "no image of a known format"),
    "wave.webp": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), "no image of a known format"),
    **{f"only magic.{kind}": (data[:8], "damaged or cut off") for kind, data in FORMATS.items() if kind != "webp"},
    "only magic.webp": (FORMATS["webp"][:16], "damaged or cut off WebP"),
    **{f"half.{kind}": (data[: len(data) // 2], "damaged or cut off") for kind, data in FORMATS.items()},
    **{f"last bytes gone.{kind}": (data[:-9], "damaged or cut off") for kind, data in FORMATS.items()},
    **{
        f"bomb {kind}": (bomb(kind), "--max-megapixels")
        for kind in ("png", "webp", "webp lossless", "jpeg", "bmp", "gif", "tiff")
    },
    "bad checksum.png": (flipped(FORMATS["png"], 60), "damaged or cut off PNG"),
    "bad header.png": (flipped(FORMATS["png"], 20), "damaged or cut off PNG"),
    "no end.png": (FORMATS["png"][:-12], "damaged or cut off PNG"),
    "no pixels.png": (declared(8, 6)[:33] + chunk(b"IEND", b""), "damaged or cut off PNG"),
    "too few rows.png": (declared(640, 480), "damaged or cut off PNG"),
    "no width.png": (declared(0, 6), "damaged or cut off PNG"),
    "odd depth.png": (declared(8, 6, depth=3), "damaged or cut off PNG"),
    "nan.tif": (float_tiff(np.nan), "NaN"),
    "infinite.tif": (float_tiff(np.inf), "NaN or infinite"),
    "bright.tif": (float_tiff(1000.0), "floats from 0.5 to 1000"),
    "negative.tif": (float_tiff(-1.0), "floats from -1 to 0.5"),
    "integers.tif": (unusual_tiff(), "more than 16 bits"),
    "lab.tif": (file_of(Image.new("LAB", (8, 6)), "TIFF"), "LAB"),
    "half 16 bits.png": (wide_file(RGB.astype(np.uint16) * 257, ".png")[:3000], "damaged or cut off PNG"),
    "half 16 bits.tif": (wide_file(RGB.astype(np.uint16) * 257, ".tif")[:3000], "damaged or cut off TIFF"),
}


class NoMasks:
    """A segmenter that finds nothing, where masks are not the point."""

    def describe(self):
        return {"name": "none"}

    def generate_batch(self, images):
        for _ in images:
            yield []
