"""Bytes of a file of measured values -> its samples. Ordinary images are left to `pipeline.decoding`, unless their depth is kept too."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from ...errors import ImageError
from ..decoding.formats import TIFF, is_volume_name
from ..decoding.headers import check_size
from ..decoding.image_data import ReadConfig, decode_image, decoding
from ..decoding.tiff_tags import (
    COMPRESSION,
    FORMAT,
    GEO,
    NODATA,
    PHOTOMETRIC,
    RGB,
    SAMPLES,
    UNSIGNED,
    Tags,
    first_directory,
    measured,
)
from ..volumes.nifti import is_nifti, read_slice
from .dicom import SUFFIXES as DICOM_SUFFIXES
from .dicom import is_dicom, read_dicom
from .geotiff import read_geotiff
from .sample_format import RGB8, Band, SampleFormat
from .samples import Native, Place, Samples, differences, to_samples
from .tiff_arrays import read_tiff_arrays

_ADVICE = "raise --max-megapixels to use it"


def may_be_measured(name: str) -> bool:
    """Whether a file of this name may hold measured values, so that its content has to be looked at."""
    return PurePosixPath(name).suffix.lower() in (*TIFF.suffixes, *DICOM_SUFFIXES) or is_volume_name(name)


def read_native(data: bytes, name: str, *, keep: bool, max_pixels: float) -> Native | None:
    """A file of measured values; None for an ordinary image, unless `keep`.

    Args:
        data: the whole file.
        name: of the file.
        keep: whether ordinary images keep their samples too (`PixelConfig.keeps`).
        max_pixels: largest number of pixels.

    Raises:
        ImageError: damaged, too large, or samples of a kind that is not kept.
        MissingPackageError: the reader's package is not installed; says which extra has it.
    """
    tiff = data.startswith(TIFF.magic)
    if is_dicom(data) and (
        not tiff or PurePosixPath(name).suffix.lower() in DICOM_SUFFIXES
    ):  # its preamble may be that of a TIFF file
        with decoding("DICOM"):
            return read_dicom(data, max_pixels=max_pixels, advice=_ADVICE)
    if tiff:
        with decoding("TIFF"):
            _, tags = first_directory(data)
            geo = any(tag in tags for tag in (*GEO, NODATA))
            if geo and (keep or measured(tags)):
                return read_geotiff(data, max_pixels=max_pixels, advice=_ADVICE)
            if measured(tags) or (keep and not _is_image(tags)):
                return read_tiff_arrays(data, max_pixels=max_pixels, advice=_ADVICE)
    if is_nifti(data):
        return _slice(data, max_pixels)
    return _ordinary(data, name, max_pixels) if keep else None


def read_samples(data: bytes, name: str, format: SampleFormat, *, max_pixels: float) -> tuple[Samples, tuple[str, ...]]:
    """A file in the format of a store, and what reading changed.

    Raises:
        ImageError: it cannot be read, or does not fit the format.
        MissingPackageError: the reader's package is not installed.
    """
    native = read_native(data, name, keep=True, max_pixels=max_pixels)
    assert native is not None
    return to_samples(native, format), (*native.notes, *differences(native, format))


def _slice(data: bytes, max_pixels: float) -> Native:
    """A NIfTI file of one slice. Its values have no range of their own, so that it is measured unless it is given."""
    values, spacing, notes = read_slice(data)
    check_size(values.shape[1], values.shape[0], max_pixels=max_pixels, advice=_ADVICE)
    return Native(values[..., None], "NIfTI", (Band("1"),), place=Place(spacing=spacing), notes=tuple(notes), auto=True)


def _is_image(tags: Tags) -> bool:
    """Whether a TIFF file is an image that `decode_image` reads without leaving a band out."""
    one = {tag: values[0] for tag, values in tags.items() if values}
    colours = 3 if one.get(PHOTOMETRIC) == RGB else 1
    lossy = one.get(COMPRESSION, 1) in (6, 7)
    return lossy or (one.get(SAMPLES, 1) == colours and one.get(FORMAT, UNSIGNED) == UNSIGNED)


def _ordinary(data: bytes, name: str, max_pixels: float) -> Native:
    """An image for display with its own depth; transparent pixels are invalid."""
    image = decode_image(data, name, ReadConfig(max_pixels, _ADVICE, any_range=True))
    layers = image.pixels if image.pixels.ndim == 3 else image.pixels[..., None]
    alpha = layers[..., -1] if layers.shape[2] in (2, 4) else None
    colours = layers[..., : layers.shape[2] - (alpha is not None)]
    top = float(np.iinfo(layers.dtype).max) if layers.dtype.kind == "u" else 1.0
    if alpha is not None and alpha.max() == 0:
        raise ImageError("is transparent everywhere")
    return Native(
        np.ascontiguousarray(colours),
        "image",
        RGB8.bands if colours.shape[2] == 3 else (Band("grey"),),
        limits=(0.0, top),
        valid=None if alpha is None or alpha.min() == top else alpha == top,
        notes=image.notes,
    )
