"""The settings of `samdiff prepare`, which determine the content of a store. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import ConfigError
from ...settings import check, section, setting
from ..degrade.kinds import GAIN, KINDS, gains_of
from ..images.limits import Limits
from ..scientific.sample_format import RGB8, SampleFormat
from ..scientific.settings import PixelConfig

UNCOMPARED = ("versions", "uncompared")
"""Keys of a segmenter's `describe()` that do not determine its masks; a rerun does not compare them."""


@dataclass(frozen=True)
class PrepareConfig:
    """The settings that determine the content of a store, besides the images and the segmenter."""

    scale: int = setting(4, min=1, max=16)
    """HR pixels per LR pixel along each axis; models support 2, 3, 4 and 8."""
    tile: int | None = setting(None, min=2, max=4096, none="the largest multiple of the scale up to 320")
    """Tile size in HR pixels, a multiple of the scale."""
    stride: int | None = setting(None, min=1, max=4096, none="the tile size")
    """Step from one tile to the next in HR pixels, a multiple of the scale; the last tile ends at the image's border."""
    degradation: str = setting("bicubic", choices=KINDS, was_options=("--degrade",), panel="Degradation")
    """How LR is made: bicubic (MATLAB's), blind (Real-ESRGAN's random blur, noise and JPEG), given (--lr-dir), mtf (a sensor's blur), kspace (MR)."""
    mtf_gains: str = setting("", panel="Degradation", none=f"{GAIN}")
    """For mtf: the transfer at the LR Nyquist frequency, one number or one per band, such as 0.26,0.28,0.24."""
    seed: int = setting(0, min=0, panel="Degradation")
    """Seed of the blind degradation."""
    pixels: PixelConfig = section(PixelConfig, panel="Samples")
    """Which samples are kept of images beyond 8-bit RGB."""
    limits: Limits = section(Limits)
    """Limits on the sizes of images and archives."""

    def __post_init__(self) -> None:
        check(self)
        gains_of(self.mtf_gains)
        if self.mtf_gains and self.degradation != "mtf":
            raise ConfigError(f"mtf_gains: only for degradation mtf, got {self.degradation!r}; add --degradation mtf")
        if self.tile is not None and (self.tile % self.scale or not 2 * self.scale <= self.tile <= 4096):
            raise ConfigError(
                f"tile: expected a multiple of the scale {self.scale} from {2 * self.scale} to 4096, got {self.tile}"
            )
        if self.stride is not None and (self.stride % self.scale or not self.scale <= self.stride <= self.tile_hr):
            raise ConfigError(
                f"stride: expected a multiple of the scale {self.scale} up to the tile's {self.tile_hr} (more leaves gaps), got {self.stride}"
            )

    @property
    def tile_hr(self) -> int:
        """The tile size in HR pixels; the default where `tile` is None."""
        return self.tile or 320 // self.scale * self.scale

    def check_samples(self, samples: SampleFormat) -> None:
        """ConfigError if the degradation is not defined for these samples."""
        if self.degradation == "blind" and not samples.is_rgb8:
            raise ConfigError(
                f"degradation blind: defined for 8-bit RGB, the images have {samples.describe()}; give --degradation bicubic, mtf, kspace or given"
            )
        count = len(gains_of(self.mtf_gains))
        if self.degradation == "mtf" and count not in (1, samples.count):
            raise ConfigError(f"mtf_gains: expected one number, or one for each of {samples.count} bands, got {count}")

    def as_attributes(self, segmenter: Mapping[str, object], samples: SampleFormat = RGB8) -> dict[str, object]:
        """Everything that determines the content, as JSON values: recorded in the store, and compared by a rerun.

        Args:
            segmenter: its `describe()`.
            samples: of the store, from `choose_format`.
        """
        from ..degrade.recipes import degradation_facts
        from ..encode.structure import THETA

        return {
            "scale": self.scale,
            "tile": self.tile_hr,
            "stride": self.stride or self.tile_hr,
            "degradation": degradation_facts(self.degradation, self.seed, self.mtf_gains),
            "limits": {  # only those that determine the content
                "max_megapixels": self.limits.max_megapixels,
                **({"to_srgb": True} if self.limits.to_srgb else {}),
            },
            "structure": {"kind": "rope", "theta": THETA},
            "segmenter": {key: value for key, value in segmenter.items() if key not in UNCOMPARED},
            **samples.attributes(),
        }


def comparable(describe: Mapping[str, object]) -> dict[str, object]:
    """The part of a segmenter's `describe()` that is equal if its masks are: without versions, and of the weights only the SHA-256."""
    facts = {key: value for key, value in describe.items() if key not in UNCOMPARED}
    weights = facts.get("weights")
    if isinstance(weights, Mapping):
        facts["weights"] = weights.get("sha256")
    return facts
