"""Nulls: where there is nothing to find, as little is found as is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import score_folds
from tistore.vectors.evaluation.evaluate import Effort, evaluate
from tistore.vectors.evaluation.labelled import LabelledRows, deal_folds
from tistore.vectors.evaluation.nulls import (
    permutation_null,
    permute_labels,
    random_null,
    share_as_large,
)
from tistore.vectors.methods.registry import METHODS

MEAN_DIFFERENCE = METHODS["mean_diff"]
NULLS = Effort(resamples=0, permutations=99, random=99)


def make_contrast(n=20, width=6, shift=0.0, seed=0, paired=True) -> Contrast:
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(size=(2, n, width))
    if paired:
        situation = 2 * rng.normal(size=(n, width))
        positive, negative = positive + situation, negative + situation
    positive[:, 0] += shift
    return Contrast(positive, negative, np.arange(n), np.arange(n) + (0 if paired else n))


@given(st.lists(st.sampled_from(["both", "positive", "negative"]), min_size=4, max_size=20))
def test_permuted_labels_keep_pairs_folds_and_numbers(kinds):
    kinds = ["both", "both", "positive", "negative", *kinds]
    sides = [
        (group, label)
        for group, kind in enumerate(kinds)
        for side, label in (("positive", True), ("negative", False))
        if kind in ("both", side)
    ]
    groups, is_positive = (np.array(column) for column in zip(*sides, strict=True))
    labelled = LabelledRows(np.zeros((len(groups), 1)), is_positive, groups)
    folds = deal_folds(labelled, 2, 0)

    permuted = permute_labels(labelled, folds, 10, 0)

    assert permuted.shape == (10, len(groups))
    for labels in permuted:
        for fold in range(2):
            inside = folds == fold
            assert labels[inside].sum() == is_positive[inside].sum()
        for group, kind in enumerate(kinds):
            if kind == "both":
                assert labels[groups == group].sum() == 1


def test_mean_differences_of_all_permutations_at_once_are_those_of_one_after_another():
    """The products of matrices against fits on relabelled rows."""
    labelled = LabelledRows.of(make_contrast(shift=0.5))
    folds = deal_folds(labelled, 5, 0)

    def one_by_one(contrast, seed):
        return MEAN_DIFFERENCE(contrast, seed)

    together = permutation_null(labelled, folds, MEAN_DIFFERENCE, times=20, seed=4)

    each = permutation_null(labelled, folds, one_by_one, times=20, seed=4)
    np.testing.assert_allclose(together, each)


@pytest.mark.parametrize("paired", [True, False])
def test_of_data_without_a_difference_five_percent_pass_the_gate(paired):
    """
    200 data sets whose labels mean nothing: p is uniform, and at most about 5 % reach 0.05.

    The bound is exact: that many or more come by chance once in a thousand.
    """
    p = []
    for seed in range(200):
        found = evaluate(
            make_contrast(16, 8, seed=seed, paired=paired),
            MEAN_DIFFERENCE,
            folds=4,
            effort=Effort(resamples=0, permutations=99),
        )
        p.append(found.permutation_p)

    assert sum(one <= 0.05 for one in p) <= stats.binom.ppf(0.999, 200, 0.05)
    # Uniform on the grid of 1/100; spread within the grid's steps, so that KS applies.
    spread = np.array(p) - np.random.default_rng(0).random(200) / 100
    assert stats.kstest(spread, "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", ["mean_diff", "probe", "lda"])
def test_a_planted_difference_beats_its_nulls(name):
    effort = Effort(resamples=0, permutations=30, random=99)
    found = evaluate(make_contrast(24, 6, shift=6.0), METHODS[name], effort=effort)

    assert found.auroc > found.permutation_auroc_95 and found.auroc > found.random_auroc_95
    assert found.permutation_p == pytest.approx(1 / 31)
    assert found.beats_nulls


def test_permuted_labels_are_not_passed_off_as_a_trait():
    """A planted difference, its labels permuted once: nothing is left of it."""
    contrast = make_contrast(40, 6, shift=6.0)
    labelled = LabelledRows.of(contrast)
    (labels,) = permute_labels(labelled, np.zeros(80, dtype=np.int64), 1, 0)

    found = evaluate(labelled.relabelled(labels).contrast(), MEAN_DIFFERENCE, effort=NULLS)

    assert not found.beats_nulls


def test_random_directions_score_the_very_rows_and_lean_to_neither_side():
    """NumPy draws the same directions; half of them point the wrong way."""
    contrast = make_contrast(30, 5, shift=3.0, paired=False)
    labelled = LabelledRows.of(contrast)
    folds = deal_folds(labelled, 5, 0)

    null = random_null(labelled, folds, times=400, seed=0)

    assert np.median(null) == pytest.approx(0.5, abs=0.05)
    assert null.max() > 0.9 and null.min() < 0.1
    assert (random_null(labelled, folds, times=400, seed=0) == null).all()


def test_the_p_value_counts_ties_and_is_never_zero():
    null = np.array([0.4, 0.5, 0.6, 0.7])

    assert share_as_large(null, 0.9) == pytest.approx(1 / 5)
    assert share_as_large(null, 0.6) == pytest.approx(3 / 5)


def test_permutations_refit_so_that_wide_noise_does_not_pass():
    """Fitted and scored on the same rows, 500 dimensions of noise part any labels."""
    labelled = LabelledRows.of(make_contrast(20, 500, paired=False))
    folds = deal_folds(labelled, 5, 0)
    observed = score_folds(labelled, folds, MEAN_DIFFERENCE, 0).auroc

    null = permutation_null(labelled, folds, MEAN_DIFFERENCE, times=99)

    assert share_as_large(null, observed) > 0.05
    in_sample = labelled.rows @ MEAN_DIFFERENCE(labelled.contrast(), 0).values
    assert in_sample[:20].min() > in_sample[20:].max()
