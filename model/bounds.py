"""Checks of single settings: one of a list, at least, at most; and the known name that an unknown one resembles. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .checkpoints.plain import brief


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean 'known'?)`, or nothing."""
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(config: Any, name: str, allowed: Sequence[str] | Sequence[int]) -> None:
    """ConfigError unless the setting is one of those."""
    value = getattr(config, name)
    if value not in allowed:
        known = [str(each) for each in allowed]
        close = nearest(value, known) if isinstance(value, str) else ""
        raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {brief(value)}{close}")


def at_least(config: Any, bound: float, *names: str) -> None:
    """ConfigError unless each setting is at least `bound`."""
    for name in names:
        if getattr(config, name) < bound:
            raise ConfigError(f"{name}: expected at least {bound:g}, got {getattr(config, name)}")


def at_most(config: Any, bound: float, *names: str) -> None:
    """ConfigError unless each setting is at most `bound`."""
    for name in names:
        if getattr(config, name) > bound:
            raise ConfigError(f"{name}: expected at most {bound:g}, got {getattr(config, name)}")
