"""TIFF of measured values through tifffile: OME-TIFF, ImageJ's files, bands that are no colours, signed and floating-point samples."""

from __future__ import annotations

import io
import re

import numpy as np

from ...errors import ImageError, MissingPackageError, missing_package, printable
from ..decoding.headers import check_size
from .sample_format import MOST_BANDS, Band
from .samples import STORED, Native, Place

BYTES_PER_PIXEL = 16
"""Memory is taken for so many bytes per pixel of the largest image: eight bands of 16 bits, and more bands of smaller images."""
_CHANNEL = re.compile(r'<Channel\b[^>]{0,2000}?\bName="([^"]{1,80})"')
_BITS = re.compile(r'\bSignificantBits="([0-9]{1,2})"')
_SIZE = re.compile(r'\bPhysicalSize([XY])="([0-9.eE+-]{1,30})"')
_UNIT = re.compile(r'\bPhysicalSizeXUnit="([^"]{1,10})"')
_MM = {"m": 1e3, "cm": 10.0, "mm": 1.0, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "nm": 1e-6}
"""Unit of length -> mm; micrometres are OME's default."""


def read_tiff_arrays(data: bytes, *, max_pixels: float, advice: str) -> Native:
    """The first image of a TIFF file: its first time and plane, with all channels as bands.

    Args:
        data: the whole file.
        max_pixels: checked before pixels are decoded.
        advice: what to do with a larger image.

    Raises:
        ImageError: too large, too many bands, or samples of a kind that is not kept.
        MissingPackageError: tifffile, or for a compressed file imagecodecs, is not installed.
        Exception: whatever tifffile raises on a damaged file.
    """
    try:
        import tifffile
    except ImportError as error:
        raise missing_package(error, extra="microscopy", what="TIFF of measured values") from error
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        sizes = dict(zip(series.axes, series.shape, strict=True))
        if "Y" not in sizes or "X" not in sizes:
            raise ImageError(f"TIFF with the axes {printable(series.axes)[:20]}; expected rows Y and columns X")
        check_size(sizes["X"], sizes["Y"], max_pixels=max_pixels, advice=advice)
        channels = [axis for axis in series.axes if axis in "CS" and sizes[axis] > 1]
        count = int(np.prod([sizes[axis] for axis in channels], dtype=np.int64))
        if count > MOST_BANDS or series.size * series.dtype.itemsize > BYTES_PER_PIXEL * max_pixels:
            raise ImageError(
                f"TIFF of shape {list(series.shape)}: more than memory is taken for; save one image with at most {MOST_BANDS} bands"
            )
        try:
            values = series.asarray()
        except (ValueError, ImportError) as error:
            if "imagecodecs" not in str(error):
                raise
            raise MissingPackageError(
                "compressed TIFF of measured values: needs the package imagecodecs, which is not installed; pip install 'samdiff[microscopy]'"
            ) from error
        ome = file.ome_metadata or ""
        kind = "OME-TIFF" if ome else "ImageJ TIFF" if file.is_imagej else "TIFF"
    values, notes = _planes(values, series.axes)
    values, more = known_type(values)
    bits = [int(bits) for bits in _BITS.findall(ome)]
    return Native(
        values,
        kind,
        _bands(_CHANNEL.findall(ome), values.shape[2]),
        limits=(0.0, float(2 ** max(bits) - 1)) if bits and values.dtype == np.uint16 and max(bits) <= 16 else None,
        place=Place(spacing=_spacing(ome)),
        notes=(*notes, *more),
    )


def known_type(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Values of a type that is stored, in native byte order, and notes. ImageError for another type."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype in (np.float64, np.float16):
        return values.astype(np.float32), [f"{values.dtype} reduced to float32"] if values.dtype == np.float64 else []
    if values.dtype.name not in STORED:
        raise ImageError(
            f"samples of {values.dtype}, which are not kept; expected {', '.join(STORED)} (GDAL: gdal_translate -ot UInt16)"
        )
    return values, []


def _planes(values: np.ndarray, axes: str) -> tuple[np.ndarray, list[str]]:
    """[H, W, C] of the first position along every other axis, and a note if there are more."""
    notes = []
    for axis in [axis for axis in axes if axis not in "YXCS"]:
        place = axes.index(axis)
        if values.shape[place] > 1:
            notes.append(f"the first of {values.shape[place]} along axis {axis}")
        values, axes = np.take(values, 0, axis=place), axes.replace(axis, "", 1)
    order = [axes.index("Y"), axes.index("X"), *(k for k, axis in enumerate(axes) if axis in "CS")]
    moved = values.transpose(order)
    return np.ascontiguousarray(moved.reshape(*moved.shape[:2], -1)), notes


def _bands(names: list[str], count: int) -> tuple[Band, ...]:
    named = len(names) == count == len(set(names))
    return tuple(Band(printable(names[k]) if named else str(k + 1)) for k in range(count))


def _spacing(ome: str) -> tuple[float, float] | None:
    """(row, column) in mm as the OME metadata state them."""
    found = dict(_SIZE.findall(ome))
    unit = _UNIT.search(ome)
    factor = _MM.get(unit[1], 0.0) if unit else 1e-3
    try:
        rows, columns = float(found["Y"]) * factor, float(found["X"]) * factor
    except (KeyError, ValueError):
        return None
    return (rows, columns) if rows > 0 and columns > 0 else None
