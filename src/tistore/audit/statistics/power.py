"""What could have been seen: the smallest effect a test of so many prompts would find."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

POWER = 0.8


def smallest_effect(n: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """
    Compute the paired effect that a two-sided test at a level finds in 80 of 100 cases.

    Args:
        n: Prompts, (n_cells,); the effective number where prompts hang together.
        level: Of one test, such as q over the number of tests.

    Returns:
        In standard deviations of the differences, as g is; NaN below two prompts.

    Source:
        Cohen (1988), Statistical Power Analysis, ch. 2, from the non-central t distribution.
    """
    flat = np.round(np.nan_to_num(n), 1).ravel()
    found = {one: _find(float(one), level) for one in np.unique(flat)}
    return np.array([found[one] for one in flat]).reshape(n.shape)


@lru_cache(maxsize=4096)
def _find(n: float, level: float) -> float:
    from scipy.optimize import brentq
    from scipy.stats import nct, norm, t

    if n < 2:
        return float("nan")
    critical = float(t.isf(level / 2, n - 1))

    def lack(effect: float) -> float:
        reached = float(nct.sf(critical, n - 1, effect * np.sqrt(n)))
        return reached - POWER

    start = float(norm.isf(level / 2) + norm.ppf(POWER)) / np.sqrt(n)
    high = max(2 * critical / np.sqrt(n), 2 * start)
    while lack(high) < 0:
        high *= 2
    return float(brentq(lack, 0.0, high, xtol=1e-6))
