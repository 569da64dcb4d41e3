"""Intervals are SciPy's of the same resamples, and cover what they say they cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from statsmodels.regression.linear_model import OLS

from tistore.audit.effects.definitions import (
    cohens_d_av,
    hedges_g_av,
    hedges_g_z,
    mean_difference,
)
from tistore.audit.effects.intervals import accelerate, bootstrap_pairs, draw_counts
from tistore.audit.effects.moments import ClusterSums, measure_moments
from tistore.audit.effects.studentized import bootstrap_means

MEASURES = {"mean": mean_difference, "paired": hedges_g_z, "unpaired": hedges_g_av}


def draw_sides(n=24, seed=5):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 1))
    return shared + rng.gamma(2, 1, (n, 1)), shared + rng.normal(0, 1, (n, 1))


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_bca_ends_are_those_of_scipy_for_the_same_resamples(name):
    first, second = draw_sides()
    measure = MEASURES[name]
    sums = ClusterSums.of(first, second)
    counts = np.random.default_rng(1).multinomial(24, np.full(24, 1 / 24), size=999)
    drawn = measure(sums.moments(counts.astype(float)))
    left_out = measure(sums.moments(1 - np.eye(24)))

    found = accelerate(measure(sums.whole())[0], drawn, left_out)[:, 0]

    def of_places(places, axis):
        rows = [
            measure(measure_moments(first[one], second[one]))[0] for one in np.atleast_2d(places)
        ]
        return np.array(rows) if np.ndim(places) > 1 else rows[0]

    start = scipy.stats.bootstrap(
        (np.arange(24),), of_places, vectorized=True, method="percentile", n_resamples=9
    )
    expected = scipy.stats.bootstrap(
        (np.arange(24),),
        of_places,
        vectorized=True,
        method="BCa",
        n_resamples=0,
        bootstrap_result=replace(start, bootstrap_distribution=drawn[:, 0]),
    ).confidence_interval
    assert found == pytest.approx([expected.low, expected.high])


def test_intervals_are_those_of_scipy_whose_resamples_are_others():
    values = np.exp(np.random.default_rng(0).normal(0.2, 1, (60, 1)))

    low, high = bootstrap_pairs(values, np.zeros((60, 1)), {"g": hedges_g_z}, resamples=9999)["g"]

    def g(sample, axis=-1):
        return sample.mean(axis=axis) / sample.std(axis=axis, ddof=1) * (1 - 3 / (4 * 59 - 1))

    theirs = scipy.stats.bootstrap(
        (values[:, 0],), g, method="BCa", n_resamples=9999, rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert [low[0], high[0]] == pytest.approx([theirs.low, theirs.high], abs=0.05 * width)


def test_bootstrap_t_is_the_textbooks():
    """Resample by resample: its mean, measured in its own standard error."""
    values = np.random.default_rng(2).gamma(2, 1, (15, 1))
    counts = draw_counts(15, 400, 3).astype(int)
    observed, error = values.mean(), values.std() / np.sqrt(14)

    low, high = bootstrap_means(values, resamples=400, seed=3)

    drawn = [np.repeat(values[:, 0], count) for count in counts]
    distances = [(one.mean() - observed) / (one.std() / np.sqrt(14)) for one in drawn]
    upper, lower = np.quantile(distances, [0.975, 0.025])
    assert [low[0], high[0]] == pytest.approx([observed - upper * error, observed - lower * error])


def test_each_resample_has_the_cluster_robust_error_of_statsmodels():
    rng = np.random.default_rng(5)
    labels = np.sort(rng.integers(0, 12, 60))
    values = rng.normal(size=12)[labels] + rng.normal(size=60)

    def fit(drawn, groups):
        robust = OLS(drawn, np.ones(len(drawn))).fit(
            cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
        )
        n_groups = len(np.unique(groups))
        return robust.params[0], robust.bse[0] * np.sqrt(n_groups / (n_groups - 1))

    low, high = bootstrap_means(values[:, None], labels, resamples=80, seed=3)

    mean, error = fit(values, labels)
    distances = []
    for count in draw_counts(12, 80, 3).astype(int):
        taken = np.repeat(np.arange(12), count)
        rows = [np.flatnonzero(labels == cluster) for cluster in taken]
        groups = np.repeat(np.arange(len(taken)), [len(one) for one in rows])
        found, its_error = fit(values[np.concatenate(rows)], groups)
        distances.append((found - mean) / its_error)
    upper, lower = np.quantile(distances, [0.975, 0.025])
    assert [low[0], high[0]] == pytest.approx([mean - upper * error, mean - lower * error])


@pytest.mark.parametrize("n", [6, 20, 60])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_95_percent_intervals_of_means_cover_the_truth_95_times_in_100(n, shape):
    """1000 data sets at once, each a cell; the binomial error is 0.7 in 100."""
    rng = np.random.default_rng(0)
    values = rng.normal(2, 1, (n, 1000)) if shape == "normal" else rng.gamma(2, 1, (n, 1000))

    low, high = bootstrap_means(values, resamples=1000)

    assert 0.925 <= ((low <= 2) & (high >= 2)).mean() <= 0.97


@pytest.mark.parametrize("name", ["paired", "unpaired"])
def test_95_percent_intervals_of_effects_cover_the_truth_nearly_as_often(name):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(40, 1000))
    first, second = shared + rng.normal(0.4, 1, (40, 1000)), shared + rng.normal(0, 1, (40, 1000))
    truth = 0.4 / np.sqrt(2)

    low, high = bootstrap_pairs(first, second, MEASURES, resamples=1000)[name]

    assert 0.92 <= ((low <= truth) & (high >= truth)).mean() <= 0.97


def test_prompts_of_one_cluster_are_no_independent_evidence():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 5)
    values = rng.normal(0, 1, (30, 600))[labels] + rng.normal(0, 0.5, (150, 600))
    nothing = np.zeros_like(values)

    honest, naive = (bootstrap_means(values, by, resamples=500) for by in (labels, None))
    effect = bootstrap_pairs(values, nothing, {"g": hedges_g_z}, labels, resamples=500)["g"]

    covered = [((low <= 0) & (high >= 0)).mean() for low, high in (honest, effect, naive)]
    assert covered[0] >= 0.92 and covered[1] >= 0.9
    assert covered[2] <= 0.75


def test_means_that_do_not_vary_are_their_own_bounds():
    values = np.full((9, 2), 0.1)
    values[:5, 1] = np.nan

    low, high = bootstrap_means(values)

    assert low[0] == high[0] == pytest.approx(0.1)
    assert np.isnan(low[1]) and np.isnan(high[1])


def test_too_few_clusters_have_no_interval():
    first, second = draw_sides(12)
    few, enough = np.arange(12) % 4, np.arange(12) % 5

    means = [bootstrap_means(first - second, labels) for labels in (few, enough)]
    without = bootstrap_pairs(first, second, MEASURES, few)
    found = bootstrap_pairs(first, second, MEASURES, enough)

    assert np.isnan(means[0]).all() and np.isfinite(means[1]).all()
    assert all(np.isnan(ends).all() for ends in without.values())
    assert all(np.isfinite(ends).all() for ends in found.values())


def test_cells_are_computed_alike_alone_and_among_many():
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 20, 300))
    first[:6, 7] = np.nan

    whole = bootstrap_pairs(first, second, {"d": cohens_d_av}, resamples=200)["d"]

    for cell in (7, 299):
        alone = bootstrap_pairs(
            first[:, [cell]], second[:, [cell]], {"d": cohens_d_av}, resamples=200
        )["d"]
        assert [end[cell] for end in whole] == pytest.approx([end[0] for end in alone])


def test_the_same_seed_gives_the_same_interval():
    first, second = draw_sides()

    once, again, other = (
        bootstrap_pairs(first, second, MEASURES, seed=seed)["paired"] for seed in (4, 4, 5)
    )

    assert once[0] == again[0] and once[1] == again[1]
    assert once[0] != other[0]
