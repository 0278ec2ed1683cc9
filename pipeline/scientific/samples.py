"""The samples of one image, as a reader gave them (`Native`) and as a store keeps them (`Samples`). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from ...errors import ImageError, printable
from .sample_format import RGB8, SIGNED_OFFSET, Band, SampleFormat

STORED = {"uint8": "uint8", "uint16": "uint16", "int16": "uint16", "float32": "float32"}
"""Type in a file -> type in a store."""


CLIPPED = 0.005
"""Share of samples outside the range from which it is noted."""
FAR = 1000.0
"""Floating-point samples that are further outside the range than so many times its length are no data, such as -9999 or 3e38: one of them
would spoil all LR pixels around it."""


@dataclass(frozen=True)
class Place:
    """Where an image lies, and how large its pixels are."""

    crs: str = ""
    """Coordinate reference system as WKT; empty: unknown."""
    transform: tuple[float, ...] | None = None
    """a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f, for the top left corner of a pixel."""
    spacing: tuple[float, float] | None = None
    """Distance of rows and of columns in mm."""

    def known(self) -> tuple[str, ...]:
        """Which of `PLACES` are known."""
        found = {"crs": bool(self.crs), "transform": self.transform is not None, "spacing": self.spacing is not None}
        return tuple(name for name, there in found.items() if there)

    def enlarged(self, scale: int) -> Place:
        """The place of an image that has `scale` times as many pixels along each axis."""
        t = self.transform
        finer = None if t is None else (t[0] / scale, t[1] / scale, t[2], t[3] / scale, t[4] / scale, t[5])
        spacing = None if self.spacing is None else (self.spacing[0] / scale, self.spacing[1] / scale)
        return replace(self, transform=finer, spacing=spacing)


class Places:
    """Collects the places of a store's images: rows of the arrays `images/…`, and the reference systems that they refer to.

    Args:
        format: of the store.
    """

    def __init__(self, format: SampleFormat) -> None:
        self._kept = format.places
        self._crs: dict[str, int] = {}

    def row(self, place: Place) -> dict[str, np.ndarray]:
        """The row of one image in each array that the store has."""
        crs = self._crs.setdefault(place.crs, len(self._crs)) if place.crs and "crs" in self._kept else -1
        rows: dict[str, np.ndarray] = {
            "crs": np.array([crs], np.int32),
            "transform": np.array([place.transform or (np.nan,) * 6], np.float64),
            "spacing": np.array([place.spacing or (np.nan,) * 2], np.float64),
        }
        return {f"images/{name}": rows[name] for name in self._kept}

    def attributes(self) -> dict[str, object]:
        """The root's entry `crs`: WKT of each reference system; none if the store has no such array."""
        return {"crs": list(self._crs)} if "crs" in self._kept else {}


@dataclass(frozen=True)
class Native:
    """An image as its file has it."""

    values: np.ndarray
    """[H, W, C] of a type of `STORED`."""
    kind: str
    """Such as `GeoTIFF`."""
    bands: tuple[Band, ...]
    """As the file names them; else numbered from 1."""
    nodata: float | None = None
    """As the file states it."""
    limits: tuple[float, float] | None = None
    """Values that the file, or its kind, states as black and white."""
    valid: np.ndarray | None = None
    """bool [H, W], where the file marks invalid pixels in another way than by a value."""
    place: Place = field(default_factory=Place)
    notes: tuple[str, ...] = ()
    """What reading changed."""
    auto: bool = False
    """Whether the range of its kind is arbitrary, so that it is measured unless it is given."""


@dataclass(frozen=True)
class Samples:
    """An image in the format of a store."""

    values: np.ndarray
    """[H, W, C] of the format's dtype; invalid pixels have the values of the nearest valid one."""
    valid: np.ndarray | None = None
    """bool [H, W]; None: all pixels are valid."""
    place: Place = field(default_factory=Place)

    @property
    def nbytes(self) -> int:
        """Of values and validity."""
        return self.values.nbytes + (0 if self.valid is None else self.valid.nbytes)

    def cropped(self, height: int, width: int) -> Samples:
        """The top left part, contiguous."""
        valid = None if self.valid is None else np.ascontiguousarray(self.valid[:height, :width])
        return replace(self, values=np.ascontiguousarray(self.values[:height, :width]), valid=valid)


def valid_pixels(
    native: Native, values: np.ndarray, nodata: float | None, ranges: Sequence[tuple[float, float]] = ()
) -> np.ndarray | None:
    """bool [H, W]: pixels that have data in every band; None if all have.

    Args:
        native: may mark pixels as invalid.
        values: [H, W, C] of the bands that are used, in the file's own values.
        nodata: value without data, maybe NaN; NaN is invalid in any case.
        ranges: of the bands, if they are known, see `FAR`.
    """
    valid = np.ones(values.shape[:2], bool) if native.valid is None else native.valid.copy()
    if nodata is not None and np.isfinite(nodata):
        valid &= (values != nodata).all(axis=2)
    if values.dtype.kind == "f":
        valid &= np.isfinite(values).all(axis=2)
        valid &= ~is_far(values, ranges) if ranges else True
    return None if valid.all() else valid


def is_far(values: np.ndarray, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """bool [H, W]: pixels with a finite sample that is `FAR` outside of its band's range; [H, W, C] -> [H, W]."""
    low, high = np.array(ranges, np.float64).T
    reach = FAR * (high - low)
    return (np.isfinite(values) & ((values < low - reach) | (values > high + reach))).any(axis=2)


def to_samples(native: Native, format: SampleFormat) -> Samples:
    """An image in the format of a store.

    Raises:
        ImageError: its bands or its type are not those of the format, or it has no valid pixel.
    """
    names = tuple(band.name for band in native.bands)
    missing = [name for name in format.names if name not in names]
    if missing:
        raise ImageError(
            f"expected the bands {_listed(format.names)}, got {_listed(names)}; all images of a store have the same bands: "
            "make a store for each kind, or choose bands that all have with --bands"
        )
    signed = native.values.dtype == np.int16
    if STORED[native.values.dtype.name] != format.dtype or signed != bool(format.offset):
        expected = f"int16 (stored as uint16 + {SIGNED_OFFSET})" if format.offset else format.dtype
        raise ImageError(f"expected samples of {expected}, got {native.values.dtype}; make a store for each kind")
    values = native.values[..., [names.index(name) for name in format.names]]
    valid = valid_pixels(native, values, format.nodata, format.ranges)
    if valid is not None and not format.masked:
        raise ImageError("has pixels without data, but the first image of the store states no nodata value; give --nodata")
    if valid is not None:
        if not valid.any():
            raise ImageError("has no valid pixel: all are nodata")
        values = filled(values, valid)
    if signed:
        values = (values.astype(np.int32) + SIGNED_OFFSET).astype(np.uint16)
    return Samples(np.ascontiguousarray(values), valid, place=native.place)


def differences(native: Native, format: SampleFormat) -> tuple[str, ...]:
    """Notes on what a file has and the store does not follow: its own nodata value, further bands, and values far outside the range."""
    notes = []
    own, more = native.nodata, len(native.bands) - format.count
    if own is not None and np.isfinite(own) and own != format.nodata:
        stated = "none" if format.nodata is None else f"{format.nodata:g}"
        notes.append(f"states the nodata value {own:g}, the store's is {stated}: pixels of {own:g} count as data")
    if more > 0:
        notes.append(f"{more} further band{'s' * (more != 1)} left out")
    names = [band.name for band in native.bands]
    if native.values.dtype.kind == "f" and set(format.names) <= set(names):
        used = native.values[..., [names.index(name) for name in format.names]]
        known = used if format.nodata is None else np.where(used == format.nodata, np.nan, used)
        if far := int(is_far(known, format.ranges).sum()):
            notes.append(
                f"{far} pixel{'s' * (far != 1)} outside the range by more than {FAR:g} times its length: treated as nodata"
            )
    return tuple(notes)


def outside_note(samples: Samples, format: SampleFormat) -> tuple[str, ...]:
    """A note if more than `CLIPPED` of the valid samples lie outside the range, such as padding that a file does not state; else none."""
    low, high = np.array(format.stored_ranges, np.float64).T
    outside = ((samples.values < low) | (samples.values > high))[... if samples.valid is None else samples.valid]
    if outside.mean() <= CLIPPED:
        return ()
    return (
        f"more than {100 * CLIPPED:g} % of the samples lie outside the range, and training clips them: check --range and --nodata",
    )


def filled(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Give invalid pixels the values of the nearest valid one, so that resampling does not mix data with nodata.

    Args:
        values: [H, W, C].
        valid: bool [H, W]; at least one is true.
    """
    _, nearest = cv2.distanceTransformWithLabels(
        (~valid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )  # labels number the valid pixels; each invalid pixel has that of the nearest
    place = np.zeros(int(nearest.max()) + 1, np.intp)
    there = np.flatnonzero(valid)
    place[nearest.ravel()[there]] = there
    return values.reshape(-1, values.shape[2])[place[nearest.ravel()]].reshape(values.shape)


def rgb8_samples(pixels: np.ndarray) -> Samples:
    """8-bit RGB [H, W, 3] in the format `RGB8`."""
    assert pixels.dtype == RGB8.dtype
    return Samples(pixels)


def _listed(names: tuple[str, ...]) -> str:
    return printable(", ".join(names[:12])) + (", …" if len(names) > 12 else "")
