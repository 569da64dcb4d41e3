"""The probe, against scikit-learn on the same rows, and against the optimum's own conditions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from drawn_contrasts import change, cosine, draw_contrast, swap
from tistore.errors import FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods import probe
from tistore.vectors.methods.probe import fit_probe

seeds = st.integers(0, 2**32)


def normalise(contrast: Contrast) -> tuple[np.ndarray, np.ndarray]:
    rows = np.vstack([contrast.positive, contrast.negative]).astype(np.float64)
    labels = [1] * len(contrast.positive) + [0] * len(contrast.negative)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.array(labels)


@settings(max_examples=25)
@given(seeds, st.integers(2, 40), st.sampled_from([1, 5, 24, 200]))
def test_it_is_scikit_learns_logistic_regression(seed, n, width):
    """Another of its solvers, so that only the optimum can be the same."""
    contrast, _ = draw_contrast(seed, n, width)
    rows, labels = normalise(contrast)
    if (rows == rows[0]).all():  # of width 1, and all on one side of 0
        return
    oracle = LogisticRegression(C=1.0, solver="newton-cg", tol=1e-10, max_iter=1000)
    oracle.fit(rows, labels)

    fit = fit_probe(contrast)

    np.testing.assert_allclose(fit.values, oracle.coef_[0], atol=1e-5)
    assert fit.bias == pytest.approx(oracle.intercept_[0], abs=1e-5)


@given(seeds)
@settings(max_examples=25)
def test_no_step_from_it_lowers_the_loss(seed):
    """The gradient of ½‖w‖² + Σ log(1 + exp(∓(x·w + b))) is zero there."""
    contrast, _ = draw_contrast(seed)
    rows, labels = normalise(contrast)

    fit = fit_probe(contrast)

    missing = labels - expit(rows @ fit.values + fit.bias)
    np.testing.assert_allclose(fit.values, rows.T @ missing, atol=1e-5)
    assert missing.sum() == pytest.approx(0, abs=1e-5)


def test_it_is_trait_interps_probe_but_for_where_that_one_stops():
    contrast, _ = draw_contrast(n=100, width=512)
    rows, labels = normalise(contrast)
    theirs = LogisticRegression(C=1.0, solver="lbfgs", max_iter=1000).fit(rows, labels)

    assert cosine(fit_probe(contrast).values, theirs.coef_[0]) > 0.999


@given(seeds, st.floats(0.01, 1000))
@settings(max_examples=25)
def test_only_directions_of_rows_count(seed, factor):
    contrast, _ = draw_contrast(seed)
    lengths = np.random.default_rng(seed).uniform(0.5, 2, (40, 1)) * factor

    longer = fit_probe(change(contrast, lambda rows: rows * lengths))

    np.testing.assert_allclose(longer.values, fit_probe(contrast).values, atol=1e-5)


@given(seeds)
@settings(max_examples=25)
def test_swapping_the_sides_turns_it_round(seed):
    contrast, _ = draw_contrast(seed)
    fit, swapped = fit_probe(contrast), fit_probe(swap(contrast))

    np.testing.assert_allclose(swapped.values, -fit.values, atol=1e-5)
    assert swapped.bias == pytest.approx(-fit.bias, abs=1e-5)


def test_a_row_of_zeros_is_refused():
    contrast, _ = draw_contrast()
    contrast.positive[[3, 8]] = 0

    with pytest.raises(FitError, match="2 of 80 rows are zero everywhere"):
        fit_probe(contrast)


def test_a_fit_that_does_not_converge_is_refused(monkeypatch):
    monkeypatch.setattr(probe, "MAX_ITERATIONS", 2)
    contrast, _ = draw_contrast()

    with pytest.raises(FitError, match="does not converge within 2 iterations"):
        fit_probe(contrast)
