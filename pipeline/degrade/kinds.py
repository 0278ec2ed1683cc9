"""Names of the degradations; without NumPy, for help and completion of the command line."""

from __future__ import annotations

from ...errors import ConfigError, brief

KINDS = ("bicubic", "blind", "given", "mtf", "kspace")
"""MATLAB's bicubic, a random blind degradation, existing LR files (which `degrade` does not make), a sensor's blur, an MR scanner's k-space."""
GAIN = 0.26
"""Default of the modulation transfer at the LR Nyquist frequency: Sentinel-2's B2 and B8."""


def gains_of(text: str) -> tuple[float, ...]:
    """Gains per band from a text such as `0.26` or `0.26,0.28,0.24`. ConfigError unless each is above 0 and below 1."""
    try:
        gains = tuple(float(part) for part in text.split(",")) if text else (GAIN,)
    except ValueError as error:
        raise ConfigError(f"mtf_gains: expected numbers with commas between, got {brief(text)}") from error
    if not all(0 < gain < 1 for gain in gains):
        raise ConfigError(f"mtf_gains: expected numbers above 0 and below 1, got {brief(text)}")
    return gains
