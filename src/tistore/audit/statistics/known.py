"""Numbers of which some are not known: NaN stands for them, and None in the rows of an answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def known_or_none(value: np.float64 | float) -> float | None:
    """Give a number for a row; None for what is not known (NaN), or has no bounds."""
    return float(value) if np.isfinite(value) else None


def average_known(values: Values, axis: int = 0) -> Values:
    """Average along an axis as far as there are values; NaN where there is none."""
    is_there = np.isfinite(values)
    n = is_there.sum(axis=axis)
    total = np.where(is_there, values, 0.0).sum(axis=axis)
    return np.asarray(np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0))
