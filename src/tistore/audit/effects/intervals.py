"""Between which bounds effects lie: whole clusters of prompts are drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tistore.audit.effects.definitions import Measure
from tistore.audit.effects.moments import ClusterSums
from tistore.audit.statistics.clusters import Labels

Values = NDArray[np.float64]
Name = TypeVar("Name", bound=str)

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_CLUSTERS = 5
"""Fewer have too few resamples for the ends of an interval."""
FEW_CLUSTERS = 20
"""Below so many an effect's interval covers less than it says: nine in ten with ten of them."""

_CELLS_AT_ONCE = 256


def bootstrap_pairs(
    first: Values,
    second: Values,
    measures: Mapping[Name, Measure],
    clusters: Labels | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[Name, tuple[Values, Values]]:
    """
    Tell between which bounds measures of paired sides lie: 95 %, bias-corrected, accelerated.

    Args:
        first: (prompt, cell); NaN where there is no answer. Never a row a token.
        second: The same prompts.
        measures: What to compute, by name.
        clusters: (prompt,) labels; prompts of one label are drawn together.
        resamples: How many.
        seed: Of the resamples; every cell and measure is drawn the same clusters.

    Returns:
        For each measure the low and the high ends, (cell,) each; NaN where fewer than five clusters
        answered, or resamples do not differ.

    Source:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 14.
    """
    n_cells = first.shape[1]
    ends: dict[Name, list[Values]] = {name: [] for name in measures}
    for start in range(0, n_cells, _CELLS_AT_ONCE):
        block = slice(start, start + _CELLS_AT_ONCE)
        sums = ClusterSums.of(first[:, block], second[:, block], clusters)
        observed = sums.whole()
        drawn = sums.moments(draw_counts(sums.n_clusters, resamples, seed))
        left_out = sums.moments(1 - np.eye(sums.n_clusters))
        filled = (sums.n > 0).sum(axis=0)
        for name, measure in measures.items():
            found = accelerate(
                measure(observed)[0],
                measure(drawn),
                np.where(sums.n > 0, measure(left_out), np.nan),
            )
            ends[name].append(np.where(filled >= FEWEST_CLUSTERS, found, np.nan))
    return {
        name: (joined[0], joined[1])
        for name, parts in ends.items()
        for joined in [np.concatenate([np.empty((2, 0)), *parts], axis=1)]
    }


def accelerate(observed: Values, drawn: Values, left_out: Values) -> Values:
    """
    Turn resamples into the ends of a 95 % interval: bias-corrected and accelerated (BCa).

    Args:
        observed: (cell,).
        drawn: (resample, cell).
        left_out: (cluster, cell), each cluster left out in turn; NaN where that is no cluster of
            the cell's.

    Returns:
        (2, cell); NaN where resamples do not differ.
    """
    from scipy.stats import norm

    n = np.isfinite(drawn).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = ((drawn < observed).sum(axis=0) + (drawn == observed).sum(axis=0) / 2) / n
        bias = norm.ppf(below)
        is_there = np.isfinite(left_out)
        mean = np.where(is_there, left_out, 0.0).sum(axis=0) / is_there.sum(axis=0)
        away = np.where(is_there, mean - left_out, 0.0)
        acceleration = (away**3).sum(axis=0) / (6 * (away**2).sum(axis=0) ** 1.5)
        shift = bias + norm.ppf([[(1 - CONFIDENCE) / 2], [(1 + CONFIDENCE) / 2]])
        levels = norm.cdf(bias + shift / (1 - acceleration * shift))
        return interpolate(drawn, levels)


def tell_few() -> str:
    """Say what to know of intervals from few prompts."""
    return (
        f"intervals of effect sizes from fewer than {FEW_CLUSTERS} prompts, or clusters of them, "
        f"are too narrow, and there are none from fewer than {FEWEST_CLUSTERS}"
    )


@lru_cache(maxsize=8)
def draw_counts(n_clusters: int, resamples: int, seed: int) -> Values:
    """Count how often each cluster is drawn: (resample, cluster), not to be written to."""
    rng = np.random.default_rng(seed)
    shares = np.full(n_clusters, 1 / max(n_clusters, 1))
    counts = rng.multinomial(n_clusters, shares, size=resamples).astype(np.float64)
    counts.flags.writeable = False
    return counts


def interpolate(drawn: Values, levels: Values) -> Values:
    """
    Find quantiles of resamples at levels of each cell's own, between neighbours as NumPy does.

    Args:
        drawn: (resample, cell); NaN where a resample leaves the figure open, such as one prompt
            drawn n times.
        levels: (level, cell), from 0 to 1.

    Returns:
        (level, cell); NaN where there are fewer than two resamples.
    """
    last = np.maximum(np.isfinite(drawn).sum(axis=0) - 1, 0)
    drawn = np.sort(np.where(np.isfinite(drawn), drawn, np.inf), axis=0)
    places = np.where(np.isfinite(levels), levels, 0.0) * last
    low = np.floor(places).astype(np.int64)
    below = np.take_along_axis(drawn, low, axis=0)
    above = np.take_along_axis(drawn, np.minimum(low + 1, last), axis=0)
    with np.errstate(invalid="ignore"):
        ends = below + (places - low) * (above - below)
    return np.where(np.isfinite(levels) & (last > 0), ends, np.nan)
