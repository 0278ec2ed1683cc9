"""Settings of upscaling images: `InferConfig` and where results go, `OutputConfig`. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..settings import check, old_names, setting
from .names import FLOW_SAMPLER, QUALITIES, SAMPLERS

STARTS = ("noise", "rrdb")
SHIPPED_FOR = {"clean": "shipped", "real": "shipped-real", "student": "shipped-student"}
"""Value of --model -> name of the model that comes with samdiff."""
OUTPUT_FORMATS = ("png", "jpg", "webp", "tif")
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Suffix of an output file -> Pillow's name of its format."""


@old_names
@dataclass(frozen=True)
class InferConfig:
    """How to upscale an image."""

    steps: int | None = setting(
        None, none="as the model recommends, else all", panel="Common"
    )  # the upper bound depends on the model
    """Number of sampling steps, such as 100, 50, 25, 10 or 5."""
    seed: int = setting(0, min=0, panel="Common")
    """Seed of the noise; the same seed gives the same image on one device."""
    sampler: str | None = setting(None, choices=(*SAMPLERS, FLOW_SAMPLER), none="depends on the model", panel="Common")
    """Sampling method."""
    quality: str | None = setting(None, choices=QUALITIES, none="balanced", panel="Common")
    """Recommended settings of the model: sampler, steps and number of samples. Other options override them."""
    num_samples: int | None = setting(None, min=1, was=("average",), none="as the model recommends, else 1")
    """Average this many samples: smoother, with a lower mean squared error."""
    realism: float = setting(1.0, min=0, max=1, panel="Common")
    """Fraction of the synthesised detail that is added to the RRDB's image. 1: all, the most realistic; 0: none, the lowest error."""
    start: str = setting("noise", choices=STARTS)
    """Start from noise, or from the RRDB's result with noise added up to --start-time."""
    start_time: int | None = setting(None, min=0, none="half of T")
    """First time step of --start rrdb, 0 to T - 1. A higher one changes more of the RRDB's result."""
    back_project: bool = setting(False, was=("consistent",))
    """Make the result consistent with the input by back-projection, without a colour shift."""
    rrdb_only: bool = setting(False, was=("regress",))
    """Output the RRDB's result (stage one) without diffusion: smoother, with a lower mean squared error."""
    tile: int = setting(192, min=0, panel="Tiles")
    """Longest side of a tile in input pixels; 0: no tiles."""
    overlap: int = setting(16, min=0, panel="Tiles")
    """Overlap of tiles in input pixels."""
    batch: int = setting(1, min=1, panel="Tiles")
    """Tiles per call of the network."""
    cache_mb: int = setting(1024, min=0, panel="Tiles")
    """Memory in MB to keep the RRDB's features between steps; those that do not fit are recomputed."""
    amp: str = setting("off", choices=("off", "bf16"), was=("precision",), was_values={"fp32": "off"}, panel="Run")
    """Mixed precision of the U-Net: off (fp32), or bf16, which is faster on hardware that supports it."""

    def __post_init__(self) -> None:
        check(self)
        if self.start_time is not None and self.start != "rrdb":
            raise ConfigError("start_time: only together with start 'rrdb'")


@dataclass(frozen=True)
class ShippedConfig:
    """Which of the models that come with samdiff to use."""

    model: str | None = setting(None, choices=tuple(SHIPPED_FOR), none="as --checkpoint says", panel="Common")
    """A model that comes with samdiff. clean: for sharp images that were only reduced; real: for blurred, noisy or compressed ones;
    student: a one-step network for sharp images, the fastest."""

    def __post_init__(self) -> None:
        check(self)


@old_names
@dataclass(frozen=True)
class OutputConfig:
    """Where the results go, and in which format."""

    out: Path | None = setting(None, short="-o", none="beside each input", panel="Common")
    """Output file for one image, or output folder."""
    suffix: str | None = setting(None, none="_x4 for a model of scale 4")
    """Text added to the name of the input, before the file suffix."""
    format: str | None = setting(None, choices=OUTPUT_FORMATS, none="png, or tif for a model of other samples than 8-bit RGB")
    """File format, unless --out names a file, whose suffix selects it."""
    overwrite: bool = setting(False, panel="Common")
    """Replace files that exist."""
    bits: int = setting(8, choices=(8, 16))
    """Bits per channel; 16 with PNG only."""
    to_srgb: bool = False
    """Convert colours to sRGB by the input's colour profile; otherwise the profile is kept, and reported."""
    provenance: bool = setting(True, was=("say_so",))
    """Record in the file the model, settings, hash of the input, and that its detail is synthesised."""

    def __post_init__(self) -> None:
        check(self)
        if self.bits == 16 and (self._suffix_out() or f".{self.format or 'png'}") != ".png":
            raise ConfigError("bits: 16 only with PNG; give --format png")
        if self.suffix is not None and ("/" in self.suffix or "\\" in self.suffix):
            raise ConfigError(f"suffix: expected an ending for names, such as _x4, got {self.suffix!r}")

    @property
    def ending(self) -> str:
        """The suffix in use."""
        return "_x4" if self.suffix is None else self.suffix

    def is_file(self) -> bool:
        """Whether `out` names one file."""
        return bool(self._suffix_out()) and not (self.out is not None and self.out.is_dir())

    def _suffix_out(self) -> str:
        known = self.out is not None and self.out.suffix.lower() in FORMATS
        return self.out.suffix.lower() if known and self.out is not None else ""
