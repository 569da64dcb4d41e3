"""The rows of a contrast, checked and laid out as methods need them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.errors import FitError, NonFiniteError
from tistore.vectors.contrast import Contrast

Matrix = NDArray[np.float64]


def check_rows(contrast: Contrast, *, at_least: int = 1) -> None:
    """
    Check that a direction can be fitted on the rows of a contrast.

    Args:
        contrast: The rows.
        at_least: Rows that the method needs on each side.

    Raises:
        NonFiniteError: A row holds NaN or infinity.
        FitError: A side has fewer rows, or all rows are the same.
    """
    sides = {"positive": contrast.positive, "negative": contrast.negative}
    for name, rows in sides.items():
        if len(rows) < at_least:
            raise FitError(
                f"{len(rows)} {name} rows are too few: this method needs {at_least} on each side",
                mend="add scenarios, or fit mean_diff",
            )
        if not np.isfinite(rows).all():
            broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            raise NonFiniteError(f"{len(broken)} of {len(rows)} {name} rows hold NaN or infinity")
    first = contrast.positive[0]
    if all((rows == first).all() for rows in sides.values()):
        raise FitError(
            "all rows are the same, whatever they show",
            mend="see whether the position has the tokens in which the scenarios differ",
        )


def stack_rows(contrast: Contrast) -> Matrix:
    """Lay the positive rows above the negative ones: (rows, width) float64."""
    return np.concatenate([contrast.positive, contrast.negative], dtype=np.float64)


def label_rows(contrast: Contrast) -> Matrix:
    """Label the rows as `stack_rows` lays them out: 1 for positive, 0 for negative; float64."""
    return np.repeat([1.0, 0.0], [len(contrast.positive), len(contrast.negative)])
