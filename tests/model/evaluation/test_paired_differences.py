"""The statistics of a study against scipy, hand calculation and simulation."""

import math

import numpy as np
import pytest

from samdiff.model.evaluation.paired_differences import (
    Spread,
    bootstrap_interval,
    compare,
    detectable,
    holm,
    p_value,
    spread_of,
    t_cdf,
    t_quantile,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("df", [1, 2, 2.5, 7, 31.3, 400, 1e6])
def test_students_t(df):
    for t in (-30.0, -2.0, -0.1, 0.0, 0.3, 1.0, 4.3, 60.0):
        assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-15 * df + 1e-13)
    for probability in (0.5, 0.8, 0.975, 0.9999):
        assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-9, abs=1e-12)


def test_one_seed_is_the_plain_t_test():
    """Also the minimum of the power: with that true difference, the t-test finds it in about 80 % of studies."""
    values = np.random.default_rng(1).normal(0.3, 1.0, (1, 12))
    found, expected = compare(values, resamples=1000), stats.ttest_1samp(values[0], 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.error == pytest.approx(stats.sem(values[0]))
    assert (found.seeds, found.images) == (1, 12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    many = np.random.default_rng(2).normal(detectable(Spread(1 / 40**0.5, 39)), 1.0, (4000, 40))
    power = (stats.ttest_1samp(many, 0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.80, abs=0.025)


def test_crossed_variance_by_hand():
    """2 x 2: mean squares worked out on paper; and the exact case of additive effects."""
    values = np.array([[1.0, 2.0], [3.0, 6.0]])  # means 1.5, 4.5 | 2, 4; grand 3
    ms_seed, ms_image, ms_rest = 9.0, 4.0, 1.0
    spread = spread_of(values)
    assert spread.error == pytest.approx(((ms_seed + ms_image - ms_rest) / 4) ** 0.5)
    assert spread.df == pytest.approx(12**2 / (81 + 16 + 1))


def test_crossed_test_keeps_its_level():
    """No true difference, seed and image effects of the same size: at most about 5 % of studies find one. Images alone would find many."""
    random = np.random.default_rng(3)
    hits = naive = 0
    for _ in range(1500):
        values = random.normal(0, 1, (3, 1)) + random.normal(0, 1, (1, 8)) + random.normal(0, 1, (3, 8))
        hits += p_value(float(values.mean()), spread_of(values)) < 0.05
        naive += stats.ttest_1samp(values.mean(axis=0), 0).pvalue < 0.05
    assert hits / 1500 < 0.07
    assert naive / 1500 > 0.15


def test_the_larger_mean_square_is_the_least():
    """Where the rest is larger than an effect, the variance does not fall below that of the other effect."""
    values = np.array([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.4]])
    means = values.mean(axis=0)
    assert spread_of(values).error == pytest.approx((2 * ((means - means.mean()) ** 2).sum() / 2 / 6) ** 0.5)
    assert spread_of(values).df == 2


def test_bootstrap_against_all_resamples():
    """2 seeds, 2 images: 16 equally likely means, so the 95 % interval spans the smallest and the largest."""
    values = np.array([[0.0, 1.0], [4.0, 9.0]])
    assert bootstrap_interval(values, resamples=4000) == (0.0, 9.0)
    wide = np.random.default_rng(4).normal(1, 1, (1, 200))
    low, high = bootstrap_interval(wide, resamples=4000)
    half = 1.96 * wide.std() / 200**0.5
    assert low == pytest.approx(wide.mean() - half, abs=0.02)
    assert high == pytest.approx(wide.mean() + half, abs=0.02)
    assert bootstrap_interval(wide, resamples=500) == bootstrap_interval(wide, resamples=500)


def test_holm():
    """The example of Holm's procedure with m = 4, and a known property: never below Bonferroni's smallest, monotone, NaN left out."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm([0.9, math.nan, 0.5])
    assert found[0] == 1.0
    assert math.isnan(found[1])
    assert found[2] == 1.0


def test_single_values_and_equal_ones():
    single = compare(np.array([[0.5]]), resamples=100)
    assert single.mean == 0.5
    assert math.isnan(single.p)
    assert math.isnan(single.detectable)
    assert compare(np.zeros((2, 3)), resamples=100).p == 1.0
    assert compare(np.ones((1, 3)), resamples=100).p == 0.0
