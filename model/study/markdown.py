"""The results of a study as a page of Markdown. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...errors import printable
from .config import HIGHER_IS_BETTER, OF_REGIONS
from .plan import primary_budget
from .queue import DONE, RunStatus
from .results import Compared, Results, Score

TITLES: Mapping[str, str] = {
    "psnr_y": "PSNR Y",
    "ssim_y": "SSIM Y",
    "lpips": "LPIPS",
    "lpips-vgg": "LPIPS (VGG)",
    "dists": "DISTS",
    "psnr_boundary": "PSNR boundary",
    "psnr_inside": "PSNR inside",
    "lpips_boundary": "LPIPS boundary",
    "lpips_inside": "LPIPS inside",
}
"""Metric -> heading."""


def as_markdown(results: Results) -> str:
    """The page: what was done, the primary endpoint, all metrics, all differences, cost, methods."""
    study = results.study
    parts = [
        f"# Study {study.name}",
        _state(results),
        f"Each run: {study.steps} training steps of stage two, preset `{study.preset}`. Scored on {len(results.images)} images, "
        f"{study.samples} {'sample' if study.samples == 1 else 'samples'} of each. "
        f"↑: higher is better, ↓: lower is better. All differences are to `{study.reference}`.",
    ]
    if results.without_masks and any(name in OF_REGIONS for name in study.metrics):
        parts.append(f"Metrics of boundaries leave out {results.without_masks} scored images, which have no masks.")
    parts += ["## Primary endpoint", *_primary(results)]
    parts += ["## Metrics", _table_of_scores(results)]
    parts += ["## Differences", _table_of_differences(results.compared, study.metrics)]
    parts += ["## Training speed", _table_of_cost(results.statuses), "## Methods", _METHODS.format(band=study.band)]
    return "\n\n".join(parts) + "\n"


def _state(results: Results) -> str:
    done = sum(each.state == DONE for each in results.statuses)
    if results.complete:
        return f"Complete: {done} runs."
    lines = [f"**Partial: {done} of {len(results.statuses)} runs are done. Everything below may change.**"]
    lines += [f"- {each.run.name}: failed, {printable(each.reason)}" for each in results.statuses if each.reason]
    return "\n".join(lines)


def _primary(results: Results) -> list[str]:
    study = results.study
    text = f"{study.primary.steps} sampling steps with the first sampler of each setting; {', '.join(study.primary.metrics)}."
    left_out = [each.name for each in study.settings if primary_budget(study, each.name) is None]
    if left_out:
        text += f" Not sampled with these steps, so not in it: {', '.join(left_out)}."
    chosen = [each for each in results.compared if each.primary]
    if not chosen:
        return [text, f"Nothing to compare yet: a setting and `{study.reference}` need a finished run of the same seed."]
    head = ["setting", "metric", "difference", "95 % interval", "bootstrap", "p", "p, Holm", "detectable", "seeds", "images"]
    rows = [
        [
            f"`{each.setting}`",
            _title(each.metric),
            _signed(each.found.mean, each.metric),
            _interval(each.found.low, each.found.high, each.metric),
            _interval(each.found.bootstrap_low, each.found.bootstrap_high, each.metric),
            _p(each.found.p),
            _p(each.p_holm),
            _number(each.found.detectable, each.metric),
            str(each.found.seeds),
            str(each.found.images),
        ]
        for each in chosen
    ]
    return [text, _table(head, rows)]


def _table_of_scores(results: Results) -> str:
    metrics = results.study.metrics
    rows = [_score_row(each, metrics) for each in results.scores]
    return _table(["setting", "sampler", "steps", "seeds", *map(_title, metrics)], rows) if rows else "No run is done yet."


def _score_row(score: Score, metrics: Sequence[str]) -> list[str]:
    budget = score.budget
    values = [_number(score.metrics[name], name) for name in metrics]
    return [f"`{score.setting}`", budget.sampler, str(budget.steps or ""), str(len(score.seeds)), *values]


def _table_of_differences(compared: Sequence[Compared], metrics: Sequence[str]) -> str:
    """One row per setting and budget, one column per metric: difference and interval; **bold** where the interval leaves out 0."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for each in compared:
        sampler = each.budget.sampler + (f" - {each.reference.sampler}" if each.reference != each.budget else "")
        cell = f"{_signed(each.found.mean, each.metric)} ({_interval(each.found.low, each.found.high, each.metric)})"
        apart = each.found.low > 0 or each.found.high < 0
        row = rows.setdefault((each.setting, sampler, str(each.budget.steps or "")), {})
        row[each.metric] = f"**{cell}**" if apart else cell
    if not rows:
        return "Nothing to compare yet."
    head = ["setting", "sampler", "steps", *map(_title, metrics)]
    table = _table(head, [[f"`{key[0]}`", *key[1:], *(cells.get(name, "") for name in metrics)] for key, cells in rows.items()])
    return f"Differences with their 95 % intervals, not corrected for their number; bold: the interval does not contain 0.\n\n{table}"


def _table_of_cost(statuses: Sequence[RunStatus]) -> str:
    rates: dict[str, list[float]] = {}
    for each in statuses:
        if each.rate > 0 and not each.run.is_rrdb:
            rates.setdefault(each.run.setting, []).append(each.rate)
    rows = [[f"`{name}`", f"{sorted(known)[len(known) // 2]:.1f}"] for name, known in rates.items()]
    note = "Samples per second at the end of training, the median of the runs; it depends on what else the machine did."
    return f"{note}\n\n{_table(['setting', 'samples per second'], rows)}" if rows else "Not known yet."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |" for line in lines)


def _title(metric: str) -> str:
    return f"{TITLES[metric]} {'↑' if metric in HIGHER_IS_BETTER else '↓'}"


def _digits(metric: str) -> int:
    return 2 if metric.startswith("psnr") else 4


def _number(value: float, metric: str) -> str:
    return f"{value:.{_digits(metric)}f}" if math.isfinite(value) else "–"


def _signed(value: float, metric: str) -> str:
    digits = _digits(metric) + metric.startswith("psnr")
    return f"{value:+.{digits}f}" if math.isfinite(value) else "–"


def _interval(low: float, high: float, metric: str) -> str:
    return f"{_signed(low, metric)} to {_signed(high, metric)}"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


_METHODS = """\
- Runs of one seed share initial weights, sample order, crops, time steps and noise; all runs share the sampling noise of each image. So
  differences are paired by seed and image. Tiles and samples of one image are averaged first.
- Interval and p: t with seeds and images as crossed random effects, variance (MS_seed + MS_image - MS_rest) / (S I), Satterthwaite's
  degrees of freedom (Clark 1973). With one seed they speak of that seed only.
- Bootstrap: percentile interval of 95 % over resampled seeds and images (Owen 2007), fixed random seed. With few seeds it is too narrow.
- p, Holm: corrected over all settings and metrics of the primary endpoint (Holm 1979). All other differences are exploratory.
- Detectable: the smallest true difference that this study would have found with 80 % power at the two-sided 5 % level, by the measured
  variance: (t_0.975 + t_0.80) x standard error (Bloom 1995).
- Boundary: pixels at most {band} rows and columns away from a pixel whose mask differs from a neighbour's; inside: all others. PSNR on Y of
  these pixels; LPIPS: the mean of its spatial map (AlexNet) over them."""
