"""The runs of a study and their order. Pure: a study's file in, a list of runs out. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...errors import ConfigError
from ..config import RunConfig, load_config
from .config import OWN, SamplingConfig, StudyConfig, StudySetting

RRDB_RUN = "rrdb"
"""Name of the run that trains the shared RRDB; it is the folder `rrdb` of the study."""
_BELOW = {"diffusion": {"modulation": "none"}, "validate": {"every": 0}}
"""Defaults of a study's runs: what a setting does not name it does not use, and no time goes into validation."""
_DECIDED = {
    ("preset",): "preset",
    ("scale",): "store",
    ("train", "seed"): "seeds",
    ("train", "steps"): "steps",
    ("train", "rrdb_steps"): "rrdb_steps",
    ("validate", "images"): "images",
}
"""Settings of a run that the study decides -> its own key for them."""


@dataclass(frozen=True)
class Budget:
    """One way to draw a sample."""

    sampler: str
    """Sampling method; `rrdb`: the RRDB's image alone, without diffusion."""
    steps: int
    """Number of sampling steps; 0 for `rrdb`."""

    @property
    def label(self) -> str:
        """Such as `ddpm 25`."""
        return f"{self.sampler} {self.steps}" if self.steps else self.sampler


RRDB_ALONE = Budget("rrdb", 0)


@dataclass(frozen=True)
class PlannedRun:
    """One training with its scores."""

    setting: str
    """Name of its setting; `RRDB_RUN` for the shared RRDB."""
    seed: int
    config: RunConfig
    """All settings of the training."""
    store: str
    """Folder or URL."""
    rrdb: str
    """Checkpoint of the RRDB; empty: trained before it, in the study's folder `rrdb` or in the run itself (see `own_rrdb`)."""
    own_rrdb: bool
    """Whether the run trains its own stage one."""
    budgets: tuple[Budget, ...]
    """How its model is sampled; empty for the shared RRDB, which is not scored."""

    @property
    def name(self) -> str:
        """Unique in the study; the name of its folder."""
        return RRDB_RUN if self.is_rrdb else f"{self.setting}-seed{self.seed}"

    @property
    def is_rrdb(self) -> bool:
        """Whether it trains the shared RRDB only."""
        return not self.budgets

    @property
    def steps(self) -> int:
        """All training steps of the run, of the stages that it trains."""
        train = self.config.train
        return (train.rrdb_steps if self.own_rrdb or self.is_rrdb else 0) + (0 if self.is_rrdb else train.steps)


def plan_runs(study: StudyConfig, scale: int) -> tuple[PlannedRun, ...]:
    """All runs in their order: the shared RRDB if it is trained, all settings' first seeds, then all second seeds, and so on.

    Among the runs of one round, settings of a higher priority come first, equal ones in the order of the file.

    Args:
        study: the study.
        scale: of its store.

    Raises:
        ConfigError: settings with keys or values that cannot be used, all in one message.
    """
    problems, rounds = [], []
    for place, each in enumerate(study.settings):
        try:
            for number, seed in enumerate(each.seeds or study.seeds):
                rounds.append(((number, -each.priority, place), _run(study, each, seed=seed, scale=scale)))
        except ConfigError as error:
            problems.append(f"setting {each.name!r}: {error}")
    if problems:
        raise ConfigError("; ".join(problems))
    runs = [run for _, run in sorted(rounds, key=lambda pair: pair[0])]
    trains_rrdb = any(not run.rrdb and not run.own_rrdb for run in runs)
    if not study.rrdb_steps and any(not run.rrdb for run in runs):
        raise ConfigError(
            "rrdb_steps: expected the training steps of the RRDB, since a setting has no checkpoint of one; or give rrdb"
        )
    return (_shared_rrdb(study, scale), *runs) if trains_rrdb else tuple(runs)


def budgets_of(sampling: tuple[SamplingConfig, ...]) -> tuple[Budget, ...]:
    """The RRDB alone, then each sampler with its numbers of steps."""
    return (RRDB_ALONE, *(Budget(each.sampler, steps) for each in sampling for steps in each.steps))


def primary_budget(study: StudyConfig, setting: str) -> Budget | None:
    """The budget of the primary endpoint: the setting's first sampler with `primary.steps`; None if it is not sampled with these steps."""
    each = next(each for each in study.settings if each.name == setting)
    first = (each.sampling or study.sampling)[0]
    return Budget(first.sampler, study.primary.steps) if study.primary.steps in first.steps else None


def compared_budget(study: StudyConfig, budget: Budget) -> Budget | None:
    """The reference's budget that one of another setting is compared with: the same, else its first sampler with as many steps."""
    each = next(each for each in study.settings if each.name == study.reference)
    samplings = each.sampling or study.sampling
    known = budgets_of(samplings)
    if budget in known:
        return budget
    same_cost = Budget(samplings[0].sampler, budget.steps)
    return same_cost if same_cost in known else None


def shares_rrdb(study: StudyConfig, setting: str) -> bool:
    """Whether a setting's runs have the reference's RRDB, so that its image alone is not a result of theirs."""
    of = {each.name: each.rrdb or study.rrdb for each in study.settings}
    return setting != study.reference and of[setting] == of[study.reference] != OWN


def _run(study: StudyConfig, each: StudySetting, *, seed: int, scale: int) -> PlannedRun:
    rrdb = each.rrdb or study.rrdb
    own = rrdb == OWN
    return PlannedRun(
        setting=each.name,
        seed=seed,
        config=_config(study, each.overrides, seed=seed, scale=scale),
        store=each.store or study.store,
        rrdb="" if own else rrdb,
        own_rrdb=own,
        budgets=budgets_of(each.sampling or study.sampling),
    )


def _shared_rrdb(study: StudyConfig, scale: int) -> PlannedRun:
    config = _config(study, {}, seed=study.seeds[0], scale=scale)
    train = replace(config.train, steps=0)
    return PlannedRun(
        RRDB_RUN, study.seeds[0], replace(config, train=train), store=study.store, rrdb="", own_rrdb=False, budgets=()
    )


def _config(study: StudyConfig, overrides: Mapping[str, object], *, seed: int, scale: int) -> RunConfig:
    for layer in (study.common, overrides):
        for path, key in _DECIDED.items():
            if len(path) > 1 and not isinstance(layer.get(path[0], {}), Mapping):
                raise ConfigError(f"{path[0]}: expected a table of settings, got {layer[path[0]]!r}")
            if _holds(layer, path):
                raise ConfigError(f"{'.'.join(path)}: the study decides it for all runs; give {key} at the top of the file")
    named = {
        "train": {"seed": seed, "steps": study.steps, "rrdb_steps": study.rrdb_steps},
        "validate": {"images": study.images},
    }
    layer = _over(_over(_BELOW, study.common), overrides)
    return load_config(study.preset, layer, scale=scale, named=named)


def _holds(layer: Mapping[str, object], path: tuple[str, ...]) -> bool:
    inside: object = layer
    for key in path:
        if not isinstance(inside, Mapping) or key not in inside:
            return False
        inside = inside[key]
    return True


def _over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """`above` laid over `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        inside = merged.get(key)
        merged[key] = _over(inside, value) if isinstance(value, Mapping) and isinstance(inside, Mapping) else value
    return merged
