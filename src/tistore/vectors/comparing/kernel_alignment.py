"""Linear CKA: how alike two sets of activations of the same texts are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.errors import InvalidRecordError


def linear_cka(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """
    Compare two representations of the same rows, whatever their widths and rotations.

    Args:
        first: (row, width), one row a text.
        second: (row, other width), the same texts in the same order.

    Returns:
        From 0 to 1; 1 where one is a rotation, scaling and shift of the other.

    Raises:
        InvalidRecordError: The rows differ in number, or do not vary.

    Source:
        Kornblith et al., arXiv:1905.00414, equation 3 with a linear kernel, on centred Gram
        matrices; the biased estimator, which grows with width over rows.
    """
    if len(first) != len(second):
        raise InvalidRecordError(f"CKA compares the same rows, not {len(first)} and {len(second)}")
    one, other = centered_gram(first), centered_gram(second)
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    if lengths == 0:
        raise InvalidRecordError("CKA has no value where all rows are the same")
    return float(np.sum(one * other) / lengths)


def centered_gram(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Inner products of rows, their mean taken off: (row, row) float64."""
    wide = rows.astype(np.float64)
    wide -= wide.mean(axis=0)
    return np.asarray(wide @ wide.T)
