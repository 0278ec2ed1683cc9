"""The samples of TIFF files that Pillow has no mode for (more than 8 bits, planes, further bands), through Pillow's own libtiff.

Lossless compression turns bytes into bytes, whatever they mean. So the same strips are described to the decoder as a grey image of bytes,
and the bytes are made into samples here. One decoder reads every TIFF file, in 8 bits and in 16. tifffile, which our tests compare with,
would need imagecodecs, a second set of decoders, for LZW.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from ...errors import ImageError
from .tiff_tags import CMYK, WHITE_IS_ZERO, TiffLayout

_BAND = 256  # rows: what is widened in between is taken for so many at once


def read_samples(data: bytes, layout: TiffLayout) -> np.ndarray:
    """The samples that are needed of a file's first page.

    Args:
        data: the whole file.
        layout: of `plan_tiff`, `by_pillow` false.

    Returns:
        [H, W, len(layout.used)] as stored: uint8, uint16 (9 to 16 bits) or float16/32/64, in native byte order, not turned.
    """
    if not layout.planar:
        samples = _decode(data, layout, plane=0, samples=layout.samples)
        return samples[..., list(layout.used)] if layout.used != tuple(range(layout.samples)) else samples
    return np.concatenate([_decode(data, layout, plane=plane, samples=1) for plane in layout.used], axis=2)


def _decode(data: bytes, layout: TiffLayout, plane: int, samples: int) -> np.ndarray:
    """[H, W, samples] of one plane, or of all samples side by side."""
    width, height = layout.tile or (layout.width, layout.rows_per_strip)
    across, down = -(-layout.width // width), -(-layout.height // height)
    row_bytes = (width * samples * layout.bits + 7) // 8
    shape = (down * height if layout.tile else layout.height, across * row_bytes)
    image = TiffImageFile(io.BytesIO(_described_as_bytes(data, layout, plane, shape=shape, row_bytes=row_bytes)))
    image.load()
    flat = np.asarray(image)
    parts = [
        _samples_of(flat[: layout.height, column * row_bytes : (column + 1) * row_bytes], layout, width=width, samples=samples)
        for column in range(across)
    ]
    whole = parts[0] if across == 1 else np.concatenate(parts, axis=1)
    return whole[:, : layout.width]


def _described_as_bytes(data: bytes, layout: TiffLayout, plane: int, *, shape: tuple[int, int], row_bytes: int) -> bytes:
    """The file with another directory: the strips or tiles of one plane as an 8-bit grey image. Offsets into the file stay as they are."""
    if len(data) >= 1 << 32:
        raise ImageError(f"TIFF of {layout.bits} bits and more than 4 GB; cut it into parts")
    down = -(-layout.height // (layout.tile[1] if layout.tile else layout.rows_per_strip))
    count = down * (-(-layout.width // layout.tile[0]) if layout.tile else 1)
    chosen = slice(plane * count, (plane + 1) * count)
    offsets, sizes = layout.offsets[chosen], layout.byte_counts[chosen]
    if len(offsets) < count or (len(sizes) < count and layout.compression != 1):
        raise ImageError("damaged TIFF file: it lists fewer strips or tiles than it has")
    rows = layout.tile[1] if layout.tile else layout.rows_per_strip
    for number, offset in enumerate(offsets):  # what lies beyond the end is not ours to decode
        there = min(rows, layout.height - number * rows) if not layout.tile else rows
        size = there * row_bytes if layout.compression == 1 else sizes[number]
        if offset + size > len(data):
            raise ImageError("damaged or cut off TIFF file: its samples go beyond its end")
    entries: dict[int, tuple[int, ...]] = {
        256: (shape[1],),
        257: (shape[0],),
        258: (8,),
        259: (layout.compression,),
        262: (1,),
        277: (1,),
    }
    if layout.tile:
        entries |= {322: (row_bytes,), 323: (layout.tile[1],), 324: offsets, 325: sizes}
    else:
        entries |= {273: offsets, 278: (layout.rows_per_strip,), 279: sizes}
    at = len(data) + len(data) % 2
    tail = at + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        place = packed if len(numbers) == 1 else struct.pack("<I", tail + len(values))
        values += packed if len(numbers) != 1 else b""
        directory += struct.pack("<HHI", tag, 4, len(numbers)) + place
    return b"II*\0" + struct.pack("<I", at) + data[8:] + bytes(len(data) % 2) + directory + bytes(4) + values


def _samples_of(rows: np.ndarray, layout: TiffLayout, width: int, samples: int) -> np.ndarray:
    """Bytes [H, row bytes] of a column of tiles -> [H, width, samples]."""
    rows, bits = np.ascontiguousarray(rows), layout.bits
    if layout.predictor not in ((1, 2, 3) if layout.floats else (1, 2) if bits % 8 == 0 else (1,)):
        raise ImageError(f"TIFF with predictor {layout.predictor} for {bits} bits, which is not read; save it again")
    if bits % 8:
        return _unpacked(rows, bits, width * samples).reshape(len(rows), width, samples)
    if layout.predictor == 3:
        return _floats_of_differences(rows, bits // 8, width=width, samples=samples)
    unsigned = rows.view(f"{layout.order}u{bits // 8}").astype(f"=u{bits // 8}", copy=False).reshape(len(rows), width, samples)
    if layout.predictor == 2:  # TIFF 6.0, section 14: differences to the pixel on the left, modulo 2^bits
        unsigned = np.cumsum(unsigned, axis=1, dtype=unsigned.dtype)
    return unsigned.view(f"=f{bits // 8}") if layout.floats else unsigned


def _unpacked(rows: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Samples of 9 to 15 bits, packed without gaps but for the row's end, highest bit first -> uint16 [H, count]."""
    out = np.empty((len(rows), count), np.uint16)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    for top in range(0, len(rows), _BAND):
        single = np.unpackbits(rows[top : top + _BAND], axis=1, count=count * bits)
        out[top : top + _BAND] = single.reshape(-1, count, bits) @ weights
    return out


def _floats_of_differences(rows: np.ndarray, size: int, width: int, samples: int) -> np.ndarray:
    """Predictor 3 (TIFF technical note 3): each row holds planes of bytes, the highest first, as differences to the byte `samples` before."""
    summed = np.cumsum(rows.reshape(len(rows), -1, samples), axis=1, dtype=np.uint8)
    planes = summed.reshape(len(rows), size, width * samples)
    joined = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{size}")
    return joined.astype(f"=f{size}").reshape(len(rows), width, samples)


def interpret(samples: np.ndarray, layout: TiffLayout) -> np.ndarray:
    """Samples -> grey, grey with alpha, RGB or RGBA; CMYK stays as it is.

    Args:
        samples: of `read_samples`.
        layout: likewise.

    Returns:
        uint8, uint16 (samples of 9 to 15 bits scaled to 65535) or float32, [H, W] if it is one band, else [H, W, 2 to 5]; black is 0.
    """
    if layout.floats:
        samples = samples.astype(np.float32)
    elif 8 < layout.bits < 16:
        top = (1 << layout.bits) - 1
        samples = ((samples.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
    colours = samples[..., : len(layout.colours)]
    if layout.photometric == WHITE_IS_ZERO:
        white = 1 if layout.floats else np.iinfo(samples.dtype).max
        samples = np.concatenate([white - colours, samples[..., len(layout.colours) :]], axis=2)
    if layout.associated:
        samples = _unassociated(samples)
    return samples[..., 0] if samples.shape[2] == 1 else samples


def _unassociated(samples: np.ndarray) -> np.ndarray:
    """Colours divided by the last band (TIFF 6.0, ExtraSamples 1), in bands of rows; black where it is 0."""
    out = samples.copy()
    top = 1.0 if samples.dtype.kind == "f" else float(np.iinfo(samples.dtype).max)
    for start in range(0, len(out), _BAND):
        rows = samples[start : start + _BAND].astype(np.float64)
        alpha = rows[..., -1:]
        colours = np.divide(rows[..., :-1] * top, alpha, out=np.zeros_like(rows[..., :-1]), where=alpha > 0).clip(0, top)
        out[start : start + _BAND, :, :-1] = colours if samples.dtype.kind == "f" else colours.round()
    return out


def is_cmyk(layout: TiffLayout) -> bool:
    """Whether the colours are inks."""
    return layout.photometric == CMYK
