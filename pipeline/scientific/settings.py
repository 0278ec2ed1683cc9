"""Which samples `prepare` keeps of images that are more than 8-bit RGB. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import ConfigError, brief
from ...settings import check, setting

AUTO = "auto"
"""`range`: the lowest 0.1 and the highest 99.9 percentile of the valid pixels of any image, for each band."""


@dataclass(frozen=True)
class PixelConfig:
    """Which samples are kept."""

    keep_depth: bool = False
    """Keep the samples as the files have them: 16 bits, all bands, geo-reference. Scientific files keep theirs anyway."""
    bands: str = setting("", none="all")
    """Bands to keep, by number from 1 or by name, with commas between: 4,3,2 or B8,B4,B3."""
    range: str = setting("", none="as the file states")
    """Values that become black and white, LO,HI in the file's units; or auto: the lowest 0.1 and highest 99.9 percentile of any image."""
    nodata: str = setting("", none="as the file states")
    """Value of pixels without data, such as 0 or nan; none: every value is data."""
    view_bands: str = setting("", none="red, green and blue, else the first three")
    """One or three bands that the segmenter sees, by number or name, after --bands."""

    slice_axis: str = setting("auto", choices=("auto", "i", "j", "k"))
    """NIfTI: axis across which volumes are cut into slices, the file's first, second or third; auto: the one with the largest spacing."""

    def __post_init__(self) -> None:
        check(self)
        _ = self.limits, self.no_data

    @property
    def keeps(self) -> bool:
        """Whether ordinary images keep their samples too."""
        return self.keep_depth or bool(self.bands or self.range or self.nodata or self.view_bands)

    @property
    def limits(self) -> tuple[float, float] | None:
        """`range` as numbers; None: not given, or automatic."""
        if self.range in ("", AUTO):
            return None
        try:
            low, high = (float(part) for part in self.range.split(","))
        except ValueError as error:
            raise ConfigError(f"range: expected LO,HI such as 0,10000, or {AUTO}, got {brief(self.range)}") from error
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"range: expected two finite numbers, the lower first, got {brief(self.range)}")
        return low, high

    @property
    def no_data(self) -> float | None:
        """`nodata` as a number; None: not given, or `none`."""
        if self.nodata in ("", "none"):
            return None
        try:
            value = float(self.nodata)
        except ValueError as error:
            raise ConfigError(f"nodata: expected a number, nan or none, got {brief(self.nodata)}") from error
        if math.isinf(value):
            raise ConfigError(
                f"nodata: expected a finite number, nan or none, got {brief(self.nodata)}; infinite samples are never data"
            )
        return value


def chosen_bands(text: str, names: tuple[str, ...], *, what: str) -> tuple[int, ...]:
    """Indices of bands that are given by number from 1 or by name, with commas between.

    Args:
        text: such as `4,3,2` or `B8,B4`.
        names: of all bands.
        what: the setting, for messages.

    Raises:
        ConfigError: a band does not exist, or occurs twice; lists those that exist.
    """
    indices = []
    for part in (part.strip() for part in text.split(",")):
        if part in names:
            index = names.index(part)
        elif part.isdecimal() and 1 <= int(part) <= len(names):
            index = int(part) - 1
        else:
            listed = ", ".join(
                name if name == str(number) else f"{number} {name}" for number, name in enumerate(names, start=1)
            )
            raise ConfigError(f"{what}: expected bands of {brief(listed)}, got {brief(part)}")
        indices.append(index)
    if len(set(indices)) != len(indices):
        raise ConfigError(f"{what}: a band occurs twice in {brief(text)}")
    return tuple(indices)
