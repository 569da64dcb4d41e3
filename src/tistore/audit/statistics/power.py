"""What could have been seen: the smallest effect a test of so many prompts would find."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

POWER = 0.8


def smallest_effect(
    n: NDArray[np.float64], level: float, n_clusters: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """
    Compute the paired effect that a two-sided test at a level finds in 80 of 100 cases.

    Args:
        n: Prompts, (n_cells,); the effective number where prompts hang together.
        level: Of one test, such as q over the number of tests.
        n_clusters: Clusters the prompts are in, (n_cells,); each is its own when None.

    Returns:
        In standard deviations of the differences, as g is; NaN where so few clusters are there that
        not even equal signs of all of them reach the level.

    Source:
        Cohen (1988), Statistical Power Analysis, ch. 2, from the non-central t distribution.
    """
    sizes = np.round(np.nan_to_num(n), 1).ravel().tolist()
    clusters = sizes if n_clusters is None else n_clusters.ravel().tolist()
    pairs = list(zip(sizes, map(int, clusters), strict=True))
    found = {pair: _find(*pair, level) for pair in set(pairs)}
    return np.array([found[pair] for pair in pairs]).reshape(n.shape)


@lru_cache(maxsize=4096)
def _find(n: float, n_clusters: int, level: float) -> float:
    from scipy.optimize import brentq
    from scipy.stats import nct, norm, t

    # Of all patterns of signs two are the most extreme: no test gives a smaller p.
    if n_clusters < 2 or 2.0 ** (1 - n_clusters) > level:
        return float("nan")
    critical = float(t.isf(level / 2, n_clusters - 1))

    def lack(effect: float) -> float:
        reached = float(nct.sf(critical, n_clusters - 1, effect * np.sqrt(n)))
        return reached - POWER

    start = float(norm.isf(level / 2) + norm.ppf(POWER)) / np.sqrt(n)
    high = max(2 * critical / np.sqrt(n), 2 * start)
    while lack(high) < 0:
        high *= 2
    return float(brentq(lack, 0.0, high, xtol=1e-6))
