"""A linear probe: logistic regression on rows of length 1."""

from __future__ import annotations

import warnings

import numpy as np

from tistore.errors import FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.rows import Matrix, check_rows, label_rows, stack_rows

MAX_ITERATIONS = 1000
TOLERANCE = 1e-9
"""Largest entry of the gradient at which the fit has converged. scikit-learn's own, 1e-4, stops
about a percent short of the optimum on such rows."""


def fit_probe(contrast: Contrast, seed: int = 0) -> Fit:
    """
    Fit a logistic regression on the rows, each divided by its length.

    The penalty is L2 with C = 1, the intercept is free, and the solver is L-BFGS, as in
    trait-interp. Dividing makes the penalty weigh the same in every model, and a few huge
    dimensions matter less.

    Args:
        contrast: Rows of both sides, two each at least.
        seed: Not used: nothing is drawn.

    Returns:
        The coefficients, and as bias the intercept: an activation h is on the positive side where
        h / ‖h‖ · values + bias is above 0.

    Raises:
        NonFiniteError: The rows hold NaN or infinity.
        FitError: A side has fewer than two rows, all rows are the same, one is zero everywhere, or
            the fit does not converge.

    Source:
        Alain and Bengio, arXiv:1610.01644; the form is trait-interp's.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    check_rows(contrast, at_least=2)
    regression = LogisticRegression(C=1.0, solver="lbfgs", max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            regression.fit(_shorten(stack_rows(contrast)), label_rows(contrast))
    except ConvergenceWarning as warning:
        raise FitError(
            f"the probe does not converge within {MAX_ITERATIONS} iterations: {warning}"
        ) from warning
    return Fit(regression.coef_[0], float(regression.intercept_[0]))


def _shorten(rows: Matrix) -> Matrix:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if n_zero := int((lengths == 0).sum()):
        raise FitError(
            f"{n_zero} of {len(rows)} rows are zero everywhere, and have no direction to probe",
            mend="leave those scenarios out, or fit mean_diff",
        )
    return np.asarray(rows / lengths)
