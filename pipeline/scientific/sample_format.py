"""What the samples of a store are: dtype, bands, range, nodata. 8-bit RGB is the default. Loads neither NumPy nor PyTorch.

One `SampleFormat` is decided before any image is segmented (`choose.py`). The store records it, training scales its bands to [-1, 1], a
checkpoint keeps it, and inference writes its results in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import ConfigError, brief, printable

DTYPES = {"uint8": 1, "uint16": 2, "float32": 4}
"""Types of stored samples -> bytes."""
SIGNED_OFFSET = 32768
"""Added to signed 16-bit samples, which are stored as uint16."""
MOST_BANDS = 64
"""Largest number of bands."""
PLACES = ("crs", "transform", "spacing")
"""What may be known of each image's place; arrays `images/…` of the store."""
PERCENTILES = (2.0, 98.0)
"""Of the valid pixels, for the segmenter's view."""
_MOST_TEXT = 200  # characters of a band's name or unit


@dataclass(frozen=True)
class Band:
    """One band of an image."""

    name: str
    """Such as `red` or `B8`; `1`, `2`, … where the file has no names."""
    unit: str = ""
    """Of its values, such as `HU`; empty if it is not known."""


@dataclass(frozen=True)
class SampleFormat:
    """The samples of all images of a store. The default is 8-bit RGB, which format version 1 holds; all others need version 2."""

    dtype: str = "uint8"
    """Of the stored samples: a key of `DTYPES`."""
    bands: tuple[Band, ...] = (Band("red"), Band("green"), Band("blue"))
    """In the order of the last axis."""
    ranges: tuple[tuple[float, float], ...] = ((0.0, 255.0),) * 3
    """(low, high) of each band in the file's own values: what training scales to [-1, 1]. Values outside are clipped there."""
    offset: int = 0
    """Stored sample - offset = the file's value: `SIGNED_OFFSET` for signed integers."""
    nodata: float | None = None
    """Value of the file that means no data, maybe NaN; None: there is none."""
    masked: bool = False
    """Whether pixels may be invalid; the store then has `tiles/valid`."""
    places: tuple[str, ...] = ()
    """Which of `PLACES` the store has."""
    view: tuple[int, ...] = (0, 1, 2)
    """Indices of the one or three bands that the segmenter sees."""

    def __post_init__(self) -> None:
        count = len(self.bands)
        if self.nodata is not None and math.isnan(self.nodata):
            object.__setattr__(self, "nodata", math.nan)  # one object, so that equal formats are equal
        if self.dtype not in DTYPES:
            raise ConfigError(f"pixels.dtype: expected one of {', '.join(DTYPES)}, got {brief(self.dtype)}")
        if not 1 <= count <= MOST_BANDS or len({band.name for band in self.bands}) != count:
            raise ConfigError(f"pixels.bands: expected 1 to {MOST_BANDS} different names, got {brief(self.names)}")
        good = all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in self.ranges)
        if len(self.ranges) != count or not good:
            raise ConfigError(
                f"pixels.range: expected {count} pairs of finite numbers, the lower first, got {brief(self.ranges)}"
            )
        if self.offset not in (0, SIGNED_OFFSET) or (self.offset and self.dtype != "uint16"):
            raise ConfigError(f"pixels.offset: expected 0, or {SIGNED_OFFSET} with uint16, got {brief(self.offset)}")
        if len(self.view) not in (1, 3) or not all(0 <= index < count for index in self.view):
            raise ConfigError(f"sam_view.bands: expected one or three of {count} bands, got {brief(self.view)}")
        if not set(self.places) <= set(PLACES):
            raise ConfigError(f"pixels.places: expected some of {', '.join(PLACES)}, got {brief(self.places)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the bands."""
        return tuple(band.name for band in self.bands)

    @property
    def count(self) -> int:
        """C, the number of bands."""
        return len(self.bands)

    @property
    def is_rgb8(self) -> bool:
        """Whether it is 8-bit RGB, the samples of format version 1."""
        return self == RGB8

    @property
    def stored_ranges(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each band in stored samples."""
        return tuple((low + self.offset, high + self.offset) for low, high in self.ranges)

    def attributes(self) -> dict[str, object]:
        """The entries `pixels` and `sam_view` of a store's root document; none for 8-bit RGB, so that version 1 keeps its bytes."""
        if self.is_rgb8:
            return {}
        nodata: object = self.nodata
        if self.nodata is not None and math.isnan(self.nodata):
            nodata = "nan"  # JSON has none
        return {
            "pixels": {
                "dtype": self.dtype,
                "bands": [{"name": band.name, "unit": band.unit} for band in self.bands],
                "range": [list(pair) for pair in self.ranges],
                "per": "store",
                "offset": self.offset,
                "nodata": nodata,
                "valid": self.masked,
                "places": list(self.places),
            },
            "sam_view": {"bands": [self.names[index] for index in self.view], "percentiles": list(PERCENTILES), "invalid": 0},
        }

    def describe(self) -> str:
        """One line for people; safe to print."""
        low, high = min(pair[0] for pair in self.ranges), max(pair[1] for pair in self.ranges)
        shown = ", ".join(printable(name) for name in self.names[:8]) + (", …" if self.count > 8 else "")
        nodata = "" if self.nodata is None else f", nodata {self.nodata:g}"
        places = f", with {', '.join(self.places)}" if self.places else ""
        return f"{self.dtype}, {self.count} band{'s' * (self.count != 1)} ({shown}), range {low:g} to {high:g}{nodata}{places}"

    def require_rgb8(self, where: str) -> None:
        """ConfigError, which begins with `where`, unless these are 8-bit RGB."""
        if not self.is_rgb8:
            raise ConfigError(f"{where}: expected 8-bit RGB, got {self.describe()}; there is no way around this yet")


RGB8 = SampleFormat()
"""8-bit RGB."""


def format_in(attributes: Mapping[str, object]) -> SampleFormat:
    """The format in a store's root document or in a checkpoint's settings; 8-bit RGB if they have no `pixels`.

    Raises:
        ConfigError: its entries are not valid; they may be untrusted.
    """
    pixels, view = attributes.get("pixels"), attributes.get("sam_view")
    if pixels is None:
        return RGB8
    try:
        if not isinstance(pixels, Mapping) or not isinstance(view, Mapping):
            raise ValueError("expected the objects `pixels` and `sam_view`")
        bands = tuple(Band(_text(band["name"]), _text(band["unit"])) for band in pixels["bands"])
        names = [band.name for band in bands]
        nodata = pixels["nodata"]
        if pixels["per"] != "store" or not isinstance(pixels["valid"], bool) or type(pixels["offset"]) is not int:
            raise ValueError("per, valid or offset has an unexpected value")
        return SampleFormat(
            dtype=_text(pixels["dtype"]),
            bands=bands,
            ranges=tuple((_number(low), _number(high)) for low, high in pixels["range"]),
            offset=pixels["offset"],
            nodata=None if nodata is None else math.nan if nodata == "nan" else _number(nodata),
            masked=pixels["valid"],
            places=tuple(_text(place) for place in pixels["places"]),
            view=tuple(names.index(name) for name in view["bands"]),
        )
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"pixels: not a valid description of samples ({printable(error)[:200]})") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise ValueError(f"expected a text of at most {_MOST_TEXT} characters, got {brief(value)}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {brief(value)}")
    return float(value)
