"""Decides the samples of a store from its first image and the settings, before anything is segmented.

What a file states is taken. What it does not state and cannot be guessed, which values are black and white, is requested by one error that
shows what the file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from ...errors import ConfigError, ImageError, printable
from ..decoding.pillow_modes import FILLED
from .read import may_be_measured, read_native
from .sample_format import RGB8, SIGNED_OFFSET, SampleFormat
from .samples import STORED, Native, valid_pixels
from .settings import AUTO, PixelConfig, chosen_bands

File = tuple[str, Callable[[], bytes]]
"""Name of a file, and a function that reads it; it raises ImageError if it cannot be read."""
_PARTS = (0.1, 99.9)
"""Percentiles of `range auto`, and those that an error shows."""
_ANY = (-1e27, 1e27)
"""A range that stands for any; fill values of floating-point files lie beyond it."""
_NOTABLE = 0.01  # share of pixels that are 0 in all bands, from which they may be a border without data


def choose_format(files: Iterable[File], config: PixelConfig, *, max_pixels: float) -> SampleFormat:
    """The samples of a store: those of the first image that can be read. All other images must have the same bands and type.

    Args:
        files: of the source, in order.
        config: what is requested.
        max_pixels: largest number of pixels of an image.

    Raises:
        ConfigError: the range, the meaning of nodata or a band has to be given; shows what the file holds.
        MissingPackageError: the reader's package is not installed.
    """
    readable = _natives(files, config, max_pixels)
    name, native = next(readable, ("", None))
    if native is None:
        return RGB8
    format = _without_range(native, config, name)
    if config.limits is not None:
        limits = (config.limits,) * format.count
    elif config.range == AUTO or (native.auto and native.limits is None):
        if config.nodata == "" and format.nodata is None and (fill := _likely_fill(native, format)) is not None:
            raise ConfigError(
                f"{printable(name)}: more than {_NOTABLE:.0%} of its pixels are {fill:g} in all bands, far below all others, and no nodata value is "
                f"stated; give --nodata {fill:g} if that means no data, else --nodata none"
            )
        others = (other for _, other in readable if other is not None)
        limits = _measured(chain([native], others), format)
    elif native.limits is not None:
        limits = (native.limits,) * format.count
    else:
        raise ConfigError(_question(native, format, name))
    chosen = replace(format, ranges=limits)
    _check_filled(native, chosen, name)
    return chosen


def _natives(files: Iterable[File], config: PixelConfig, max_pixels: float) -> Iterator[tuple[str, Native | None]]:
    """(name, image) of the files that can be read; (name, None) for an ordinary image whose samples are not kept."""
    for name, read in files:
        if not config.keeps and not may_be_measured(name):
            yield name, None
            continue
        try:
            yield name, read_native(read(), name, keep=config.keeps, max_pixels=max_pixels)
        except ImageError:  # it is skipped and listed when the images are segmented
            continue


def _without_range(native: Native, config: PixelConfig, name: str) -> SampleFormat:
    """The format with a range still to be set."""
    names = tuple(band.name for band in native.bands)
    used = chosen_bands(config.bands, names, what="--bands") if config.bands else tuple(range(len(names)))
    kept = tuple(names[index] for index in used)
    colours = [kept.index(colour) for colour in ("red", "green", "blue") if colour in kept]
    view = tuple(colours) if len(colours) == 3 else tuple(range(3)) if len(kept) >= 3 else (0,)
    if config.view_bands:
        view = chosen_bands(config.view_bands, kept, what="--view-bands")
        if len(view) not in (1, 3):
            raise ConfigError(f"--view-bands: expected one or three bands, got {len(view)}")
    signed = native.values.dtype == np.int16
    nodata = native.nodata if config.nodata == "" else config.no_data
    if config.nodata != "" and nodata is not None and not _can_hold(native.values.dtype, nodata):
        raise ConfigError(f"nodata: expected a value of {native.values.dtype}, the type of {printable(name)}, got {nodata:g}")
    ordinary = SampleFormat(
        dtype=STORED[native.values.dtype.name],
        bands=tuple(native.bands[index] for index in used),
        ranges=((0.0, 1.0),) * len(used),
        offset=SIGNED_OFFSET if signed else 0,
        nodata=nodata,
        masked=nodata is not None or native.valid is not None or native.values.dtype.kind == "f",
        places=native.place.known(),
        view=view,
    )
    if config.nodata == "" and nodata is None and _zeros(native, ordinary) > _NOTABLE and native.kind == "GeoTIFF":
        raise ConfigError(_question(native, ordinary, name))
    return ordinary


def seen_format(native: Native) -> SampleFormat:
    """The samples of one file for a look at it: all bands, its own nodata value (0 if a GeoTIFF has none and many zeros), any range."""
    plain = _without_range(native, PixelConfig(nodata="none" if native.nodata is None else ""), "")
    plain = replace(plain, ranges=(_ANY,) * plain.count)
    if native.kind == "GeoTIFF" and native.nodata is None and _zeros(native, plain) > _NOTABLE:
        return replace(plain, nodata=0.0, masked=True)
    return plain


def _can_hold(dtype: np.dtype, value: float) -> bool:
    """Whether a sample of this type can have the value."""
    return dtype.kind == "f" or (value == value // 1 and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def _of_bands(native: Native, format: SampleFormat) -> np.ndarray:
    names = [band.name for band in native.bands]
    return native.values[..., [names.index(name) for name in format.names if name in names]]


def _zeros(native: Native, format: SampleFormat) -> float:
    """Share of pixels that are 0 in all bands."""
    return float((_of_bands(native, format) == 0).all(axis=2).mean())


def _likely_fill(native: Native, format: SampleFormat) -> float | None:
    """A negative value, such as -9999, that many pixels have in all bands and that is further from all others than those are from each other."""
    values = _of_bands(native, format).astype(np.float64)
    known = values[np.abs(values) < _ANY[1]]
    least = known.min(initial=0.0)
    others = known[known > least]
    if least >= 0 or not others.size or (values == least).all(axis=2).mean() <= _NOTABLE:
        return None
    return float(least) if others.min() - least > others.max() - others.min() else None


def _measured(natives: Iterable[Native], format: SampleFormat) -> tuple[tuple[float, float], ...]:
    """Percentiles 0.1 and 99.9 of each band: the smallest and the largest of all images that have these bands."""
    pairs = []
    for native in natives:
        values = _of_bands(native, format)
        if values.shape[2] != format.count or STORED[native.values.dtype.name] != format.dtype:
            continue
        valid = valid_pixels(native, values, format.nodata, (_ANY,) * format.count)
        seen = values.reshape(-1, format.count) if valid is None else values[valid]
        if len(seen):
            pairs.append(np.percentile(seen, _PARTS, axis=0))
    if not pairs:
        raise ConfigError("range auto: no image has a valid pixel; give --range LO,HI, or another --nodata")
    low, high = np.min([pair[0] for pair in pairs], axis=0), np.max([pair[1] for pair in pairs], axis=0)
    whole = format.dtype != "float32"
    low, high = (np.floor(low), np.ceil(high)) if whole else (low, high)
    high = np.where(high > low, high, low + 1)
    return tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))


def _check_filled(native: Native, format: SampleFormat, name: str) -> None:
    """ConfigError if the first image fills less than a sixteenth of the range in every band."""
    values = _of_bands(native, format)
    valid = valid_pixels(native, values, format.nodata)
    seen = values.reshape(-1, format.count) if valid is None else values[valid]
    if not len(seen):
        return
    low, high = np.percentile(seen, _PARTS, axis=0)
    spans = np.array([pair[1] - pair[0] for pair in format.ranges])
    if ((high - low) * FILLED < spans).all() and (high > low).any():
        shown = f"{format.ranges[0][0]:g} to {format.ranges[0][1]:g}"
        raise ConfigError(
            f"{printable(name)}: its samples go from {low.min():g} to {high.max():g} (percentiles 0.1 and 99.9), less than a sixteenth of "
            f"the range {shown}, so a model would learn nearly nothing; give a narrower --range LO,HI, or --range {AUTO}"
        )


def _question(native: Native, format: SampleFormat, name: str) -> str:
    """What the file holds, and what to give."""
    values = _of_bands(native, format)
    lines = []
    for index, band in enumerate(format.bands[:16]):
        plane = values[..., index].astype(np.float64)
        plane = plane[np.isfinite(plane)]
        low, high = np.percentile(plane, _PARTS) if plane.size else (np.nan, np.nan)
        least, most = (plane.min(), plane.max()) if plane.size else (np.nan, np.nan)
        lines.append(
            f"  band {index + 1} {printable(band.name)}: {least:g} to {most:g}, percentiles 0.1 and 99.9: {low:g} and {high:g}"
        )
    zeros = _zeros(native, format)
    height, width = values.shape[:2]
    nodata = "no nodata value is stated" if format.nodata is None else f"nodata {format.nodata:g}"
    if format.nodata is None and zeros > _NOTABLE:
        nodata += f", {zeros:.1%} of the pixels are 0 in all bands: give --nodata 0 if that means no data, else --nodata none"
    return (
        f"{printable(name)}: {native.kind} of {format.count} bands of {native.values.dtype}, {width} x {height} pixels; {nodata}; give the "
        f"values that become black and white with --range LO,HI, or --range {AUTO} for the lowest and highest of these percentiles in any image:\n"
        + "\n".join(lines)
    )
