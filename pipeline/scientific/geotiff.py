"""GeoTIFF through rasterio (GDAL): samples, names of bands, nodata and place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ImageError, missing_package, printable
from ..decoding.headers import check_size
from .sample_format import MOST_BANDS, Band
from .samples import Native, Place
from .tiff_arrays import BYTES_PER_PIXEL, known_type

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


def read_geotiff(data: bytes, *, max_pixels: float, advice: str) -> Native:
    """A GeoTIFF file.

    Args:
        data: the whole file.
        max_pixels: checked before pixels are decoded.
        advice: what to do with a larger image.

    Raises:
        ImageError: too large, too many bands, or samples of a kind that is not kept.
        MissingPackageError: rasterio is not installed.
        Exception: whatever GDAL raises on a damaged file.
    """
    try:
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise missing_package(error, extra="geo", what="GeoTIFF") from error
    with MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
        check_size(file.width, file.height, max_pixels=max_pixels, advice=advice)
        if file.count > MOST_BANDS or len(set(file.dtypes)) != 1:
            raise ImageError(
                f"GeoTIFF of {file.count} bands of {', '.join(sorted(set(file.dtypes)))}; at most {MOST_BANDS} of one type"
            )
        if file.width * file.height * file.count * np.dtype(file.dtypes[0]).itemsize > BYTES_PER_PIXEL * max_pixels:
            raise ImageError(
                f"GeoTIFF of {file.count} bands of {file.width} x {file.height} pixels: more than memory is taken for; {advice}"
            )
        colours = [colour.name for colour in file.colorinterp]
        used = [number for number, colour in enumerate(colours, start=1) if colour != "alpha"]
        values, notes = known_type(np.moveaxis(file.read(used), 0, -1))
        alpha = file.read(colours.index("alpha") + 1) if "alpha" in colours else None
        if any(scale != 1 for scale in file.scales) or any(offset != 0 for offset in file.offsets):
            notes.append("its scale and offset are not applied: the samples are kept as stored")
        return Native(
            values,
            "GeoTIFF",
            _bands(file, used, colours),
            nodata=file.nodata,
            valid=None if alpha is None else alpha > 0,
            place=_place(file),
            notes=tuple(notes),
        )


def _bands(file: DatasetReader, used: Sequence[int], colours: Sequence[str]) -> tuple[Band, ...]:
    """Descriptions where all bands have different ones, else red, green and blue, else numbers."""
    described = [printable(file.descriptions[number - 1] or "")[:80] for number in used]
    colour = [colours[number - 1] for number in used]
    numbers = [str(number) for number in used]
    rgb = colour if set(colour) == {"red", "green", "blue"} else numbers
    names = described if all(described) and len(set(described)) == len(used) else rgb
    units = [printable(file.units[number - 1] or "")[:80] for number in used]
    return tuple(Band(name, unit) for name, unit in zip(names, units, strict=True))


def _place(file: DatasetReader) -> Place:
    known = not file.transform.is_identity
    return Place(file.crs.to_wkt() if file.crs else "", tuple(file.transform)[:6] if known else None)
