"""Results of measured values as files: TIFF with place, nodata and bands kept, or PNG of 8 or 16 bits. Written whole or not at all.

GeoTIFF is written by rasterio, TIFF without a place by tifffile. The file is planned before the work, so that a format that cannot hold the
result is known before hours are spent.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...errors import ImageError, missing_package, printable
from ...pipeline.images.archives import reason_of
from ...pipeline.scientific.read import read_samples
from ...pipeline.scientific.sample_format import SampleFormat
from ...pipeline.scientific.samples import Place, Samples
from ...pipeline.storage.outputs import write_output
from ...pipeline.storage.regular import read_regular
from .sample_pixels import outside_range

MAX_PIXELS = 50_000_000
"""Of an input."""
_MAX_BYTES = 64 * MAX_PIXELS
_TIFF, _PNG = (".tif", ".tiff"), ".png"


@dataclass(frozen=True)
class SampleFile:
    """An input file in a model's samples."""

    samples: Samples
    notes: tuple[str, ...]

    @property
    def values(self) -> np.ndarray:
        """Stored samples [H, W, C]."""
        return self.samples.values


def read_sample_file(path: Path, samples: SampleFormat) -> SampleFile:
    """A file in the samples of a model.

    Args:
        path: the file.
        samples: of the model; the file must have its bands and its type.

    Raises:
        ImageError: the file is missing, damaged, too large, or does not fit the model.
        MissingPackageError: the reader's package is not installed.
    """
    try:
        data = read_regular(path, _MAX_BYTES)
        found, notes = read_samples(data, path.name, samples, max_pixels=MAX_PIXELS)
    except ImageError as error:
        raise ImageError(f"{printable(path)}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{printable(path)}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise ImageError(f"{printable(path)}: cannot be read ({reason_of(error)})") from error
    share = outside_range(found.values, samples, found.valid)
    clipped = (f"{share:.2%} of the samples lie outside the model's range and were clipped",) if share > 0 else ()
    return SampleFile(found, (*notes, *clipped))


def check_target(path: Path, samples: SampleFormat) -> None:
    """ImageError unless the suffix is that of a format which holds these samples; MissingPackageError if its writer is missing."""
    suffix = path.suffix.lower()
    if suffix == _PNG and samples.dtype != "float32" and not samples.offset and samples.count in (1, 3):
        return
    if suffix not in _TIFF:
        raise ImageError(
            f"{printable(path)}: the results of this model ({samples.describe()}) are written as TIFF"
            f"{', or PNG for 1 or 3 bands of unsigned integers' if suffix == _PNG else ' or PNG'}; give a name ending in .tif"
        )
    try:
        import rasterio  # noqa: F401
    except ImportError:
        try:
            import tifffile  # noqa: F401
        except ImportError as error:
            raise missing_package(error, extra="geo", what="TIFF of measured values") from error


def write_samples(
    path: Path,
    values: np.ndarray,
    *,
    source: Samples,
    samples: SampleFormat,
    scale: int,
    origin: Mapping[str, str],
    overwrite: bool,
) -> list[str]:
    """Write a result, atomically. Returns notes on what the file cannot hold.

    Args:
        path: where; the suffix names the format.
        values: stored samples [s H, s W, C].
        source: the input: its place, and its pixels without data.
        samples: of the model.
        scale: s.
        origin: how the result was made, as text by name.
        overwrite: whether an existing file is replaced.

    Raises:
        ImageError: the file cannot be written, or exists already.
        MissingPackageError: the writer's package is not installed.
    """
    valid = None if source.valid is None else source.valid.repeat(scale, axis=0).repeat(scale, axis=1)
    raw = (values.astype(np.int32) - samples.offset).astype(np.int16) if samples.offset else values
    notes = []
    if samples.nodata is not None:
        raw = off_nodata(raw, samples.nodata)
        if valid is not None:
            raw[~valid] = samples.nodata
    elif valid is not None:
        notes.append("pixels without data hold the nearest valid value: the store states no nodata value")
    place = source.place.enlarged(scale)
    if path.suffix.lower() == _PNG:
        data = _png(raw)
        notes += ["PNG holds neither place nor nodata"] if place.known() or valid is not None else []
    else:
        data = _geotiff(raw, place, samples, origin) if place.crs or place.transform else _tiff(raw, place, samples, origin)
    try:
        write_output(path, data, overwrite)
    except ValueError as error:  # SamdiffError is one
        raise ImageError(str(error)) from error
    return notes


def off_nodata(values: np.ndarray, nodata: float) -> np.ndarray:
    """A copy in which no sample has the value that means no data: such samples get the next value (the one before, at the top of the type)."""
    moved = values.copy()
    if np.isnan(nodata):
        return moved
    if values.dtype.kind == "f":
        other = np.nextafter(values.dtype.type(nodata), values.dtype.type(np.inf))
    else:
        other = int(nodata) + (1 if nodata < np.iinfo(values.dtype).max else -1)
    moved[values == nodata] = other
    return moved


def upscale_raster(
    source: Path,
    target: Path,
    *,
    samples: SampleFormat,
    scale: int,
    upscale: Callable[[np.ndarray], np.ndarray],
    origin: Mapping[str, str],
    overwrite: bool,
) -> tuple[tuple[tuple[int, int], tuple[int, int]], tuple[str, ...]]:
    """Read a file, upscale it, and write the result.

    Args:
        source: the input.
        target: the output; its suffix names the format.
        samples: of the model.
        scale: s.
        upscale: stored samples [H, W, C] -> [s H, s W, C].
        origin: how the result was made.
        overwrite: whether an existing file is replaced.

    Returns:
        (width, height) of the input and of the output; what reading or writing changed.

    Raises:
        ImageError: the file cannot be read, does not fit the model, or its result cannot be written.
    """
    check_target(target, samples)
    file = read_sample_file(source, samples)
    height, width = file.values.shape[:2]
    result = upscale(file.values)
    lost = write_samples(target, result, source=file.samples, samples=samples, scale=scale, origin=origin, overwrite=overwrite)
    return ((width, height), (width * scale, height * scale)), (*file.notes, *lost)


def _png(values: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(values[..., ::-1]))
    assert done
    return data.tobytes()


def _geotiff(values: np.ndarray, place: Place, samples: SampleFormat, origin: Mapping[str, str]) -> bytes:
    try:
        from rasterio.io import MemoryFile
        from rasterio.transform import Affine
    except ImportError as error:
        raise missing_package(error, extra="geo", what="GeoTIFF") from error
    height, width, count = values.shape
    facts = {
        "crs": place.crs or None,
        "transform": Affine(*place.transform) if place.transform else None,
        "nodata": samples.nodata,
        "compress": "deflate",
        "predictor": 3 if values.dtype.kind == "f" else 2,
        "photometric": "RGB" if samples.names == ("red", "green", "blue") else "MINISBLACK",
        "BIGTIFF": "IF_SAFER",
    }
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", height=height, width=width, count=count, dtype=values.dtype.name, **facts) as file:
            file.write(np.moveaxis(values, -1, 0))
            for number, band in enumerate(samples.bands, start=1):
                file.set_band_description(number, band.name)
                if band.unit:
                    file.set_band_unit(number, band.unit)
            file.update_tags(TIFFTAG_SOFTWARE=_in_one_line(origin), TIFFTAG_IMAGEDESCRIPTION=origin.get("Description", ""))
        return bytes(memory.read())


def _tiff(values: np.ndarray, place: Place, samples: SampleFormat, origin: Mapping[str, str]) -> bytes:
    """Bands, units, range and spacing as JSON in ImageDescription."""
    try:
        import tifffile
    except ImportError as error:
        raise missing_package(error, extra="microscopy", what="TIFF") from error
    facts: dict[str, object] = {"description": origin.get("Description", ""), "bands": [vars(band) for band in samples.bands]}
    facts |= {"range": [list(pair) for pair in samples.ranges], "spacing_mm": place.spacing}
    if samples.nodata is not None:
        facts["nodata"] = (
            str(int(samples.nodata)) if float(samples.nodata).is_integer() else str(samples.nodata)
        )  # JSON has no NaN
    buffer = io.BytesIO()
    rgb = samples.names == ("red", "green", "blue")
    tifffile.imwrite(
        buffer,
        values if values.shape[2] > 1 else values[..., 0],
        photometric="rgb" if rgb else "minisblack",
        planarconfig="contig" if values.shape[2] > 1 else None,
        compression="zlib",
        predictor=values.dtype.kind != "f",
        description=json.dumps(facts),
        software=_in_one_line(origin),
        metadata=None,
    )
    return buffer.getvalue()


def _in_one_line(origin: Mapping[str, str]) -> str:
    """As `inference/result_file.py` writes it into EXIF, so that a resumed run recognises its results."""
    return "; ".join(f"{name}: {value}" for name, value in origin.items()).encode("ascii", "replace").decode()
