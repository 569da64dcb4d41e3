"""Fitting and its measure of quality, against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tistore.errors import InvalidRecordError
from tistore.vectors.mean_difference import fit_mean_difference, hedges_g, held_out_separation


def test_the_direction_is_the_difference_of_the_class_means():
    """scikit-learn's nearest centroid keeps the two means."""
    from sklearn.neighbors import NearestCentroid

    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, (30, 8)), rng.normal(0, 2, (20, 8))
    centroids = NearestCentroid().fit(
        np.vstack([negative, positive]), [0] * len(negative) + [1] * len(positive)
    )

    direction = fit_mean_difference(positive, negative)

    np.testing.assert_allclose(direction, centroids.centroids_[1] - centroids.centroids_[0])


def test_a_side_without_rows_or_of_another_width_is_refused():
    with pytest.raises(InvalidRecordError, match="30 and 0"):
        fit_mean_difference(np.ones((30, 4)), np.ones((0, 4)))
    with pytest.raises(InvalidRecordError, match="differ in width"):
        fit_mean_difference(np.ones((3, 4)), np.ones((3, 5)))


groups = st.lists(st.floats(-100, 100), min_size=2, max_size=30).map(np.array)


@given(groups, groups)
def test_hedges_g_agrees_with_the_t_statistic(first, second):
    """t = d · sqrt(n₁n₂ / (n₁+n₂)) for the pooled-variance test, so SciPy is an oracle."""
    n_first, n_second = len(first), len(second)
    if max(np.ptp(first), np.ptp(second)) < 1e-6:
        return
    t = stats.ttest_ind(first, second).statistic
    freedom = n_first + n_second - 2
    wanted = t * np.sqrt((n_first + n_second) / (n_first * n_second))

    assert hedges_g(first, second) == pytest.approx(wanted * (1 - 3 / (4 * freedom - 1)), abs=1e-9)


def test_separation_is_near_zero_without_a_difference_and_large_with_one():
    """Fitted and measured on the same rows, noise in 200 dimensions would look separable."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 200)), rng.normal(size=(40, 200))
    shift = np.zeros(200)
    shift[7] = 8.0

    assert abs(held_out_separation(*noise)) < 0.6
    assert held_out_separation(noise[0] + shift, noise[1]) > 2


def test_separation_needs_two_rows_a_fold():
    assert np.isnan(held_out_separation(np.ones((9, 3)), np.ones((20, 3))))
