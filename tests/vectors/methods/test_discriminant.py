"""The discriminant, against scikit-learn's on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from drawn_contrasts import cosine, draw_contrast, swap
from tistore.errors import FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.discriminant import fit_discriminant


def fit_oracle(contrast: Contrast, solver: str) -> tuple[np.ndarray, float]:
    rows = np.vstack([contrast.negative, contrast.positive])
    labels = np.repeat([0, 1], [len(contrast.negative), len(contrast.positive)])
    oracle = LinearDiscriminantAnalysis(solver=solver, shrinkage="auto").fit(rows, labels)
    return oracle.coef_[0], oracle.intercept_[0]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(3, 30),
    st.integers(3, 30),
    st.integers(1, 80),
    st.sampled_from(["eigen", "lsqr"]),
)
def test_it_is_scikit_learns_shrunk_discriminant(seed, n_positive, n_negative, width, solver):
    """Rows of both kinds: wider than many, and more than wide; in dimensions of many sizes."""
    drawn, _ = draw_contrast(seed, 30, width)
    scales = np.exp(np.random.default_rng(seed).normal(size=width))
    contrast = Contrast(
        drawn.positive[:n_positive] * scales,
        drawn.negative[:n_negative] * scales,
        drawn.positive_groups[:n_positive],
        drawn.negative_groups[:n_negative],
    )
    values, bias = fit_oracle(contrast, solver)

    fit = fit_discriminant(contrast)

    np.testing.assert_allclose(fit.values, values, rtol=1e-6, atol=1e-6 * np.abs(values).max())
    assert fit.bias == pytest.approx(bias, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("width", [10, 300])
def test_dimensions_that_never_vary_are_left_out(width):
    """As those are that were cleaned."""
    contrast, _ = draw_contrast(width=width)
    for side in (contrast.positive, contrast.negative):
        side[:, [2, 7]] = 0
    values, bias = fit_oracle(contrast, "lsqr")

    fit = fit_discriminant(contrast)

    np.testing.assert_allclose(fit.values, values, atol=1e-9)
    assert fit.bias == pytest.approx(bias)
    assert not fit.values[[2, 7]].any()


def test_swapping_the_sides_turns_it_round():
    contrast, _ = draw_contrast(width=300)
    fit, swapped = fit_discriminant(contrast), fit_discriminant(swap(contrast))

    np.testing.assert_allclose(swapped.values, -fit.values, atol=1e-12)
    assert swapped.bias == pytest.approx(-fit.bias)


def test_a_wide_dimension_counts_little():
    contrast, planted = draw_contrast(n=60, width=200, shift=5.0)
    rng = np.random.default_rng(0)
    for side in (contrast.positive, contrast.negative):
        side[:, 9] = rng.normal(300, 15, len(side))

    fit = fit_discriminant(contrast)

    assert abs(fit.values[9]) < 0.01 * np.linalg.norm(fit.values)
    assert cosine(fit.values, planted) > 0.7


def test_a_side_whose_rows_are_all_the_same_is_refused():
    contrast, _ = draw_contrast()
    contrast.positive[:] = contrast.positive[0]

    with pytest.raises(FitError, match="one side are all the same"):
        fit_discriminant(contrast)


def test_a_covariance_without_inverse_is_refused():
    """Two dimensions that are one, in rows enough that nothing is shrunk."""
    pairs = np.arange(4)
    rows = np.array([[1.0, 1], [-1, -1], [1, 1], [-1, -1]])
    contrast = Contrast(rows + 1, rows, pairs, pairs)

    with pytest.raises(FitError, match="has no inverse"):
        fit_discriminant(contrast)
