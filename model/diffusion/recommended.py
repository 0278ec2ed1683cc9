"""Recommended sampling settings of a model, stored as `recommended` in the facts of its checkpoint. Pure.

    {"fast": {"sampler": "euler", "steps": 1, "average": 1, "regress": false}, "balanced": {…}, "best": {…}}

`balanced` is the default of inference. A checkpoint without the entry is sampled with all steps, one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ...errors import CheckpointError, ConfigError, printable
from ..config import RunConfig
from ..infer_config import InferConfig
from ..names import QUALITIES as QUALITIES

FACT = "recommended"
_MOST_STEPS, _MOST_AVERAGE, _LONGEST_NAME = 10_000, 64, 40


@dataclass(frozen=True)
class Sampling:
    """Sampling settings."""

    sampler: str | None = None
    """None: the default of the process."""
    steps: int | None = None
    """None: all."""
    average: int = 1
    """Number of samples to average."""
    regress: bool = False
    """Only the RRDB's image, no sampling."""


Recommended = Mapping[str, Sampling]
"""By quality."""


def recommended_for(config: RunConfig) -> Recommended:
    """Default recommendations for a configuration.

    A flow: the RRDB's image, one Euler step, or the mean of four such samples. More steps left noise on the only flow that was
    measured (docs/training.md), which had 1,200 training steps. A diffusion: `fast` is the RRDB's image, `balanced` one sample with 5 steps (the best row of the table of
    samplers in the docs), `best` the mean of four. `paper` always uses the steps that it was trained for.
    """
    d = config.diffusion
    if d.process == "flow":
        return {"fast": Sampling(regress=True), "balanced": Sampling("euler", 1), "best": Sampling("euler", 1, 4)}
    few = None if d.modulation == "paper" else min(5, d.timesteps)
    sampler = "paper" if d.modulation == "paper" else "ddpm"
    return {"fast": Sampling(regress=True), "balanced": Sampling(sampler, few), "best": Sampling(sampler, few, 4)}


def recommended_in(facts: Mapping[str, object], config: RunConfig, where: str) -> Recommended:
    """The recommended settings of a checkpoint; without an entry, those of its configuration. Arguments and errors as for `read_recommended`."""
    recommended = read_recommended(facts, where)
    if recommended is not None:
        return recommended
    by_quality = dict(recommended_for(config))
    if config.diffusion.process != "flow":
        by_quality["balanced"] = Sampling()  # the behaviour before checkpoints had the entry
    return by_quality


def most_steps(recommended: Recommended) -> int | None:
    """The largest recommended number of sampling steps over all qualities; None if no quality limits them."""
    steps = [sampling.steps for sampling in recommended.values() if not sampling.regress]
    return None if not steps or None in steps else max(number for number in steps if number is not None)


def too_many_steps(config: RunConfig, recommended: Recommended, steps: int) -> str:
    """Why so many sampling steps leave noise, as one sentence; empty if they do not.

    The perceptual loss of a flow trains the image of one step from the start. Between start and end, such a flow has the main loss only, on
    a share of each batch, so that further steps add noise, which flat colour shows. A model that recommends more steps was measured with them.

    Args:
        config: of the model.
        recommended: of its checkpoint.
        steps: the number that is requested.
    """
    most = most_steps(recommended)
    if config.diffusion.process != "flow" or config.loss.perceptual == "none" or most is None or steps <= most:
        return ""
    few = "1 step" if most == 1 else f"{most} steps"
    return (
        f"this flow is best with {few} (its perceptual loss is on the one-step image); {steps} steps leave noise on flat colour"
    )


def resolve(settings: InferConfig, recommended: Recommended, config: RunConfig, *, sampler: str, name: str) -> InferConfig:
    """The settings with sampler, steps and num_samples filled in: given values, else those that the model recommends, else all steps and 1.

    Recommended values apply only to the recommended sampler and a start from noise.

    Args:
        settings: as given.
        recommended: of the model.
        config: of the model.
        sampler: the default of its process.
        name: of the model, for messages.

    Raises:
        ConfigError: a quality without recommendation, or `realism` without a flow or diffusion from the RRDB's image.
    """
    sampling = recommended.get(settings.quality or "balanced")
    if sampling is None and settings.quality is not None:
        raise ConfigError(f"quality: {name} recommends {', '.join(recommended)} only, got {settings.quality}")
    if settings.realism != 1 and config.diffusion.base != "rrdb":
        raise ConfigError(
            f"realism: only for models that add detail to the RRDB's image (diffusion.base = rrdb); {name} does not, leave it out"
        )
    if settings.realism != 1 and (settings.rrdb_only or (sampling is not None and sampling.regress)):
        raise ConfigError(
            "realism: has no effect on the RRDB's result (rrdb_only, or a quality that recommends it); leave one out"
        )
    given = replace(settings, sampler=settings.sampler or sampler, num_samples=settings.num_samples or 1)
    if sampling is None or settings.rrdb_only or settings.start != "noise":
        return given
    free = settings.sampler is None and settings.steps is None and settings.num_samples is None
    if sampling.regress:
        return replace(given, rrdb_only=True) if free else given
    if settings.steps is not None or settings.sampler not in (None, sampling.sampler or sampler):
        return given
    return replace(
        given, sampler=sampling.sampler or sampler, steps=sampling.steps, num_samples=settings.num_samples or sampling.average
    )


def parse_sampling(text: str) -> tuple[str, Sampling]:
    """`balanced=euler:4` or `best=ddpm:5:4` (sampler:steps:average), or `fast=rrdb` (no diffusion) -> quality and sampling.

    Raises:
        ConfigError: another form.
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


def as_facts(recommended: Recommended) -> dict[str, dict[str, object]]:
    """JSON-serialisable, for `Checkpoint.facts["recommended"]`."""
    return {quality: asdict(sampling) for quality, sampling in recommended.items()}


def read_recommended(facts: Mapping[str, object], where: str) -> Recommended | None:
    """The entry in the facts of a checkpoint, with every value checked, since it is untrusted. None if there is no entry.

    Args:
        facts: of the checkpoint.
        where: beginning of error messages.

    Raises:
        CheckpointError: the entry does not have the form of `as_facts`.
    """
    entry = facts.get(FACT)
    if entry is None:
        return None
    if not isinstance(entry, dict) or not set(QUALITIES) >= entry.keys() or "balanced" not in entry:
        raise CheckpointError(f"{where}: expected {FACT} settings by quality ({', '.join(QUALITIES)}), got {_short(entry)}")
    return {quality: _sampling(entry[quality], f"{where}: {FACT}.{quality}") for quality in QUALITIES if quality in entry}


def _sampling(values: object, where: str) -> Sampling:
    known = Sampling.__dataclass_fields__.keys()
    if not isinstance(values, dict) or not known >= values.keys():
        raise CheckpointError(f"{where}: expected {', '.join(known)}, got {_short(values)}")
    sampling = Sampling(**values)
    fits = (
        (sampling.sampler is None or (isinstance(sampling.sampler, str) and len(sampling.sampler) <= _LONGEST_NAME))
        and (sampling.steps is None or (type(sampling.steps) is int and 1 <= sampling.steps <= _MOST_STEPS))
        and (type(sampling.average) is int and 1 <= sampling.average <= _MOST_AVERAGE)
        and isinstance(sampling.regress, bool)
    )
    if not fits:
        raise CheckpointError(f"{where}: a value is out of range: {_short(values)}; take another copy of the file")
    return sampling


def _short(value: object) -> str:
    """A value for a message, shortened."""
    return printable(repr(value))[:80]
