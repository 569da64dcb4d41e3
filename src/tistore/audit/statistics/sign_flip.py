"""Whether paired differences lie around 0: flip their signs, prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels, Values, number_clusters, sum_clusters

PERMUTATIONS = 10_000
EXACT_CLUSTERS = 13
"""Up to so many clusters every pattern of signs is tried: 2¹³ are fewer than the permutations."""

_TIE = 1e-9
"""Sums of the same numbers in another order may differ by this, relatively."""

_PATTERNS_AT_ONCE = 1024
_NEWTON_STEPS = 100
_FEW_PATTERNS = 1000


def sign_flip_p(values: Values, clusters: Labels | None = None) -> NDArray[np.float64]:
    """
    Test for each cell that its prompts' differences are symmetric around 0.

    The two-sided chance that the sum of differences is as far from 0 as it is when every cluster's
    sign is thrown like a coin. Where clusters are few it is counted exactly; else a saddlepoint
    approximation works it out, to a few percent even far out in the tail, where random permutations
    see nothing: of 10,000 none tells 1e-5 from 1e-4, and with a thousand cells that is where a lone
    finding is decided. Where next to all differences have one sign, the few patterns as extreme are
    counted.

    Args:
        values: (n_prompts, n_cells) differences; NaN where a prompt is missing.
        clusters: (n_prompts,) labels; prompts of one label flip together.

    Returns:
        (n_cells,); NaN where a cell has no prompt at all.

    Source:
        Robinson (1982), Saddlepoint approximations for permutation tests and confidence intervals,
        J. R. Statist. Soc. B 44(1); Lugannani and Rice (1980), Adv. Appl. Prob. 12(2).
    """
    units = _standardise(values, clusters)
    n_clusters = len(units)
    if n_clusters <= EXACT_CLUSTERS:
        p = _count_exactly(units)
    else:
        p = _approximate(units)
    return np.where(np.isnan(units).any(axis=0), np.nan, p)


def max_t_p(
    values: Values,
    clusters: Labels | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """
    Adjust each cell's p for the number of cells, keeping how cells hang together.

    Signs of a prompt are flipped in all cells at once, and each cell is compared with the largest
    of those that are not above it (step-down max-T). p ≤ 0.05 errs in 5 of 100 such tables, however
    many cells are in one. Permutations are worked off in blocks. All patterns of signs are tried
    where clusters are few.

    Args:
        values: (n_prompts, n_cells) differences; NaN where a prompt is missing.
        clusters: (n_prompts,) labels; prompts of one label flip together.
        permutations: How many.
        seed: Of the permutations.

    Returns:
        (n_cells,); NaN where a cell has no prompt at all.

    Source:
        Westfall and Young (1993), Resampling-Based Multiple Testing, algorithm 4.1; the cells'
        statistic is sum / √(sum of squares) over clusters, which grows with Student's t.
    """
    units = _standardise(values, clusters)
    tested = np.flatnonzero(~np.isnan(units).any(axis=0))
    adjusted = np.full(units.shape[1], np.nan)
    if not len(tested):
        return adjusted
    observed = np.abs(units[:, tested].sum(axis=0))
    # From the smallest up: the running maximum is then over all cells that are not above.
    order = np.argsort(observed)
    sorted_units, sorted_observed = units[:, tested[order]], observed[order]
    reached, n_patterns = np.zeros(len(tested)), 0
    for signs in _draw_signs(len(units), permutations, seed):
        largest = np.maximum.accumulate(np.abs(signs @ sorted_units), axis=1)
        reached += (largest >= sorted_observed * (1 - _TIE)).sum(axis=0)
        n_patterns += len(signs)
    is_exact = len(units) <= EXACT_CLUSTERS
    p = reached / n_patterns if is_exact else (reached + 1) / (n_patterns + 1)
    monotone = np.maximum.accumulate(p[::-1])[::-1]
    adjusted[tested[order]] = monotone
    return adjusted


def _standardise(values: Values, clusters: Labels | None) -> Values:
    """Sum by cluster and divide by the root sum of squares, which no flip of signs changes."""
    index, n_clusters = number_clusters(clusters, len(values))
    sums = sum_clusters(values, index, n_clusters)
    size = np.sqrt((sums**2).sum(axis=0))
    is_empty = ~np.isfinite(values).any(axis=0)
    # A cell of nothing but zeros lies as much around 0 as can be.
    units = sums / np.where(size > 0, size, 1.0)
    units[:, is_empty] = np.nan
    return units


def _all_signs(n_clusters: int) -> NDArray[np.float64]:
    """List every pattern of signs with the first one positive; the others mirror these."""
    bits = np.arange(2 ** (n_clusters - 1))[:, None] >> np.arange(n_clusters - 1)
    free = 1.0 - 2.0 * (bits & 1)
    return np.concatenate([np.ones((len(free), 1)), free], axis=1)


def _draw_signs(n_clusters: int, permutations: int, seed: int) -> Iterator[NDArray[np.float64]]:
    if n_clusters <= EXACT_CLUSTERS:
        yield _all_signs(n_clusters)
        return
    rng = np.random.default_rng(seed)
    for start in range(0, permutations, _PATTERNS_AT_ONCE):
        n = min(_PATTERNS_AT_ONCE, permutations - start)
        yield rng.choice([-1.0, 1.0], (n, n_clusters))


def _count_exactly(units: Values) -> NDArray[np.float64]:
    observed = np.abs(units.sum(axis=0))
    reached = np.abs(_all_signs(len(units)) @ units) >= observed * (1 - _TIE)
    return np.asarray(reached.mean(axis=0))


def _approximate(units: Values) -> NDArray[np.float64]:
    """Work out P(|Σ ± d| ≥ |Σ d|) from the cumulant function K(u) = Σ log cosh(u d)."""
    from scipy.stats import norm

    target = np.abs(units.sum(axis=0))
    # u √K'' and w are what the far end of the support makes infinite; its chance is known.
    farthest = np.abs(units).sum(axis=0)
    floor = 2.0 ** (1 - (units != 0).sum(axis=0))
    is_inside = target < farthest * (1 - 1e-6)
    place = _solve(units, np.where(is_inside, target, 0.0))
    scaled = np.abs(units * place)
    # log cosh x = x + log(1 + e^(−2x)) − log 2, without overflow.
    cumulant = (scaled + np.log1p(np.exp(-2 * scaled)) - np.log(2)).sum(axis=0)
    curvature = (units**2 * (1 - np.tanh(scaled) ** 2)).sum(axis=0)
    w = np.sqrt(np.maximum(2 * (place * target - cumulant), 0.0))
    v = place * np.sqrt(curvature)
    is_central = (w < 1e-3) | (v < 1e-3)
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = np.where(is_central, 0.0, norm.pdf(w) * (1 / v - 1 / w))
    one_sided = norm.sf(w) + correction
    p = np.where(is_inside, 2 * one_sided, floor)
    for cell in np.flatnonzero(p < _FEW_PATTERNS * floor):
        p[cell] = max(p[cell], floor[cell] * _count_nearest(units[:, cell]))
    return np.asarray(np.minimum(p, 1.0))


def _count_nearest(units: Values) -> int:
    """
    Count patterns as far out as the observed one that differ from the farthest by two signs.

    Or by one, or none. There are at least so many, which the approximation does not know.
    """
    room = -units[units < 0].sum() if units.sum() > 0 else units[units > 0].sum()
    size = np.sort(np.abs(units[units != 0]))
    room *= 1 + _TIE
    partners = np.searchsorted(size, room - size, side="right") - np.arange(1, len(size) + 1)
    return int(1 + (size <= room).sum() + np.maximum(partners, 0).sum())


def _solve(units: Values, target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find u with K'(u) = target by Newton's method, which nears it from below: K' is concave."""
    place = target.copy()
    for _ in range(_NEWTON_STEPS):
        bent = np.tanh(units * place)
        gap = target - (units * bent).sum(axis=0)
        slope = (units**2 * (1 - bent**2)).sum(axis=0)
        step = np.where(slope > 1e-300, gap / np.maximum(slope, 1e-300), 0.0)
        place = place + step
        if np.all(np.abs(step) <= 1e-9 * (1 + place)):
            break
    return place
