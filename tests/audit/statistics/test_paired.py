"""Paired means, q and the smallest effect: the figures are textbook ones."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from tistore.audit.statistics.discoveries import adjust_bh
from tistore.audit.statistics.paired import mean_difference
from tistore.audit.statistics.power import smallest_effect
from tistore.errors import InvalidRecordError


def test_mean_and_g_are_the_textbooks(rng_values):
    values = rng_values(25, 3, 0.4)

    found = mean_difference(values)

    d = values.mean(axis=0) / values.std(axis=0, ddof=1)
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.g, d * (1 - 3 / (4 * 24 - 1)))
    np.testing.assert_allclose(found.error, values.std(axis=0, ddof=1) / np.sqrt(25))
    np.testing.assert_allclose(found.design_effect, 1.0)
    assert (mean_difference(-values).g == -found.g).all()


@pytest.mark.parametrize("cell", [0, 1])
def test_the_clustered_error_is_statsmodels(cell, rng_values):
    labels = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6])
    values = rng_values(len(labels), 2) + rng_values(12, 1)[labels]

    error = mean_difference(values, labels).error[cell]

    fit = sm.OLS(values[:, cell], np.ones(len(labels))).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "use_correction": True}
    )
    # statsmodels also multiplies by (n - 1) / (n - number of coefficients), here 1.
    assert error == pytest.approx(fit.bse[0])


def test_too_few_prompts_give_no_figure():
    values = np.array([[1.0, 2.0, np.nan], [1.0, np.nan, np.nan], [1.0, np.nan, np.nan]])

    found = mean_difference(values)

    assert found.n.tolist() == [3, 1, 0]
    assert np.isnan(found.g).all()


def test_cluster_labels_must_be_as_many_as_prompts(rng_values):
    with pytest.raises(InvalidRecordError, match="3 cluster labels for 5 prompts"):
        mean_difference(rng_values(5, 1), np.arange(3))


def test_q_is_statsmodels():
    p = np.random.default_rng(0).uniform(size=200) ** 3

    q = adjust_bh(p)

    np.testing.assert_allclose(q, multipletests(p, method="fdr_bh")[1])


def test_q_counts_only_what_was_tested():
    p = np.array([[0.01, np.nan], [0.04, 0.02]])

    q = adjust_bh(p)

    np.testing.assert_allclose(q[[0, 1, 1], [0, 1, 0]], [0.03, 0.03, 0.04])
    assert np.isnan(q[0, 1])
    assert adjust_bh(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("n", [16, 36, 275])
@pytest.mark.parametrize("level", [0.05, 0.05 / 952])
def test_the_smallest_effect_is_statsmodels(n, level):
    (effect,) = smallest_effect(np.array([float(n)]), level)

    # One-sided at half the level: statsmodels' two-sided power also counts the wrong side.
    theirs = TTestPower().solve_power(nobs=n, alpha=level / 2, power=0.8, alternative="larger")
    assert effect == pytest.approx(theirs, rel=1e-4)


def test_one_prompt_shows_no_effect_of_any_size():
    assert np.isnan(smallest_effect(np.array([1.0, 0.0, np.nan]), 0.05)).all()


def test_no_effect_is_large_enough_for_prompts_that_no_signs_of_could_reach_the_level():
    """Five prompts give p = 1/16 at the least; forty in two clusters 1/2."""
    five, six = smallest_effect(np.array([5.0, 6.0]), 0.05)
    (clustered,) = smallest_effect(np.array([40.0]), 0.05, np.array([2]))

    assert np.isnan(five) and np.isfinite(six) and np.isnan(clustered)
