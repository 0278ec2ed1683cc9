"""The file of a study, `STUDY.toml`: which settings are compared, with which seeds, steps, images and metrics.

An unknown key, or a value that cannot be used, is an error. Loads neither NumPy nor PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from ...errors import ConfigError, brief
from ...settings import build, check, read_toml_file, section, setting
from ..config import PRESETS
from ..names import FLOW_SAMPLER, PERCEPTUAL, SAMPLERS

METRICS = ("psnr_y", "ssim_y", *PERCEPTUAL, "psnr_boundary", "psnr_inside", "lpips_boundary", "lpips_inside")
"""Metrics of a study, see docs/study.md; those of boundaries need masks, which the tiles of a store have."""
HIGHER_IS_BETTER = ("psnr_y", "ssim_y", "psnr_boundary", "psnr_inside")
"""Of the others, a lower value is better."""
OF_REGIONS = ("psnr_boundary", "psnr_inside", "lpips_boundary", "lpips_inside")
"""Metrics that need a label map."""
OWN = "own"
"""`rrdb` of a setting whose runs train their own stage one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}")
_MOST_SETTINGS, _MOST_SEEDS, _MOST_STEPS = 200, 100, 10_000


@dataclass(frozen=True)
class SamplingConfig:
    """One sampler with several numbers of steps: one curve of the trade-off."""

    sampler: str = setting("ddpm", choices=(*SAMPLERS, FLOW_SAMPLER))
    """Sampling method."""
    steps: tuple[int, ...] = (1, 2, 5, 10, 25, 50, 100)
    """Numbers of sampling steps."""

    def __post_init__(self) -> None:
        check(self)
        if not self.steps or min(self.steps) < 1 or len(set(self.steps)) < len(self.steps):
            raise ConfigError(f"steps: expected different numbers of at least 1, got {brief(self.steps)}")


@dataclass(frozen=True)
class PrimaryConfig:
    """The primary endpoint, decided before the study: its p-values are corrected for their number."""

    steps: int = setting(25, min=1)
    """Number of sampling steps, with the first sampler of each setting."""
    metrics: tuple[str, ...] = ("psnr_y", "lpips")
    """Metrics that are tested."""


@dataclass(frozen=True)
class SettingKeys:
    """One of the compared settings, without its tables."""

    name: str = ""
    """Name in tables and of its runs' folders."""
    store: str = ""
    """Another store of the same images, such as one with other masks; empty: the study's."""
    rrdb: str = ""
    """Another RRDB: a checkpoint, or `own` (each run trains its own stage one); empty: the study's."""
    priority: int = 0
    """Settings of a higher priority are trained first; of equal ones, the one that stands first in the file."""
    seeds: tuple[int, ...] = ()
    """Its training seeds; empty: the study's."""

    def __post_init__(self) -> None:
        check(self)
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: expected 1 to 60 letters, digits and any of . _ + -, got {brief(self.name)}")
        _check_seeds(self.seeds)


@dataclass(frozen=True)
class StudySetting(SettingKeys):
    """One of the compared settings."""

    overrides: Mapping[str, object] = field(default_factory=dict)
    """Settings of its runs by section, over those of [common]."""
    sampling: tuple[SamplingConfig, ...] = ()
    """How its models are sampled; empty: as the study says."""


@dataclass(frozen=True)
class StudyKeys:
    """The keys at the top of the file."""

    name: str = ""
    """Name of the study."""
    store: str = ""
    """The store: a folder or a URL. Paths are relative to the current folder."""
    preset: str = setting("tiny", choices=PRESETS)
    """Network sizes and training settings, over which [common] and the settings' overrides are laid."""
    rrdb: str = ""
    """Checkpoint whose RRDB all runs share, such as `shipped`; empty: the study trains it first."""
    rrdb_steps: int = setting(0, min=0)
    """Training steps of an RRDB that the study or a setting with `rrdb = "own"` trains."""
    steps: int = setting(0, min=1)
    """Training steps of stage two, the same for all runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds: initial weights, sample order, crops, time steps and noise. Equal seeds of two settings make a pair."""
    images: int = setting(8, min=0)
    """Last images of the store that are held out, at most a tenth; their tiles are scored."""
    tiles: int = setting(4, min=1)
    """Largest number of tiles of each held-out image, evenly chosen."""
    crop: int = setting(0, min=0)
    """Side of the centre crop of a tile that is scored, in HR pixels, a multiple of the scale; 0: the whole tile."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks that are scored too: names or folders, as for `samdiff evaluate`."""
    samples: int = setting(1, min=1, max=100)
    """Samples of each image (sampling seeds); their metrics are averaged."""
    metrics: tuple[str, ...] = METRICS
    """Metrics of each sample."""
    band: int = setting(4, min=0, max=64)
    """Pixels around a mask boundary that the metrics of boundaries are about."""
    reference: str = "none"
    """The setting that all others are compared with."""
    bootstrap: int = setting(10_000, min=100, max=1_000_000)
    """Resamples of a confidence interval."""
    primary: PrimaryConfig = section(PrimaryConfig)

    def __post_init__(self) -> None:
        check(self)
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: expected 1 to 60 letters, digits and any of . _ + -, got {brief(self.name)}")
        if not self.store:
            raise ConfigError("store: expected a store that `samdiff prepare` made, got none")
        if not self.seeds:
            raise ConfigError("seeds: expected at least one seed, got none")
        _check_seeds(self.seeds)
        for name in (*self.metrics, *self.primary.metrics):
            if name not in METRICS:
                raise ConfigError(f"metrics: expected names among {', '.join(METRICS)}, got {brief(name)}")
        if missing := [name for name in self.primary.metrics if name not in self.metrics]:
            raise ConfigError(f"primary.metrics: {missing[0]} is not among metrics; add it there")
        if not self.images and not self.benchmarks:
            raise ConfigError("images: expected at least one held-out image, or benchmarks, got neither")


@dataclass(frozen=True)
class StudyConfig(StudyKeys):
    """A whole study."""

    common: Mapping[str, object] = field(default_factory=dict)
    """Settings of all runs by section, over the preset."""
    sampling: tuple[SamplingConfig, ...] = (SamplingConfig(),)
    """How models are sampled."""
    settings: tuple[StudySetting, ...] = ()
    """What is compared, in the order of the file."""


def read_study(file: Path) -> StudyConfig:
    """Read and check the file of a study. Whether its runs are possible is checked by `plan.plan_runs` and `checks.check_study`.

    Raises:
        ConfigError: it cannot be read, or a key or a value cannot be used; the message names the file and the setting.
    """
    values = read_toml_file(file)
    try:
        return _study_of(values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _study_of(values: Mapping[str, object]) -> StudyConfig:
    rest = dict(values)
    common, sampling, tables = rest.pop("common", {}), rest.pop("sampling", None), rest.pop("setting", [])
    keys = build(StudyKeys, rest)
    if not isinstance(common, Mapping):
        raise ConfigError(f"common: expected a section [common.train] and the like, got {brief(common)}")
    if not isinstance(tables, list) or not 1 <= len(tables) <= _MOST_SETTINGS:
        raise ConfigError(f"setting: expected 1 to {_MOST_SETTINGS} tables [[setting]], got {brief(tables)}")
    found = [_setting_of(table, number) for number, table in enumerate(tables, start=1)]
    names = [each.name.casefold() for each in found]
    if twice := [each.name for each in found if names.count(each.name.casefold()) > 1]:
        raise ConfigError(f"setting {twice[0]!r}: two settings have this name (upper and lower case count as one); rename one")
    study = StudyConfig(
        **{each.name: getattr(keys, each.name) for each in fields(StudyKeys)},
        common=common,
        sampling=_samplings(sampling, "sampling") or (SamplingConfig(),),
        settings=tuple(found),
    )
    if study.reference not in [each.name for each in found]:
        raise ConfigError(
            f"reference: expected the name of a setting, one of {', '.join(s.name for s in found)}, got {brief(study.reference)}"
        )
    return study


def _setting_of(table: object, number: int) -> StudySetting:
    if not isinstance(table, Mapping):
        raise ConfigError(f"setting {number}: expected a table [[setting]], got {brief(table)}")
    rest = dict(table)
    where = f"setting {rest.get('name', number)!r}"
    overrides, sampling = rest.pop("overrides", {}), rest.pop("sampling", None)
    if not isinstance(overrides, Mapping):
        raise ConfigError(
            f"{where}: overrides: expected sections such as overrides.diffusion.modulation, got {brief(overrides)}"
        )
    try:
        keys = build(SettingKeys, rest)
        each = {each.name: getattr(keys, each.name) for each in fields(SettingKeys)}
        return StudySetting(**each, overrides=overrides, sampling=_samplings(sampling, "sampling"))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _samplings(tables: object, where: str) -> tuple[SamplingConfig, ...]:
    if tables is None:
        return ()
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{where}: expected tables such as [[sampling]] with sampler and steps, got {brief(tables)}")
    found = tuple(build(SamplingConfig, table, f"{where}.") for table in tables)
    names = [each.sampler for each in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: a sampler is given twice; put all of its steps into one table")
    return found


def _check_seeds(seeds: Sequence[int]) -> None:
    if len(seeds) > _MOST_SEEDS or len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
        raise ConfigError(f"seeds: expected up to {_MOST_SEEDS} different numbers of at least 0, got {brief(seeds)}")
