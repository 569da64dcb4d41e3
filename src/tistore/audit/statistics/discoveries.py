"""How many of the findings may be false: Benjamini and Hochberg's q."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def adjust_bh(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Turn the p of one family of tests into q: findings at q ≤ 0.05 are false in 5 % on average.

    Args:
        p: Any shape; NaN where nothing was tested, which does not count.

    Returns:
        The same shape; NaN where nothing was tested.

    Source:
        Benjamini and Hochberg (1995), J. R. Statist. Soc. B 57(1).
    """
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    n = int(tested.sum())
    if not n:
        return q
    given = p[tested]
    order = np.argsort(given, kind="stable")[::-1]
    scaled = given[order] * n / np.arange(n, 0, -1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    q[tested] = adjusted
    return q
