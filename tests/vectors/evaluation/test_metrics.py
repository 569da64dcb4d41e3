"""Measures of separation, against scikit-learn, statsmodels and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from statsmodels.stats.meta_analysis import effectsize_smd

from tistore.vectors.evaluation.cross_fit import HeldOutScores
from tistore.vectors.evaluation.intervals import bootstrap_intervals
from tistore.vectors.evaluation.metrics import (
    ResampledMetrics,
    auroc,
    balanced_accuracy,
    hedges_g,
    share_of_pairs_ordered,
)

# Few different values: ties are common.
score_lists = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 2)), min_size=2, max_size=40
)


@given(score_lists)
def test_auroc_is_scikit_learns_within_each_stratum(rows):
    """Strata weigh as many pairs as they have; those of one side have none."""
    scores, labels, strata = (np.array(column) for column in zip(*rows, strict=True))
    above = pairs = 0.0
    for stratum in range(3):
        inside = strata == stratum
        n_pairs = labels[inside].sum() * (~labels[inside]).sum()
        if n_pairs:
            above += n_pairs * roc_auc_score(labels[inside], scores[inside])
            pairs += n_pairs

    found = auroc(scores.astype(float), labels, strata)

    assert found == pytest.approx(above / pairs) if pairs else np.isnan(found)


def test_auroc_of_many_questions_is_that_of_each():
    rng = np.random.default_rng(0)
    scores, strata = rng.normal(size=(7, 30)), np.arange(30) % 4
    labels = rng.random((7, 30)) < 0.5

    together = auroc(scores, labels, strata)

    each = [auroc(one, its, strata) for one, its in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(together, each)


@given(score_lists)
def test_balanced_accuracy_is_scikit_learns(rows):
    """A score of 0 counts half: the mean of calling it either way."""
    scores, labels, _ = (np.array(column) for column in zip(*rows, strict=True))
    assume(labels.any() and not labels.all())

    found = balanced_accuracy(scores.astype(float), labels)

    either = [balanced_accuracy_score(labels, called) for called in (scores > 0, scores >= 0)]
    assert found == pytest.approx(np.mean(either))


values = st.lists(st.floats(-100, 100), min_size=2, max_size=30).map(np.array)


@given(values, values)
def test_hedges_g_agrees_with_the_t_statistic_and_with_statsmodels(first, second):
    """t = d · sqrt(n₁n₂ / (n₁+n₂)) for the pooled-variance test, so SciPy is an oracle."""
    assume(min(np.ptp(first), np.ptp(second)) > 0.1)  # else SciPy warns of lost digits
    n, m = len(first), len(second)
    t = stats.ttest_ind(first, second).statistic
    corrected = 1 - 3 / (4 * (n + m - 2) - 1)

    found = hedges_g(first, second)

    assert found == pytest.approx(t * np.sqrt((n + m) / (n * m)) * corrected, rel=1e-6, abs=1e-9)
    oracle, _ = effectsize_smd(
        first.mean(), first.std(ddof=1), n, second.mean(), second.std(ddof=1), m
    )
    assert found == pytest.approx(oracle, rel=1e-6, abs=1e-9)


def test_hedges_g_keeps_its_sign_and_knows_when_it_cannot_be_told():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0, 1, 20), rng.normal(3, 1, 20)

    assert hedges_g(high, low) == -hedges_g(low, high) > 2
    assert np.isnan(hedges_g(np.ones(1), low))
    assert np.isnan(hedges_g(np.ones(5), np.ones(5)))


def test_share_of_pairs_ordered_counts_pairs_only_and_ties_half():
    scores = np.array([2.0, 5.0, 1.0, 9.0, 1.0, 6.0, 1.0])
    labels = np.array([True, True, True, True, False, False, False])
    groups = np.array([0, 1, 2, 3, 0, 1, 2])

    # 0: 2 > 1; 1: 5 < 6; 2: 1 = 1; 3 has no other side.
    assert share_of_pairs_ordered(scores, labels, groups) == pytest.approx(1.5 / 3)
    assert np.isnan(share_of_pairs_ordered(scores[3:5], labels[3:5], groups[3:5]))


def make_held_out(n_pairs: int, shift: float, seed: int, *, paired: bool = True) -> HeldOutScores:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.5, n_pairs) if paired else np.zeros(n_pairs)
    positive, negative = rng.normal(size=(2, n_pairs)) + common
    scores = np.concatenate([positive + shift / 2, negative - shift / 2])
    groups = np.tile(np.arange(n_pairs), 2) if paired else np.arange(2 * n_pairs)
    folds = np.tile(np.arange(n_pairs) % 5, 2)
    return HeldOutScores(scores, np.repeat([True, False], n_pairs), groups, folds)


@pytest.mark.parametrize("paired", [True, False])
def test_resampled_figures_are_those_of_the_rows_taken_as_often(paired):
    """Products of group sums, against the figures of rows that are really repeated."""
    held_out = make_held_out(12, 1.0, 1, paired=paired)
    index = held_out.groups
    metrics = ResampledMetrics(held_out.scores, held_out.is_positive, index, held_out.folds)
    counts = np.random.default_rng(2).multinomial(
        40, np.full(index.max() + 1, 1 / (index.max() + 1)), 6
    )

    found = metrics.all(counts.astype(float))

    for at, count in enumerate(counts):
        taken = np.repeat(np.arange(len(index)), count[index])
        scores, labels = held_out.scores[taken], held_out.is_positive[taken]
        wanted = [
            hedges_g(scores[labels], scores[~labels]),
            auroc(scores, labels, held_out.folds[taken]),
            balanced_accuracy(scores, labels),
        ]
        np.testing.assert_allclose(found[:, at], wanted)


def test_intervals_are_scipys_with_whole_groups_as_the_units():
    """The same draws, and a statistic that gathers the rows of each drawn group one by one."""
    held_out = make_held_out(15, 1.0, 3)
    rows_of = [np.flatnonzero(held_out.groups == group) for group in range(15)]

    def measure(measured):
        def statistic(drawn):
            taken = np.concatenate([rows_of[group] for group in drawn])
            scores, labels = held_out.scores[taken], held_out.is_positive[taken]
            return measured(scores, labels, held_out.folds[taken])

        return statistic

    def naive_g(scores, labels, folds):
        return hedges_g(scores[labels], scores[~labels])

    def interval(measured, method):
        done = stats.bootstrap(
            (np.arange(15),), measure(measured), vectorized=False, method=method,
            n_resamples=200, rng=np.random.default_rng(7),
        )  # fmt: skip
        return tuple(done.confidence_interval)

    found = bootstrap_intervals(held_out, resamples=200, seed=7)

    assert found.g == pytest.approx(interval(naive_g, "BCa"))
    assert found.auroc == pytest.approx(interval(auroc, "percentile"))


def test_the_interval_of_g_holds_the_truth_as_often_as_it_says():
    """95 % nominal; pairs that share half of their noise would fool row-wise resampling."""
    n_pairs, shift = 80, 1.0
    truth = shift / np.sqrt(1 + 0.5**2)
    held = 0
    for seed in range(400):
        found = bootstrap_intervals(make_held_out(n_pairs, shift, seed), resamples=400, seed=seed)
        held += found.g[0] <= truth <= found.g[1]

    assert 0.93 <= held / 400 <= 0.97


def test_scores_without_spread_or_mistake_have_intervals_that_say_so():
    held_out = make_held_out(10, 50.0, 0)
    found = bootstrap_intervals(held_out, resamples=100)
    assert found.auroc == (1.0, 1.0)

    still = HeldOutScores(np.zeros(20), held_out.is_positive, held_out.groups, held_out.folds)
    assert np.isnan(bootstrap_intervals(still, resamples=100).g).all()
