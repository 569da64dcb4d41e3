"""Methods on rows without their massive dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tistore.errors import FitError
from tistore.vectors.contrast import Contrast, Rows
from tistore.vectors.methods.fit import Fit, Method

ON_CLEAN = "-on-clean"
"""Behind a method's name: it is fitted on rows whose massive dimensions are 0."""


def on_clean(method: Method, massive: Sequence[int]) -> Method:
    """
    Make a method that does not see some dimensions, and whose fit is 0 there.

    Cleaning a fitted vector is another thing (`clean_vectors`): there the dimensions had their part
    in all other values, as in a probe on rows that they lengthen.

    Args:
        method: The method.
        massive: The dimensions; with none, the method is as it was.

    Returns:
        The method, which refuses a dimension that the rows do not have.
    """
    dims = np.array(sorted(set(massive)), dtype=np.int64)

    def fit(contrast: Contrast, seed: int = 0) -> Fit:
        if len(dims) and not 0 <= dims[0] <= dims[-1] < contrast.width:
            raise FitError(
                f"massive dimensions {dims.tolist()} are not all among the {contrast.width} of "
                "the rows"
            )
        clean = Contrast(
            _clean(contrast.positive, dims),
            _clean(contrast.negative, dims),
            contrast.positive_groups,
            contrast.negative_groups,
        )
        found = method(clean, seed)
        values = found.values.copy()
        # A method that starts from, or is, a random direction leaves something there.
        values[dims] = 0
        return Fit(values, found.bias)

    return fit


def _clean(rows: Rows, dims: np.typing.NDArray[np.int64]) -> Rows:
    cleaned = rows.copy()
    cleaned[:, dims] = 0
    return cleaned
