"""Held-out scores: no situation on both sides of a split, and the span changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from tistore.errors import ConfigError
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import cross_fit
from tistore.vectors.evaluation.evaluate import Effort, evaluate
from tistore.vectors.evaluation.labelled import LabelledRows, deal_folds
from tistore.vectors.evaluation.reliability import split_half
from tistore.vectors.methods.registry import METHODS
from tistore.vectors.methods.rotation_invariant import ROTATION_INVARIANT, in_span

MEAN_DIFFERENCE = METHODS["mean_diff"]


def make_contrast(n: int = 20, width: int = 6, shift: float = 1.0, seed: int = 0) -> Contrast:
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(size=(2, n, width))
    positive[:, 0] += shift
    return Contrast(positive, negative, np.arange(n), np.arange(n))


@st.composite
def labelled_rows(draw):
    """Rows of paired and one-sided situations, some told several times."""
    kinds = draw(st.lists(st.sampled_from(["both", "positive", "negative"]), max_size=25))
    kinds += ["both"] * 3
    groups, labels = [], []
    for group, kind in enumerate(kinds):
        for side, label in (("positive", True), ("negative", False)):
            if kind in ("both", side):
                times = draw(st.integers(1, 3))
                groups += [10 * group] * times
                labels += [label] * times
    return LabelledRows(np.zeros((len(groups), 1)), np.array(labels), np.array(groups))


@given(labelled_rows(), st.integers(2, 3), st.integers(0, 5))
def test_folds_part_no_situation_and_are_balanced_and_repeatable(labelled, folds, seed):
    dealt = deal_folds(labelled, folds, seed)

    assert set(dealt) == set(range(folds))
    assert (dealt == deal_folds(labelled, folds, seed)).all()
    for group in np.unique(labelled.groups):
        assert len(set(dealt[labelled.groups == group])) == 1
    for side in (labelled.is_positive, ~labelled.is_positive):
        sizes = [len(set(labelled.groups[side & (dealt == fold)])) for fold in range(folds)]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_too_few_scenarios_for_the_folds_are_refused():
    with pytest.raises(ConfigError, match="4 scenarios on a side cannot be dealt into 5 folds"):
        cross_fit(make_contrast(4), MEAN_DIFFERENCE)
    with pytest.raises(ConfigError, match="1 folds leave nothing"):
        cross_fit(make_contrast(9), MEAN_DIFFERENCE, folds=1)


def test_each_row_is_scored_by_the_others_folds_and_less_their_midpoint():
    """NumPy, fold by fold."""
    contrast = make_contrast()

    found = cross_fit(contrast, MEAN_DIFFERENCE, folds=4, seed=3)

    for fold in range(4):
        for side, is_side in ((contrast.positive, found.is_positive),
                              (contrast.negative, ~found.is_positive)):  # fmt: skip
            inside = found.folds[is_side] == fold
            outside = found.folds[found.is_positive] != fold
            means = [rows[outside].mean(axis=0) for rows in (contrast.positive, contrast.negative)]
            unit = (means[0] - means[1]) / np.linalg.norm(means[0] - means[1])
            wanted = (side[inside] - (means[0] + means[1]) / 2) @ unit
            np.testing.assert_allclose(found.scores[is_side][inside], wanted)


def test_near_copies_inflate_a_row_wise_split_and_not_a_grouped_one():
    """
    20 situations with labels that mean nothing, each told six times in almost the same words.

    A split that parts the copies finds each test row again in the training rows. scikit-learn's
    grouped folds agree with ours that there is nothing to find.
    """
    rng = np.random.default_rng(1)
    inflated, honest, oracle = [], [], []
    for _ in range(6):
        situations = np.repeat(rng.normal(size=(20, 60)), 6, axis=0)
        rows = situations + 0.05 * rng.normal(size=situations.shape)
        groups = np.repeat(np.arange(20), 6)
        labels = np.repeat(rng.permutation([True, False] * 10), 6)

        def contrast(numbers, rows=rows, labels=labels):
            return Contrast(rows[labels], rows[~labels], numbers[labels], numbers[~labels])

        inflated.append(cross_fit(contrast(np.arange(120)), MEAN_DIFFERENCE).auroc)
        honest.append(cross_fit(contrast(groups), MEAN_DIFFERENCE).auroc)
        for train, test in GroupKFold(5).split(rows, labels, groups):
            if 0 < labels[test].mean() < 1:
                direction = rows[train][labels[train]].mean(0) - rows[train][~labels[train]].mean(0)
                oracle.append(roc_auc_score(labels[test], rows[test] @ direction))

    assert np.mean(inflated) > 0.9
    assert abs(np.mean(honest) - 0.5) < 0.15
    assert abs(np.mean(oracle) - 0.5) < 0.15


@settings(deadline=None, max_examples=15)
@given(st.integers(6, 12), st.integers(30, 90), st.integers(0, 99))
def test_the_span_keeps_lengths_and_angles(n, width, seed):
    contrast = make_contrast(n, width, seed=seed)

    turned = in_span(contrast)

    assert turned.width == 2 * n
    before, after = (np.concatenate([one.positive, one.negative]) for one in (contrast, turned))
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-9)


@pytest.mark.parametrize("name", ["mean_diff", "probe"])
def test_the_span_gives_the_same_evaluation_as_the_full_width(name):
    """With a dimension 300 high among them."""
    contrast = make_contrast(15, 200, shift=2.0)
    contrast.positive[:, 3] += 300
    contrast.negative[:, 3] += 300
    method = METHODS[name]
    assert method in ROTATION_INVARIANT

    def at_full_width(given, seed):
        return method(given, seed)

    effort = Effort(resamples=50, permutations=5, splits=3)
    turned = evaluate(contrast, method, effort=effort)
    full = evaluate(contrast, at_full_width, effort=effort)

    for figure in ("auroc", "g", "g_low", "balanced_accuracy", "positive_mean", "positive_std",
                   "permutation_p", "permutation_auroc_95", "split_half_cosine"):  # fmt: skip
        assert getattr(turned, figure) == pytest.approx(getattr(full, figure), abs=1e-5), figure


def test_reliability_is_what_signal_and_noise_make_it():
    """cos → s²/(s²+e²): e² the squared length of a half's noise, 2σ²·width/(n/2)."""
    n, width, shift = 100, 50, 2.0
    cosines = [
        split_half(make_contrast(n, width, shift, seed), MEAN_DIFFERENCE, splits=4)
        for seed in range(6)
    ]
    expected = shift**2 / (shift**2 + 2 * width / (n / 2))

    mean = np.mean([one.split_half_cosine for one in cosines])
    assert mean == pytest.approx(expected, abs=0.06)
    for one in cosines:
        r = one.split_half_cosine
        assert one.reliability == pytest.approx(2 * r / (1 + r))


def test_halves_of_noise_do_not_agree():
    contrast = make_contrast(40, 300, shift=0.0)

    assert abs(split_half(contrast, MEAN_DIFFERENCE).split_half_cosine) < 0.1
