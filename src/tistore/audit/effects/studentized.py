"""Between which bounds means lie: resamples are measured in their own standard errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.audit.effects.intervals import (
    CONFIDENCE,
    FEWEST_CLUSTERS,
    RESAMPLES,
    draw_counts,
    interpolate,
)
from tistore.audit.statistics.clusters import Labels, number_clusters, sum_clusters

Values = NDArray[np.float64]

_CELLS_AT_ONCE = 256


def bootstrap_means(
    values: Values,
    clusters: Labels | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Values, Values]:
    """
    Tell between which bounds the means of differences lie: 95 %, bootstrap-t.

    Each resample's mean is measured in its own standard error, robust to what clusters share, so
    that intervals from few prompts are as wide as they have to be. Means only: an effect size has
    no such error, and BCa does better by it (`bootstrap_pairs`).

    Args:
        values: (prompt, cell) differences; NaN where there is none. Never a row a token.
        clusters: (prompt,) labels; prompts of one label are drawn together.
        resamples: How many.
        seed: Of the resamples; every cell is drawn the same clusters.

    Returns:
        The low and the high ends, (cell,) each; NaN where fewer than five clusters answered; the
        mean itself where prompts do not differ.

    Source:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 12.5.
    """
    index, n_clusters = number_clusters(clusters, len(values))
    counts = draw_counts(n_clusters, resamples, seed)
    starts = range(0, values.shape[1], _CELLS_AT_ONCE)
    blocks = [_bound(values[:, at : at + _CELLS_AT_ONCE], index, counts) for at in starts]
    low, high = np.concatenate([np.empty((2, 0)), *blocks], axis=1)
    return low, high


def _bound(values: Values, index: Labels, counts: Values) -> Values:
    """Compute the ends for some cells: (2, cell)."""
    is_there = np.isfinite(values)
    n = np.maximum(is_there.sum(axis=0), 1)
    mean = np.where(is_there, values, 0.0).sum(axis=0) / n
    centred = np.where(is_there, values - mean, 0.0)
    totals = sum_clusters(centred, index, counts.shape[1])
    sizes = sum_clusters(is_there.astype(np.float64), index, counts.shape[1])
    moved, error = _estimate(totals, sizes, np.ones((1, counts.shape[1])))
    drawn, errors = _estimate(totals, sizes, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        # One cluster drawn time and again has no error, and tells nothing.
        distances = np.where(errors > 0, (drawn - moved) / errors, np.nan)
    tails = np.array([[(1 + CONFIDENCE) / 2], [(1 - CONFIDENCE) / 2]])
    ends = mean - interpolate(distances, np.repeat(tails, values.shape[1], axis=1)) * error
    ends = np.where(error > 0, ends, mean)
    return np.where((sizes > 0).sum(axis=0) >= FEWEST_CLUSTERS, ends, np.nan)


def _estimate(totals: Values, sizes: Values, counts: Values) -> tuple[Values, Values]:
    """Give the mean of each resample and its standard error: (resample, cell) each."""
    is_filled = (sizes > 0).astype(np.float64)
    columns = (sizes, totals, is_filled, totals**2, totals * sizes, sizes**2)
    # One product of all, since reading the counts is what takes time.
    n, total, filled, squares, products, weights = np.split(
        counts @ np.concatenate(columns, axis=1), len(columns), axis=1
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        # Σ (cluster's total − its size · mean)², each cluster as often as it was drawn.
        rest = squares - 2 * mean * products + mean**2 * weights
        rest = np.where(rest > 1e-12 * squares, rest, 0.0)
        return mean, np.sqrt(rest * filled / (filled - 1)) / n
