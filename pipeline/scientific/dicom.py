"""DICOM through pydicom: pixels in the units of their modality, and the distance of pixels. Nothing else of a file is kept.

A DICOM file names its patient. Only the tags of `_KEPT` are read, and neither notes nor messages quote any other.
"""

from __future__ import annotations

import io
import logging
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ImageError, missing_package, printable
from ..decoding.formats import MEASURED_SUFFIXES
from ..decoding.headers import check_size
from .sample_format import Band
from .samples import Native, Place

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAGIC_AT, MAGIC = 128, b"DICM"
SUFFIXES = MEASURED_SUFFIXES
CT_RANGE = (-1024.0, 3071.0)
"""HU that 12 bits hold; black and white of a CT store unless `--range` gives a window."""
_KEPT = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelSpacing"),
    *("ImagerPixelSpacing", "Modality", "PixelData"),
)  # fmt: skip


def is_dicom(data: bytes) -> bool:
    """Whether a file's bytes are DICOM (PS3.10, 7.1)."""
    return data[MAGIC_AT : MAGIC_AT + 4] == MAGIC


def read_dicom(data: bytes, *, max_pixels: float, advice: str) -> Native:
    """The first frame of a DICOM file: rescaled to the units of its modality (CT: HU), white is bright.

    Args:
        data: the whole file.
        max_pixels: checked before pixels are decoded.
        advice: what to do with a larger image.

    Raises:
        ImageError: no image, too large, colours other than RGB, or a compression whose decoder is not installed.
        MissingPackageError: pydicom is not installed.
        Exception: whatever pydicom raises on a damaged file.
    """
    try:
        import pydicom
    except ImportError as error:
        raise missing_package(error, extra="medical", what="DICOM") from error
    _silence()
    file = pydicom.dcmread(io.BytesIO(data), specific_tags=list(_KEPT))
    if "PixelData" not in file or "Rows" not in file or "Columns" not in file:
        raise ImageError("a DICOM file without an image, such as a report")
    check_size(int(file.Columns), int(file.Rows), max_pixels=max_pixels, advice=advice)
    photometric, frames = str(file.get("PhotometricInterpretation", "")), int(file.get("NumberOfFrames", 1) or 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"DICOM with colours ({printable(photometric)[:20]}), which are not kept; save it as PNG")
    bits = int(file.get("BitsStored", 16))
    if not 8 <= bits <= 16:
        raise ImageError(
            f"DICOM of {bits} bits{': a mask and no image' if bits < 8 else ', which are not kept'}; expected 8 to 16"
        )
    stored = _frame(file)
    values, padding = _in_units(stored, file, inverted=photometric == "MONOCHROME1")
    modality = printable(str(file.get("Modality", "")))[:8] or "image"
    ct = modality == "CT"
    whole = 2.0**bits - 1
    return Native(
        np.ascontiguousarray(values[..., None]),
        "DICOM",
        (Band(modality, "HU" if ct else ""),),
        nodata=padding,
        limits=CT_RANGE if ct else None if modality == "MR" or values.dtype != np.uint16 else (0.0, whole),
        place=Place(spacing=_spacing(file)),
        notes=(f"the first of {frames} frames",) if frames > 1 else (),
        auto=modality == "MR",
    )


@cache
def _silence() -> None:
    """Stop pydicom from printing tags that it finds odd: they may name a patient."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def _frame(file: Dataset) -> np.ndarray:
    """Stored values [H, W] of the first frame, int32, without the bits above `BitsStored`, which old files use for overlays."""
    from pydicom.pixels import pixel_array

    try:
        first = np.asarray(pixel_array(file, index=0)).astype(np.int32)  # no other frame is decoded
    except (NotImplementedError, RuntimeError, AttributeError) as error:
        syntax = file.file_meta.get("TransferSyntaxUID") if hasattr(file, "file_meta") else None
        name = printable(getattr(syntax, "name", "unknown"))[:60]
        raise ImageError(
            f"DICOM with the transfer syntax {name}, whose decoder is not installed or which is damaged; save it uncompressed "
            "(dcmdjpeg, gdcmconv --raw)"
        ) from error
    if first.shape != (int(file.Rows), int(file.Columns)):
        raise ImageError(
            f"DICOM whose pixels have the shape {list(first.shape)} instead of {[int(file.Rows), int(file.Columns)]}"
        )
    bits = int(file.get("BitsStored", 16))
    low = first & ((1 << bits) - 1)
    signed = int(file.get("PixelRepresentation", 0)) == 1
    return np.where(low >= 1 << (bits - 1), low - (1 << bits), low) if signed else low


def _in_units(stored: np.ndarray, file: Dataset, *, inverted: bool) -> tuple[np.ndarray, float | None]:
    """(values [H, W] as int16, uint16 or float32; the value of padding, None if there is none)."""
    slope, intercept = float(file.get("RescaleSlope", 1) or 1), float(file.get("RescaleIntercept", 0) or 0)
    padding = file.get("PixelPaddingValue")
    padding = float(padding) if isinstance(padding, int) else None
    signed = int(file.get("PixelRepresentation", 0)) == 1
    if signed and padding is not None and padding > np.iinfo(np.int16).max:
        padding -= 1 << 16  # written with the type of unsigned samples
    if inverted:
        top = -1 if signed else (1 << int(file.get("BitsStored", 16))) - 1
        stored, padding = top - stored, None if padding is None else top - padding
    values = stored * slope + intercept
    padding = None if padding is None else padding * slope + intercept
    if not slope.is_integer() or not intercept.is_integer():
        return values.astype(np.float32), padding
    type_ = np.dtype(np.int16 if signed or intercept < 0 else np.uint16)
    limits = np.iinfo(type_)
    if values.min() < limits.min or values.max() > limits.max:
        return values.astype(np.float32), padding
    return values.astype(type_), padding


def _spacing(file: Dataset) -> tuple[float, float] | None:
    """(row, column) in mm."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        value = file.get(name)
        if value is not None and len(value) == 2 and float(value[0]) > 0 and float(value[1]) > 0:
            return float(value[0]), float(value[1])
    return None
