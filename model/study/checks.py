"""Everything that a study's runs share, opened and checked before the first step: stores, images, metrics, and each run's settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import ConfigError, SamdiffError, printable
from ...pipeline.download.benchmarks import find_benchmark
from ...pipeline.shards.reader import Store
from ...pipeline.stream.dataset import ShardDataset, open_to_stream
from ..checkpoints.initial import check_given
from ..checkpoints.plain import read_object_file
from ..evaluation.held_out import ScoredImage, check_same_images, digest_of, held_out_tiles, of_benchmark
from ..evaluation.paired_differences import check_statistics
from ..losses.perceptual import PerceptualMetric
from ..objectives.residual_spread import with_rescale
from ..training.distributed import ProcessGroup
from ..training.run_dir import changes, saved_settings
from ..training.tasks import check_inputs
from .config import StudyConfig
from .plan import RRDB_ALONE, PlannedRun, plan_runs
from .queue import RunStatus, place_of, status_of
from .scoring import check_regions, load_networks


@dataclass(frozen=True)
class Workshop:
    """A checked study with all that its runs share."""

    study: StudyConfig
    out: Path
    runs: tuple[PlannedRun, ...]
    stores: Mapping[str, Store]
    """By the name that the study gives them."""
    images: tuple[ScoredImage, ...]
    networks: Mapping[str, PerceptualMetric]
    device: torch.device
    keys: Mapping[str, str]
    """Name of a run -> what identifies its settings, data and images, see `queue.status_of`."""

    def statuses(self) -> list[RunStatus]:
        """Where each run stands, in the order of the queue."""
        return [status_of(self.out, run, self.keys[run.name]) for run in self.runs]


def open_study(study: StudyConfig, out: Path, device: torch.device, report: Callable[[str], None] = lambda _: None) -> Workshop:
    """Open stores, images and metrics, and check the settings of all runs. Nothing is written, except for downloaded weights.

    Args:
        study: the study.
        out: its folder.
        device: to train and sample on.
        report: called with what is left out.

    Raises:
        ConfigError, StoreError, WeightsError, MissingPackageError: what cannot be used; the settings' problems are all in one message.
    """
    check_statistics()
    main = open_to_stream(study.store)
    runs = plan_runs(study, main.scale)
    stores = {study.store: main}
    for name in dict.fromkeys(run.store for run in runs):
        if name not in stores:
            stores[name] = open_to_stream(name)
            check_same_images(main, stores[name])
    for name, store in stores.items():
        if not store.samples.is_rgb8:
            raise ConfigError(
                f"store: {printable(name)}: studies score 8-bit RGB, it has {store.samples.describe()}; use `samdiff train`"
            )
    check_runs(runs, stores, device)
    images = read_images(study, main)
    if missing := check_regions(study, images):
        report(missing)
    networks = load_networks(study, images, device)
    pixels = digest_of(images)
    check_begun(runs, out, stores)
    keys = {run.name: _key(study, run, stores[run.store].fingerprint, pixels) for run in runs}
    return Workshop(study, out, runs, stores=stores, images=tuple(images), networks=networks, device=device, keys=keys)


def read_images(study: StudyConfig, store: Store) -> list[ScoredImage]:
    """All images of a study, in a fixed order. ConfigError or StoreError if one cannot be used."""
    images = held_out_tiles(store, study.images, tiles=study.tiles, crop=study.crop) if study.images else []
    for name in study.benchmarks:
        images += of_benchmark(find_benchmark(Path(name)), store.scale)
    names = [image.name for image in images]
    if len(set(names)) < len(names):
        raise ConfigError("benchmarks: two of them have the same name, so their images could not be told apart; rename one")
    return images


def check_runs(runs: Sequence[PlannedRun], stores: Mapping[str, Store], device: torch.device) -> None:
    """ConfigError if a run's settings do not fit its store, its RRDB or its samplers; all problems in one message."""
    problems: dict[str, str] = {}
    for run in runs:
        if run.setting in problems:  # the same for its other seeds
            continue
        try:
            _check_run(run, stores[run.store], device)
        except SamdiffError as error:
            problems[run.setting] = str(error)
    if problems:
        raise ConfigError("; ".join(f"setting {name!r}: {printable(reason)}" for name, reason in problems.items()))


def check_begun(runs: Sequence[PlannedRun], out: Path, stores: Mapping[str, Store]) -> None:
    """ConfigError if a run was begun with other settings or another store: then it could be neither resumed nor compared."""
    problems = []
    for run in runs:
        file = place_of(out, run).folder / "config.json"
        if file.exists():
            try:
                saved = saved_settings(read_object_file(file))
            except (ValueError, OSError) as error:
                raise ConfigError(
                    f"{printable(file)}: damaged ({printable(error)}); restore it, or move the folder away"
                ) from error
            now = {**saved, **run.config.as_dict(), "stores": [stores[run.store].fingerprint]}
            different = [line for lines in changes(saved, now) for line in lines]
            problems += [f"{run.name}: {', '.join(different[:3])}"] if different else []
    if problems:
        raise ConfigError(
            f"{printable(out)}: runs were begun with other settings ({'; '.join(problems[:4])}); restore them in the study's file, "
            "move the runs' folders away, or give another --out"
        )


def _check_run(run: PlannedRun, store: Store, device: torch.device) -> None:
    config = run.config
    data = ShardDataset([store], config.train.patch, config.train.seed, hold_out=config.validate.images)
    check_inputs(config, [store], data, ranks=ProcessGroup(device))
    check_given(config, Path(run.rrdb) if run.rrdb else None, None)
    process = with_rescale(config, config.diffusion.rescale or 1.0).diffusion.build_process()
    for budget in run.budgets:
        if budget != RRDB_ALONE:
            process.plan(budget.sampler, budget.steps)


def _key(study: StudyConfig, run: PlannedRun, fingerprint: str, pixels: str) -> str:
    facts = {
        "config": run.config.as_dict(),
        "store": fingerprint,
        "rrdb": [run.rrdb, run.own_rrdb],
        "budgets": [budget.label for budget in run.budgets],
        "images": pixels,
        **scored_with(study),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def scored_with(study: StudyConfig) -> dict[str, object]:
    """The study's settings that determine the scores of a given model on given images."""
    return {"metrics": sorted(study.metrics), "samples": study.samples, "band": study.band}
