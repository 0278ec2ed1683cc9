"""What a TIFF file's tags say of its samples, decided before anything is decoded: read, by whom, or refused by name. Pure.

Tags and values are those of TIFF 6.0 and its supplements; BigTIFF has the same ones.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from ...errors import ImageError

Tags = dict[int, tuple[int, ...]]
"""Tag -> its integers."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = 273, 274, 277, 278, 279, 284
PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 317, 322, 323, 324, 325
EXTRA, FORMAT, SUBFILE, INKS, COLOUR_MAP, SUB_IFDS, DNG = 338, 339, 254, 332, 320, 330, 50706
DESCRIPTION, NODATA, GEO = 270, 42113, (33550, 33922, 34264, 34735)
"""ImageDescription, GDAL's nodata, and what makes a GeoTIFF (OGC 19-008): pixel scale, tie points, transformation, keys."""
_MARKS, _MOST_TEXT = (DESCRIPTION, NODATA, *GEO), 256
_STRUCTURE = (
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP),
    *(STRIP_BYTES, PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, EXTRA, FORMAT, SUBFILE, INKS),
    *(COLOUR_MAP, SUB_IFDS, DNG),
)
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Types of integers -> struct's letters."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4}
"""Photometric interpretation -> samples of colour, for those whose samples are read one by one."""
_REFUSED_COLOURS = {
    4: "a transparency mask",
    8: "CIELab colours (LAB)",
    9: "ICCLab colours (LAB)",
    10: "ITULab colours (LAB)",
    32803: "raw camera data (CFA)",
    34892: "raw camera data (LinearRaw)",
    32844: "LogL values",
    32845: "LogLuv colours",
}
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""None, LZW, deflate, PackBits, deflate, LZMA, Zstandard: bytes in, bytes out, whatever the samples are."""
_PREDICTED = (5, 8, 32946, 34925, 50000)
"""Compressions to which the tag Predictor applies, as libtiff has it."""
_BY_PILLOW = (*_LOSSLESS, 2, 3, 4, 6, 7, 32771, 32809, 50001)
_COMPRESSIONS = {
    6: "old-style JPEG",
    7: "JPEG",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34676: "SGILog",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
ASSOCIATED, UNASSOCIATED = 1, 2


@dataclass(frozen=True)
class TiffLayout:
    """The samples of a TIFF file's first page, and what they mean."""

    width: int
    """In pixels."""
    height: int
    """In pixels."""
    bits: int
    """Per sample, the same for all."""
    floats: bool
    """Whether samples are IEEE floats; else they are unsigned."""
    samples: int
    """Per pixel."""
    photometric: int
    """One of the constants of this file."""
    colours: tuple[int, ...]
    """Indices of the samples that are colour."""
    alpha: int | None
    """Index of the sample that is alpha."""
    associated: bool
    """Whether colours are multiplied by alpha."""
    planar: bool
    """Whether each sample lies in strips of its own."""
    order: str
    """`<` or `>`, as of struct."""
    compression: int
    predictor: int
    """1 none, 2 horizontal differences, 3 floating point."""
    tile: tuple[int, int] | None
    """(width, height) of a tile; None: strips."""
    rows_per_strip: int
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    orientation: int
    by_pillow: bool
    """Whether Pillow's own interpretation is right for it."""
    decodable: bool
    """Whether `tiff_samples` can read it."""
    notes: tuple[str, ...] = ()
    """What is left out, or had to be assumed."""

    @property
    def used(self) -> tuple[int, ...]:
        """Indices of the samples that are needed."""
        return self.colours if self.alpha is None else (*self.colours, self.alpha)


def first_directory(data: bytes) -> tuple[str, Tags]:
    """(byte order, integers of the tags that describe the first page's structure). No other tag is looked at.

    Raises:
        ImageError: a tag occurs twice: decoders differ in which one they take.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_at, word, size, head, inline = (8, "Q", 20, 8, 8) if big else (4, "I", 12, 2, 4)
    (start,) = struct.unpack_from(f"{order}{word}", data, count_at)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    if start + head + count * size > len(data):
        raise ImageError("damaged or cut off TIFF file: its list of tags goes beyond its end")
    tags: Tags = {}
    seen: set[int] = set()
    for at in range(start + head, start + head + count * size, size):
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        if tag in seen:
            raise ImageError("damaged TIFF file: a tag occurs twice")
        seen.add(tag)
        (length,) = struct.unpack_from(f"{order}{word}", data, at + 4)
        place = at + 4 + struct.calcsize(word)
        if tag in _MARKS:
            (there,) = struct.unpack_from(f"{order}{word}", data, place)
            tags[tag] = tuple(data[there : there + min(length, _MOST_TEXT)]) if tag == DESCRIPTION else ()
        if tag not in _STRUCTURE or kind not in _TYPES:
            continue
        if length * _SIZES[kind] > inline:
            (place,) = struct.unpack_from(f"{order}{word}", data, place)
        if length * _SIZES[kind] > len(data) - place:
            if tag in (COLOUR_MAP, SUB_IFDS):
                continue
            raise ImageError("damaged or cut off TIFF file: a tag points beyond its end")
        tags[tag] = struct.unpack_from(f"{order}{length}{_TYPES[kind]}", data, place)
    return order, tags


def measured(tags: Tags) -> str:
    """What a file of measured values is, such as `GeoTIFF of 3 bands of 16 bits`; empty for an ordinary image, in 8 bits or for display."""
    text = bytes(tags.get(DESCRIPTION, ()))
    kind = "GeoTIFF" if any(tag in tags for tag in (*GEO, NODATA)) else "OME-TIFF" if b"<OME" in text else ""
    kind = kind or ("ImageJ TIFF" if text.startswith(b"ImageJ=") else "")
    bits, samples = (max(tags.get(tag, ()), default=1) for tag in (BITS, SAMPLES))
    colours = {RGB: 3, YCBCR: 3, CMYK: 4}.get(next(iter(tags.get(PHOTOMETRIC, ())), BLACK_IS_ZERO), 1)
    alpha = samples == colours + 1 and tags.get(EXTRA, ())[:1] in ((ASSOCIATED,), (UNASSOCIATED,))
    known = samples == colours or alpha
    if not kind or (bits <= 8 and known and NODATA not in tags):
        return ""
    nodata = " with a nodata value" if NODATA in tags else ""
    return f"{kind} of {samples} band{'s' * (samples != 1)} of {bits} bits{nodata}"


def plan_tiff(order: str, tags: Tags) -> TiffLayout:
    """Decide from the tags how a file's first page is read.

    Raises:
        ImageError: its samples are of a kind that is not read; the reason names it.
    """
    one = {tag: values[0] for tag, values in tags.items() if values}
    if WIDTH not in one or HEIGHT not in one:
        raise ImageError("damaged TIFF file: it does not state its size")
    compression, photometric = one.get(COMPRESSION, 1), _photometric(one)
    samples = one.get(SAMPLES, 3 if compression in (6, 7) and photometric in (RGB, YCBCR) else 1)
    if one.get(SUBFILE, 0) & 1 and (SUB_IFDS in tags or DNG in tags):
        raise ImageError("camera RAW or another TIFF file whose first page is only a preview; save the image itself as PNG")
    bits, sample_format = _bits(tags, samples), _sample_format(tags)
    _check_samples(bits, sample_format)
    if compression not in _BY_PILLOW:
        raise ImageError(
            f"TIFF compressed as {_COMPRESSIONS.get(compression, compression)}, which is not read; save it with LZW"
        )
    colours, alpha, associated, notes = _meaning(tags, photometric, samples)
    planar = one.get(PLANAR, 1) == 2 and samples > 1
    ordinary = bits <= 8 and sample_format != FLOAT
    extras = samples - (3 if photometric == YCBCR else _COLOURS.get(photometric, 1))
    by_pillow = ordinary and (
        photometric not in _COLOURS or bits < 8 or compression not in _LOSSLESS or (extras <= 0 and not planar)
    )
    if ordinary and bits < 8 and samples > 1:
        raise ImageError(f"TIFF with {samples} samples of {bits} bits, which is not read; save it with 8 or 16 bits")
    if not by_pillow:
        _check_decodable(bits, photometric, compression=compression, fill_order=one.get(FILL_ORDER, 1))
    tile = (one[TILE_WIDTH], one[TILE_HEIGHT]) if TILE_WIDTH in one and TILE_HEIGHT in one else None
    return TiffLayout(
        width=one[WIDTH],
        height=one[HEIGHT],
        bits=bits,
        floats=sample_format == FLOAT,
        samples=samples,
        photometric=photometric,
        colours=colours,
        alpha=alpha,
        associated=associated,
        planar=planar,
        order=order,
        compression=compression,
        predictor=one.get(PREDICTOR, 1) if compression in _PREDICTED else 1,
        tile=tile,
        rows_per_strip=min(one.get(ROWS_PER_STRIP, one[HEIGHT]), one[HEIGHT]),
        offsets=tags.get(TILE_OFFSETS if tile else STRIP_OFFSETS, ()),
        byte_counts=tags.get(TILE_BYTES if tile else STRIP_BYTES, ()),
        orientation=one.get(ORIENTATION, 1),
        by_pillow=by_pillow,
        decodable=bits >= 8 and photometric in _COLOURS and compression in _LOSSLESS and one.get(FILL_ORDER, 1) == 1,
        notes=notes,
    )


def _photometric(one: dict[int, int]) -> int:
    if one.get(COMPRESSION) == 6:  # old-style JPEG: most certainly YCbCr
        return YCBCR
    if PHOTOMETRIC not in one:
        raise ImageError("TIFF that does not state what its samples mean (no PhotometricInterpretation); save it as PNG")
    photometric = one[PHOTOMETRIC]
    if photometric in _REFUSED_COLOURS:
        raise ImageError(f"{_REFUSED_COLOURS[photometric]}, which are not supported; save it as RGB")
    if photometric not in (*_COLOURS, PALETTE, YCBCR):
        raise ImageError(f"TIFF with colours of the unknown kind {photometric}; save it as RGB")
    if photometric == CMYK and one.get(INKS, 1) != 1:
        raise ImageError("TIFF with inks other than CMYK, which are not supported; save it as RGB")
    return photometric


def _bits(tags: Tags, samples: int) -> int:
    bits = set(tags.get(BITS, (1,))[: max(1, samples)])
    if len(bits) != 1:
        raise ImageError(f"TIFF whose samples have different numbers of bits ({tags[BITS][:8]}); save it with 8 or 16 bits")
    return bits.pop()


def _sample_format(tags: Tags) -> int:
    kinds = set(tags.get(FORMAT, (UNSIGNED,)))
    if len(kinds) != 1:
        raise ImageError("TIFF whose samples are of different kinds; save it with 8 or 16 bits")
    kind = kinds.pop()
    return UNSIGNED if kind in (0, UNDEFINED) else kind  # TIFF 6.0: treated as if the field were not present


def _check_samples(bits: int, kind: int) -> None:
    many = f"of more than 16 bits ({bits})" if bits > 16 else f"of {bits} bits"
    if kind == SIGNED:
        raise ImageError(f"signed integers {many}, whose range is not known; save it with 8 or 16 bits")
    if kind not in (UNSIGNED, FLOAT):
        raise ImageError("complex numbers, which are no image; save it with 8 or 16 bits")
    if kind == UNSIGNED and bits > 16:
        raise ImageError(f"integers {many}, whose range is not known; save it with 8 or 16 bits")
    if kind == FLOAT and bits not in (16, 32, 64):
        raise ImageError(f"floats of {bits} bits, which are not read; save it with 8 or 16 bits")
    if kind == UNSIGNED and bits < 8 and bits not in (1, 2, 4):
        raise ImageError(f"TIFF with {bits} bits per sample, which is not read; save it with 8 or 16 bits")


def _meaning(tags: Tags, photometric: int, samples: int) -> tuple[tuple[int, ...], int | None, bool, tuple[str, ...]]:
    """(indices of colours, index of alpha, whether it is associated, notes)."""
    n = _COLOURS.get(photometric, 3 if photometric == YCBCR and samples > 1 else 1)
    if samples < n:
        raise ImageError(f"damaged TIFF file: {samples} samples per pixel where its colours need {n}")
    kinds = tags.get(EXTRA, ())[: samples - n]
    if not kinds and samples == n + 1 and n > 1:  # as Pillow and libtiff take it
        return tuple(range(n)), n, False, ("its last band, which the file does not describe, was taken for alpha",)
    alpha = next((n + k for k, kind in enumerate(kinds) if kind in (ASSOCIATED, UNASSOCIATED, 999)), None)  # 999: CorelDRAW
    associated = alpha is not None and kinds[alpha - n] == ASSOCIATED
    left = samples - n - (alpha is not None)
    if n == 1 and left > 1 and photometric != PALETTE:
        raise ImageError(f"TIFF of {samples} bands that are not declared as red, green and blue; save the three to use as RGB")
    if associated and photometric in (WHITE_IS_ZERO, CMYK):
        raise ImageError("premultiplied alpha with colours in which white is zero, which is not read; save it as RGB")
    which = {2: "a second band", 4: "a fourth band", 5: "a fifth band"}.get(samples, "a band") if left == 1 else f"{left} bands"
    note = (f"{which} that is no alpha was left out" if left == 1 else f"{which} that are no alpha were left out",)
    return tuple(range(n)), alpha, associated, note if left else ()


def _check_decodable(bits: int, photometric: int, compression: int, fill_order: int) -> None:
    what = f"TIFF with {bits} bits per sample"
    if photometric not in _COLOURS:
        raise ImageError(
            f"{what} and a {'palette' if photometric == PALETTE else 'YCbCr'} of colours, which is not read; save it as RGB"
        )
    if compression not in _LOSSLESS:
        raise ImageError(
            f"{what} compressed as {_COMPRESSIONS.get(compression, compression)}, which is not read; save it with LZW"
        )
    if fill_order != 1:
        raise ImageError(f"{what} and its bits in reverse order (FillOrder 2), which is not read; save it again")


def check_tile(layout: TiffLayout, max_pixels: float) -> None:
    """Decoders take a buffer for one tile, whatever its size, and of all samples.

    Args:
        layout: of the file.
        max_pixels: most pixels of an image.

    Raises:
        ImageError: a tile that is much larger than its image, or more bands than memory is taken for.
    """
    area = math.prod(layout.tile or (1,))
    if area > max(4 * layout.width * layout.height, 1 << 20) and area > max_pixels / 8:
        raise ImageError(f"damaged TIFF file: tiles of {area} pixels in an image of {layout.width} x {layout.height}")
    if layout.width * layout.height * layout.samples * layout.bits > 64 * max_pixels:
        raise ImageError(
            f"TIFF of {layout.samples} bands of {layout.bits} bits, more than memory is taken for; save the three to use as RGB"
        )
