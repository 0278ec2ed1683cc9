"""How a model is best sampled: settings that travel with it, as `recommended` among a checkpoint's facts. Pure.

    {"fast": {"sampler": "euler", "steps": 1, "average": 1, "regress": false}, "balanced": {…}, "best": {…}}

`balanced` is what inference does where nothing is requested. A checkpoint without the entry is sampled as before: all steps, one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import CheckpointError, ConfigError, printable
from ..config import RunConfig
from ..names import QUALITIES as QUALITIES

FACT = "recommended"
_MOST_STEPS, _MOST_AVERAGE, _LONGEST_NAME = 10_000, 64, 40


@dataclass(frozen=True)
class Sampling:
    """One way to sample a model."""

    sampler: str | None = None
    """None: the one that fits the process."""
    steps: int | None = None
    """None: all."""
    average: int = 1
    """Mean of so many samples."""
    regress: bool = False
    """The RRDB's image alone."""


Recommended = Mapping[str, Sampling]
"""By quality."""


def recommended_for(config: RunConfig) -> Recommended:
    """What is recommended for a configuration before anything was measured on the model itself.

    A flow: 1, 4 or 8 steps of Euler. A diffusion: 5 steps, the best row of docs' table on samplers, as one sample or the mean of four;
    its fast way is the RRDB. `paper` has only the steps that it was trained for.
    """
    d = config.diffusion
    if d.process == "flow":
        steps = {"fast": 1, "balanced": 4, "best": 8}
        return {quality: Sampling("euler", min(number, d.timesteps)) for quality, number in steps.items()}
    few = None if d.modulation == "paper" else min(5, d.timesteps)
    sampler = "paper" if d.modulation == "paper" else "ddpm"
    return {"fast": Sampling(regress=True), "balanced": Sampling(sampler, few), "best": Sampling(sampler, few, 4)}


def parse_sampling(text: str) -> tuple[str, Sampling]:
    """`balanced=euler:4` or `best=ddpm:5:4` (sampler:steps:average), or `fast=rrdb` (no diffusion) -> quality and sampling.

    Raises:
        ConfigError: it is none of these.
    """
    quality, equals, value = text.partition("=")
    sampler, *numbers = value.split(":")
    fits = all(number.isascii() and number.isdigit() and len(number) < 6 and int(number) > 0 for number in numbers)
    if quality not in QUALITIES or not equals or not sampler or len(numbers) > 2 or not fits:
        raise ConfigError(
            f"--recommend: expected QUALITY=SAMPLER:STEPS[:AVERAGE] such as balanced=euler:4, or QUALITY=rrdb, "
            f"QUALITY one of {', '.join(QUALITIES)}; got {_short(text)}"
        )
    if sampler == "rrdb" and not numbers:
        return quality, Sampling(regress=True)
    steps, average = [*map(int, numbers), None, None][:2]
    return quality, Sampling(sampler, steps, average or 1)


def as_facts(recommended: Recommended) -> dict[str, dict[str, Any]]:
    """JSON-able, for `Checkpoint.facts["recommended"]`."""
    return {quality: asdict(sampling) for quality, sampling in recommended.items()}


def read_recommended(facts: Mapping[str, Any], where: str) -> Recommended | None:
    """The entry of a checkpoint's facts, every value checked: it may be a stranger's. None if there is none.

    Args:
        facts: of the checkpoint.
        where: what an error's message begins with.

    Raises:
        CheckpointError: the entry is there and is not what `as_facts` gives.
    """
    entry = facts.get(FACT)
    if entry is None:
        return None
    if not isinstance(entry, dict) or not set(QUALITIES) >= entry.keys() or "balanced" not in entry:
        raise CheckpointError(f"{where}: expected {FACT} settings by quality ({', '.join(QUALITIES)}), got {_short(entry)}")
    return {quality: _sampling(entry[quality], f"{where}: {FACT}.{quality}") for quality in QUALITIES if quality in entry}


def _sampling(values: Any, where: str) -> Sampling:
    known = Sampling.__dataclass_fields__.keys()
    if not isinstance(values, dict) or not known >= values.keys():
        raise CheckpointError(f"{where}: expected {', '.join(known)}, got {_short(values)}")
    found = Sampling(**values)
    fits = (
        (found.sampler is None or (isinstance(found.sampler, str) and len(found.sampler) <= _LONGEST_NAME))
        and (found.steps is None or (type(found.steps) is int and 1 <= found.steps <= _MOST_STEPS))
        and (type(found.average) is int and 1 <= found.average <= _MOST_AVERAGE)
        and isinstance(found.regress, bool)
    )
    if not fits:
        raise CheckpointError(f"{where}: a value is out of range: {_short(values)}; take another copy of the file")
    return found


def _short(value: object) -> str:
    """A value as it may stand in a message."""
    return printable(repr(value))[:80]
