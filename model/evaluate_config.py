"""Settings of `samdiff evaluate`, beside those of inference. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..pipeline.degrade.kinds import GAIN, gains_of
from ..settings import check, setting


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated, and which results are kept."""

    out: Path = setting(Path("evaluation"), short="-o", panel="Common")
    """Folder for figures.csv, figures.json and table.md."""
    seeds: int = setting(1, min=1, panel="Common")
    """Number of samples per image, with seeds 0, 1, …"""
    metrics: str = setting("", none="none", panel="Common")
    """More metrics, separated by commas: lpips, lpips-vgg, dists; with samdiff[iqa] also those of pyiqa: maniqa, fid, …"""
    degradation: str = setting("bicubic", choices=("bicubic", "blind", "mtf", "kspace"), panel="Common")
    """How LR is made. bicubic: the benchmark's own LR images, else MATLAB's bicubic; others: always from HR, as by prepare --degradation."""
    mtf_gains: str = setting("", panel="Common", none=f"{GAIN}")
    """For mtf: the transfer at the LR Nyquist frequency, one number or one per band."""
    degradation_seed: int = setting(0, min=0, panel="Common")
    """Seed of the blind degradation."""
    save: bool = setting(False, panel="Common")
    """Save the upscaled images and HR in OUT/pictures."""
    overwrite: bool = setting(False, panel="Common")
    """Replace the metrics of an earlier evaluation."""

    def __post_init__(self) -> None:
        check(self)
        if self.degradation_seed and self.degradation != "blind":
            raise ConfigError("degradation_seed: only together with --degradation blind")
        gains_of(self.mtf_gains)
        if self.mtf_gains and self.degradation != "mtf":
            raise ConfigError(f"mtf_gains: only for degradation mtf, got {self.degradation!r}; add --degradation mtf")
