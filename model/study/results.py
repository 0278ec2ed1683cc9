"""What a study found so far: scores of all finished runs -> differences to the reference, as JSON values. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..evaluation.held_out import ScoredImage
from ..evaluation.paired_differences import Difference, compare, holm
from .config import StudyConfig
from .plan import RRDB_ALONE, Budget, compared_budget, primary_budget, shares_rrdb
from .queue import DONE, RunStatus
from .scoring import Samples

ByBudget = Mapping[str, Mapping[str, Samples]]
"""Label of a budget -> name of an image -> metrics of its samples, see `scoring.Scores`."""
Means = dict[str, dict[str, float]]
"""Metric -> group of images -> mean over its tiles and samples, where it is defined."""


@dataclass(frozen=True)
class Score:
    """The metrics of one setting with one budget, over all of its finished seeds."""

    setting: str
    budget: Budget
    seeds: tuple[int, ...]
    metrics: Mapping[str, float]
    """Mean over seeds and images."""
    by_seed: Mapping[str, tuple[float, ...]]
    """Mean over images, of each seed."""


@dataclass(frozen=True)
class Compared:
    """One metric of one setting and budget, minus the reference's."""

    setting: str
    budget: Budget
    reference: Budget
    """The reference's budget: the same, or its first sampler with as many steps."""
    metric: str
    primary: bool
    found: Difference
    p_holm: float
    """p corrected over all settings and metrics of the primary endpoint; NaN for the others."""


@dataclass(frozen=True)
class Results:
    """A study's results."""

    study: StudyConfig
    statuses: tuple[RunStatus, ...]
    images: tuple[str, ...]
    """The groups: whole images."""
    without_masks: int
    """Number of scored images or tiles without masks."""
    scores: tuple[Score, ...]
    compared: tuple[Compared, ...]

    @property
    def complete(self) -> bool:
        """Whether all runs are done."""
        return all(status.state == DONE for status in self.statuses)


def results_of(
    study: StudyConfig,
    statuses: Sequence[RunStatus],
    images: Sequence[ScoredImage],
    scores: Mapping[str, ByBudget],
) -> Results:
    """The results of all finished runs.

    Args:
        study: the study.
        statuses: of all runs.
        images: that were scored.
        scores: name of a finished run -> its scores.
    """
    groups = {image.name: image.group for image in images}
    means: dict[tuple[str, Budget], dict[int, Means]] = {}
    for status in statuses:
        run = status.run
        for budget in run.budgets if run.name in scores else ():
            if budget == RRDB_ALONE and shares_rrdb(study, run.setting):
                continue
            by_image = scores[run.name].get(budget.label, {})
            means.setdefault((run.setting, budget), {})[run.seed] = _means(study.metrics, by_image, groups)
    order = [each.name for each in study.settings]
    found = [_score(setting, budget, by_seed) for (setting, budget), by_seed in means.items()]
    found.sort(key=lambda each: order.index(each.setting))
    return Results(
        study,
        tuple(statuses),
        images=tuple(dict.fromkeys(groups.values())),
        without_masks=sum(image.labels is None for image in images),
        scores=tuple(found),
        compared=tuple(_corrected(list(_comparisons(study, means, order)))),
    )


def as_document(results: Results) -> dict[str, object]:
    """The results as JSON values; what is not defined is None. Nothing in it depends on time or machine, so a resumed study gives the same."""
    study = results.study
    return {
        "name": study.name,
        "complete": results.complete,
        "reference": study.reference,
        "primary": {"steps": study.primary.steps, "metrics": list(study.primary.metrics)},
        "runs": [
            {
                "name": each.run.name,
                "setting": each.run.setting,
                "seed": each.run.seed,
                "state": each.state,
                "reason": each.reason,
            }
            for each in results.statuses
        ],
        "images": list(results.images),
        "images_without_masks": results.without_masks,
        "training_steps": study.steps,
        "samples": study.samples,
        "scores": [
            {
                "setting": each.setting,
                "sampler": each.budget.sampler,
                "steps": each.budget.steps,
                "seeds": list(each.seeds),
                "metrics": {
                    name: {"mean": _json(mean), "by_seed": [_json(value) for value in each.by_seed[name]]}
                    for name, mean in each.metrics.items()
                },
            }
            for each in results.scores
        ],
        "differences": [
            {
                "setting": each.setting,
                "sampler": each.budget.sampler,
                "steps": each.budget.steps,
                "reference_sampler": each.reference.sampler,
                "metric": each.metric,
                "primary": each.primary,
                "p_holm": _json(each.p_holm),
                **{name: _json(value) for name, value in asdict(each.found).items()},
            }
            for each in results.compared
        ],
    }


def differences_of(ours: Mapping[int, Means], theirs: Mapping[int, Means], metric: str) -> np.ndarray:
    """Ours minus theirs: float [S, I], over common seeds and the images on which the metric is defined in all of their runs. Pure."""
    seeds = sorted(ours.keys() & theirs.keys())
    known = [set(side[seed].get(metric, {})) for side in (ours, theirs) for seed in seeds]
    common = sorted(set.intersection(*known)) if known else []
    rows = [[ours[seed][metric][name] - theirs[seed][metric][name] for name in common] for seed in seeds]
    return np.array(rows, float).reshape(len(seeds), len(common))


def _means(metrics: Sequence[str], by_image: Mapping[str, Samples], groups: Mapping[str, str]) -> Means:
    """Mean over samples, then over the tiles of an image; a tile on which the metric is not defined does not count."""
    means: Means = {}
    for metric in metrics:
        values: dict[str, list[float]] = {}
        for name, samples in by_image.items():
            known = [value for sample in samples if (value := sample.get(metric)) is not None]
            if known and name in groups:
                values.setdefault(groups[name], []).append(sum(known) / len(known))
        means[metric] = {group: sum(each) / len(each) for group, each in values.items()}
    return means


def _score(setting: str, budget: Budget, by_seed: Mapping[int, Means]) -> Score:
    seeds = tuple(sorted(by_seed))
    metrics = next(iter(by_seed.values()))
    of_seeds = {name: tuple(_mean(list(by_seed[seed][name].values())) for seed in seeds) for name in metrics}
    return Score(setting, budget, seeds, metrics={name: _mean(values) for name, values in of_seeds.items()}, by_seed=of_seeds)


def _comparisons(
    study: StudyConfig, means: Mapping[tuple[str, Budget], Mapping[int, Means]], order: Sequence[str]
) -> list[Compared]:
    found = []
    for (setting, budget), ours in sorted(means.items(), key=lambda item: order.index(item[0][0])):
        base = compared_budget(study, budget)
        theirs = means.get((study.reference, base)) if base is not None else None
        if setting == study.reference or base is None or theirs is None:
            continue
        for metric in study.metrics:
            differences = differences_of(ours, theirs, metric)
            if differences.size:
                primary = budget == primary_budget(study, setting) and metric in study.primary.metrics
                difference = compare(differences, resamples=study.bootstrap)
                found.append(Compared(setting, budget, base, metric=metric, primary=primary, found=difference, p_holm=math.nan))
    return found


def _corrected(compared: list[Compared]) -> list[Compared]:
    """With Holm's correction over the primary endpoint."""
    family = [place for place, each in enumerate(compared) if each.primary]
    adjusted = dict(zip(family, holm([compared[place].found.p for place in family]), strict=True))
    return [
        Compared(**{**vars(each), "p_holm": adjusted[place]}) if place in adjusted else each
        for place, each in enumerate(compared)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
