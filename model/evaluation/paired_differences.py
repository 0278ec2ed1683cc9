"""Paired differences of two settings over seeds and images: mean, interval, test, correction, power. Pure numpy.

The differences D [S, I] of S training seeds and I images are taken as mean + seed effect + image effect + rest (crossed random effects):

    MS_seed, MS_image, MS_rest    mean squares of the two-way layout with one value per cell
    variance of the mean          (MS_seed + MS_image - MS_rest) / (S I), at least max(MS_seed, MS_image) / (S I)
    degrees of freedom            Satterthwaite's (1946)

With one seed, or one image, only the other is random, and the variance is that of a plain mean: such a result says nothing of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LEVEL, POWER = 0.05, 0.80
"""Two-sided level of tests and intervals; power of the detectable difference."""


@dataclass(frozen=True)
class Spread:
    """How well the mean of differences is known."""

    error: float
    """Standard error of the mean; NaN with a single value."""
    df: float
    """Degrees of freedom; NaN with a single value."""


@dataclass(frozen=True)
class Difference:
    """A setting minus the reference, over common seeds and images."""

    mean: float
    low: float
    """Lower end of the 95 % interval, mean - t_0.975 x error; NaN with a single value."""
    high: float
    """Upper end."""
    bootstrap_low: float
    """Lower end of the 95 % interval of the two-level bootstrap, which is too narrow with few seeds."""
    bootstrap_high: float
    """Upper end."""
    error: float
    """Standard error, see `spread_of`."""
    p: float
    """Two-sided p-value of the t-test, not corrected; NaN with a single value."""
    detectable: float
    """The smallest true difference that would have been found with 80 % power, see `detectable`."""
    seeds: int
    images: int


def compare(differences: np.ndarray, *, resamples: int, seed: int = 0) -> Difference:
    """Everything about paired differences.

    Args:
        differences: float [S, I], setting minus reference: one value per training seed and image, all finite.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    spread = spread_of(differences)
    mean = float(differences.mean())
    half = t_quantile(1 - LEVEL / 2, spread.df) * spread.error if not math.isnan(spread.df) else math.nan
    low, high = bootstrap_interval(differences, resamples=resamples, seed=seed)
    return Difference(
        mean,
        mean - half,
        mean + half,
        bootstrap_low=low,
        bootstrap_high=high,
        error=spread.error,
        p=p_value(mean, spread),
        detectable=detectable(spread),
        seeds=differences.shape[0],
        images=differences.shape[1],
    )


def spread_of(differences: np.ndarray) -> Spread:
    """Standard error of the mean of differences [S, I], and its degrees of freedom; see the formulas above.

    Source: the quasi-F of Clark 1973 (The language-as-fixed-effect fallacy, J. Verbal Learning 12, 335), written for a single mean; degrees
    of freedom by Satterthwaite 1946 (Biometrics Bulletin 2, 110).
    """
    seeds, images = differences.shape
    if seeds == 1 or images == 1:
        values = differences.ravel()
        count = len(values)
        error = float(values.std(ddof=1)) / count**0.5 if count > 1 else math.nan
        return Spread(error, float(count - 1) if count > 1 else math.nan)
    mean, of_seed, of_image = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    ms_seed = images * float(((of_seed - mean) ** 2).sum()) / (seeds - 1)
    ms_image = seeds * float(((of_image - mean) ** 2).sum()) / (images - 1)
    rest = differences - of_seed[:, None] - of_image[None] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    together = ms_seed + ms_image - ms_rest
    larger, its_df = max((ms_seed, seeds - 1), (ms_image, images - 1))
    if together < larger:  # one of the two is no larger than the rest explains
        return Spread((larger / differences.size) ** 0.5, float(its_df))
    parts = ms_seed**2 / (seeds - 1) + ms_image**2 / (images - 1) + ms_rest**2 / ((seeds - 1) * (images - 1))
    return Spread((together / differences.size) ** 0.5, together**2 / parts if parts else float(seeds - 1))


def bootstrap_interval(differences: np.ndarray, *, resamples: int, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of differences [S, I], with seeds and images resampled, each with replacement.

    Source: the pigeonhole bootstrap of Owen 2007 (Annals of Applied Statistics 1, 386). With few seeds it is too narrow: a resample of
    three seeds has on average two thirds of their variance, and there is no t to make up for it.
    """
    rows, columns = _draws(*differences.shape, resamples=resamples, seed=seed)
    means = ((rows @ differences) * columns).sum(axis=1)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _draws(seeds: int, images: int, *, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of each seed and each image in each resample: float [R, S], float [R, I]."""
    random = np.random.default_rng(seed)
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return rows, random.multinomial(images, np.full(images, 1 / images), size=resamples) / images


def p_value(mean: float, spread: Spread) -> float:
    """Two-sided p of the t-test of mean 0. NaN with a single value; 1 or 0 if all differences are equal (zero, or another number)."""
    if math.isnan(spread.df):
        return math.nan
    if spread.error == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * t_cdf(-abs(mean) / spread.error, spread.df)


def detectable(spread: Spread) -> float:
    """The smallest true difference found with 80 % power at the two-sided 5 % level: (t_0.975 + t_0.80) x standard error.

    Source: minimum detectable effects of Bloom 1995 (Evaluation Review 19, 547).
    """
    if math.isnan(spread.df):
        return math.nan
    return (t_quantile(1 - LEVEL / 2, spread.df) + t_quantile(POWER, spread.df)) * spread.error


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction of a family of p-values, in their order; NaN stays NaN and does not count."""
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def t_cdf(t: float, df: float) -> float:
    """Student's t: P(T <= t), by the incomplete beta function (Abramowitz and Stegun 26.7.1, 26.5.27)."""
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    tail = 0.5 * _beta_ratio(df / (df + t * t), a=df / 2, b=0.5)
    return 1 - tail if t > 0 else tail


def t_quantile(probability: float, df: float) -> float:
    """The t with P(T <= t) = probability, 0.5 or more and below 1, by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, df) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < probability else (low, middle)
    return (low + high) / 2


def _beta_ratio(x: float, *, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction (Numerical Recipes 6.4), for 0 <= x <= 1."""
    if x in (0.0, 1.0):
        return x
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a=a, b=b) / a
    return 1 - front * _fraction(1 - x, a=b, b=a) / b


def _fraction(x: float, *, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b), by Lentz's method."""
    tiny, c, d = 1e-300, 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            c = 1 + numerator / c
            d, c = 1 / (d if abs(d) > tiny else tiny), c if abs(c) > tiny else tiny
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return value
