"""NIfTI-1 and NIfTI-2: header, and slices as NIfTI-1 files of one slice. Pure: bytes in, bytes and arrays out.

Of a header only the shape, the type, the spacing, the scaling and the place of the voxels are read. Descriptions, names of other files and
extensions, which may name a patient, are never looked at. A volume is streamed: memory is taken for one plane of it at a time.

Source: https://nifti.nimh.nih.gov/nifti-1 (nifti1.h), nifti2.h.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import ImageError
from ..decoding.formats import VOLUME_SUFFIXES as SUFFIXES
from .stream import PIECE, Stream, unpacked

HEADER = 540
"""Bytes that `header_of` needs: the length of a NIfTI-2 header."""
AXES = ("i", "j", "k")
"""The first, second and third axis of a file."""
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_CODES = {kind: code for code, kind in _TYPES.items()}
_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""Unit of space (bits 0 to 2 of xyzt_units) -> mm; unknown is taken for mm, as by other programs."""
MOST_SLICES = 100_000
"""Largest number of slices of a volume."""
MOST_UNPACKED = 1 << 38
"""Bound on the bytes that are unpacked for all slices of a packed volume: a quarter of an hour or more."""
_START = 352  # of the voxels in a file of one slice: the header, and four bytes that say there is no extension


@dataclass(frozen=True)
class Header:
    """What is read of a header."""

    shape: tuple[int, int, int]
    """Voxels along i, j and k; i varies fastest."""
    volumes: int
    """Number of volumes, such as points in time."""
    dtype: np.dtype
    """Of the stored voxels, with their byte order."""
    spacing: tuple[float, float, float]
    """Distance of voxels in mm; NaN where it is not stated."""
    start: int
    """Offset of the first voxel in the (uncompressed) file."""
    scaling: tuple[float, float]
    """Slope and intercept: value = slope * stored + intercept."""

    def slice_axis(self, wanted: str = "auto") -> int:
        """0, 1 or 2: the axis that is cut across. `auto`: the one with the largest spacing, the last of several."""
        if wanted != "auto":
            return AXES.index(wanted)
        if min(self.shape) == 1:
            return max(axis for axis in range(3) if self.shape[axis] == 1)
        known = [0.0 if math.isnan(distance) else round(distance, 4) for distance in self.spacing]
        return max(range(3), key=lambda axis: (known[axis], axis))


def is_nifti(data: bytes) -> bool:
    """Whether bytes are a NIfTI file of one part (`.nii`), not compressed."""
    return (
        data[344:348] == b"n+1\0"
        and data[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
        or data[4:12] == b"n+2\0\r\n\x1a\n"
        and data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    )


def header_of(head: bytes) -> Header:
    """The header from a file's first `HEADER` bytes, uncompressed.

    Raises:
        ImageError: no NIfTI file of one part, damaged, or voxels of a type that is not kept (complex, RGB, 64-bit integers).
    """
    if not is_nifti(head):
        raise ImageError("not a single-file NIfTI (.nii, .nii.gz); pairs of .hdr and .img are not read")
    order = "<" if head[0] in (0x5C, 0x1C) else ">"
    if head[4:5] == b"n" and len(head) >= HEADER:
        code = struct.unpack_from(f"{order}h", head, 12)[0]
        dims = struct.unpack_from(f"{order}8q", head, 16)
        distances = struct.unpack_from(f"{order}8d", head, 104)
        start, slope, intercept = struct.unpack_from(f"{order}qdd", head, 168)
        units = struct.unpack_from(f"{order}i", head, 500)[0]
    elif head[4:5] != b"n" and len(head) >= 348:
        code = struct.unpack_from(f"{order}h", head, 70)[0]
        dims = struct.unpack_from(f"{order}8h", head, 40)
        distances = struct.unpack_from(f"{order}8f", head, 76)
        start, slope, intercept = struct.unpack_from(f"{order}fff", head, 108)
        units = head[123]
    else:
        raise ImageError("NIfTI: cut off within its header")
    if not 1 <= dims[0] <= 7 or not all(1 <= size < 1 << 31 for size in dims[1 : dims[0] + 1]):
        raise ImageError("NIfTI: damaged header: invalid dimensions")
    if not (math.isfinite(start) and 0 <= start < 1 << 31):
        raise ImageError("NIfTI: damaged header: invalid offset of the voxels")
    if code not in _TYPES:
        raise ImageError(
            f"NIfTI of datatype {code}, which is not read (integers of up to 32 bits and floats are); convert it to float32"
        )
    sizes = [*dims[1 : dims[0] + 1], 1, 1, 1]
    known = [abs(x) * _MM.get(units & 7, 1.0) if math.isfinite(x) and x != 0 else math.nan for x in distances[1:4]]
    scaled = math.isfinite(slope) and slope != 0 and math.isfinite(intercept)
    return Header(
        shape=(sizes[0], sizes[1], sizes[2]),
        volumes=math.prod(sizes[3:]),
        dtype=np.dtype(_TYPES[code]).newbyteorder(order),  # type: ignore[arg-type]
        spacing=(known[0], known[1], known[2]),
        start=max(int(start), HEADER if head[4:5] == b"n" else _START),
        scaling=(float(slope), float(intercept)) if scaled else (1.0, 0.0),
    )


def checked_volume(pieces: Iterable[bytes], axis: str, most_bytes: float) -> tuple[Header, int]:
    """The header and the axis of the slices of a volume that is read to its end, so that damage anywhere is known before its first slice is used.

    Args:
        pieces: of the file, from its start.
        axis: see `Header.slice_axis`.
        most_bytes: bound on the bytes of a slice.

    Raises:
        ImageError: damaged, cut off, too large, or its slices take too long to unpack.
    """
    packed: list[bool] = []

    def noted() -> Iterator[bytes]:
        for piece in pieces:
            if piece and not packed:
                packed.append(piece[:2] == b"\x1f\x8b")
            yield piece

    stream = Stream(unpacked(noted()))
    head = stream.take(HEADER, least=0)
    header = header_of(head)
    across = header.slice_axis(axis)
    if problem := why_too_large(header, across, most_bytes):
        raise ImageError(problem)
    size = math.prod(header.shape) * header.dtype.itemsize
    if packed[:1] == [True] and size * header.shape[across] > MOST_UNPACKED:
        raise ImageError(
            f"NIfTI: each of its {header.shape[across]} slices is unpacked from {size / 1e9:.1f} GB, which takes too long; "
            "unpack the file (gunzip), or cut it into smaller ones"
        )
    stream.skip(header.start - len(head), before=head[header.start :])
    plane = math.prod(header.shape[:2]) * header.dtype.itemsize
    for _ in range(header.shape[2]):
        stream.take(plane)
    stream.drain((header.volumes - 1) * size + PIECE)  # other volumes, and padding
    return header, across


def why_too_large(header: Header, axis: int, most_bytes: float) -> str:
    """Why slices across an axis are not read, empty if they are: too many, or one plane of voxels has more bytes than `most_bytes`."""
    if header.shape[axis] > MOST_SLICES:
        return f"a NIfTI volume of {header.shape[axis]} slices, more than {MOST_SLICES}"
    size = max(math.prod(slice_size(header, axis)), header.shape[0] * header.shape[1]) * header.dtype.itemsize
    if size > most_bytes:
        return f"NIfTI: a slice of {size / 1e6:.0f} MB, more than the {most_bytes / 1e6:.0f} MB that an image may have"
    return ""


def slice_bytes(pieces: Iterable[bytes], axis: int, number: int, *, most_bytes: float = math.inf) -> bytes:
    """One slice of the first volume as a NIfTI-1 file of its own, in little-endian byte order.

    Args:
        pieces: of the file, from its start.
        axis: 0, 1 or 2, which is cut across.
        number: of the slice, from 0.
        most_bytes: bound on the bytes of a plane, checked before memory is taken.

    Returns:
        The same bytes for the same voxels, type, spacing and scaling, whatever else the header holds.

    Raises:
        ImageError: damaged, cut off or too large, or there is no such slice.
    """
    stream = Stream(unpacked(pieces))
    head = stream.take(HEADER, least=348)
    header = header_of(head)
    if problem := why_too_large(header, axis, most_bytes):
        raise ImageError(problem)
    stream.skip(header.start - len(head), before=head[header.start :])
    if not 0 <= number < header.shape[axis]:
        raise ImageError(f"NIfTI: has no slice {number} along axis {AXES[axis]}")
    width, height, depth = header.shape
    plane = width * height * header.dtype.itemsize
    if axis == 2:
        stream.skip(plane * number)
        values = np.frombuffer(stream.take(plane), header.dtype).reshape(height, width)
    else:
        rows = []
        for _ in range(depth):
            whole = np.frombuffer(stream.take(plane), header.dtype).reshape(height, width)
            rows.append(whole[number].copy() if axis == 1 else whole[:, number].copy())
        values = np.stack(rows)
    columns, lines = (other for other in range(3) if other != axis)
    return _file_of(values, spacing=(header.spacing[columns], header.spacing[lines]), scaling=header.scaling)


def slice_size(header: Header, axis: int) -> tuple[int, int]:
    """(width, height) of the slices across an axis."""
    columns, lines = (other for other in range(3) if other != axis)
    return header.shape[columns], header.shape[lines]


def slice_names(name: str, axis: int, header: Header, *, repeated: int = 1) -> list[str]:
    """The names of the slices as images: `brain.nii.gz` -> `brain_k007.nii`, with as many digits as the last one needs, at least 3.

    `repeated` tells volumes apart whose slices would have the same names: `brain (2)_k007.nii`.
    """
    stem = name[: -len(next(suffix for suffix in reversed(SUFFIXES) if name.lower().endswith(suffix)))]
    digits = max(3, len(str(header.shape[axis] - 1)))
    again = f" ({repeated})" if repeated > 1 else ""
    return [f"{stem}{again}_{AXES[axis]}{number:0{digits}}.nii" for number in range(header.shape[axis])]


def read_slice(data: bytes) -> tuple[np.ndarray, tuple[float, float] | None, list[str]]:
    """The values of a file of one slice, in the units of its scaling.

    Args:
        data: a whole, uncompressed NIfTI file of one slice.

    Returns:
        Values [H, W] as uint8, int16, uint16 or float32; the distance of rows and of columns in mm; notes.

    Raises:
        ImageError: damaged or cut off, more than one slice, or all samples are equal.
    """
    header = header_of(data[:HEADER])
    if header.volumes > 1 or min(header.shape) > 1:
        raise ImageError(
            f"a NIfTI volume of shape {[*header.shape, *([header.volumes] if header.volumes > 1 else [])]}; `samdiff prepare` reads "
            "its slices; elsewhere give one slice, as NIfTI or TIFF (docs/bands.md)"
        )
    axis = header.slice_axis()
    width, height = slice_size(header, axis)
    part = data[header.start : header.start + width * height * header.dtype.itemsize]
    if len(part) < width * height * header.dtype.itemsize:
        raise ImageError("NIfTI: cut off")
    stored = np.frombuffer(part, header.dtype).reshape(height, width)
    values, notes = _in_units(stored.astype(header.dtype.newbyteorder("=")), header.scaling)
    if values.size and (values == values.flat[0]).all():
        raise ImageError("all samples are equal, as in a slice outside of the body")
    columns, lines = (other for other in range(3) if other != axis)
    spacing = header.spacing[lines], header.spacing[columns]
    return values, None if any(map(math.isnan, spacing)) else spacing, notes


def _in_units(stored: np.ndarray, scaling: tuple[float, float]) -> tuple[np.ndarray, list[str]]:
    """Scaled values of a type that is stored, which depends on the header alone, so that all slices of a file have the same."""
    if scaling == (1.0, 0.0):
        small = {"int8": np.int16, "int32": np.float32, "uint32": np.float32, "float64": np.float32}
        kept = small.get(stored.dtype.name)
        notes = [f"{stored.dtype} reduced to float32"] if kept is np.float32 else []
        with np.errstate(over="ignore"):  # infinite samples are not valid
            return (stored if kept is None else stored.astype(kept)), notes
    with np.errstate(over="ignore"):
        return (stored.astype(np.float64) * scaling[0] + scaling[1]).astype(np.float32), []


def _file_of(values: np.ndarray, *, spacing: tuple[float, float], scaling: tuple[float, float]) -> bytes:
    """Values [H, W] as a NIfTI-1 file; spacing: of columns and of rows, in mm."""
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    height, width = plain.shape
    if max(height, width) > np.iinfo(np.int16).max:
        raise ImageError(f"NIfTI: a slice of {width} x {height} voxels; at most {np.iinfo(np.int16).max} a side")
    code = _CODES[f"{plain.dtype.kind}{plain.dtype.itemsize}"]
    distances = (1.0, *(0.0 if math.isnan(x) else x for x in spacing), 0.0, 0.0, 0.0, 0.0, 0.0)
    head = bytearray(_START)
    head[:4] = struct.pack("<i", 348)
    head[40:56] = struct.pack("<8h", *(2, width, height, 1, 1, 1, 1, 1))
    head[70:74] = struct.pack("<hh", code, 8 * plain.dtype.itemsize)
    head[76:108] = struct.pack("<8f", *distances)
    head[108:120] = struct.pack("<3f", *(_START, *scaling))
    head[123] = 2  # mm
    head[344:348] = b"n+1\0"
    return bytes(head) + plain.tobytes()
