"""How far paired differences lie from 0: mean, error, effect size and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels, Values, number_clusters, sum_clusters

RESAMPLES = 2000
CONFIDENCE = 0.95

_CELLS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class PairedMeans:
    """
    Differences of each cell summed up over prompts; arrays are (n_cells,) unless reshaped.

    Attributes:
        n: Prompts.
        mean: Mean difference.
        deviation: Standard deviation over prompts (n − 1).
        error: Standard error of the mean, robust to what clusters share.
        g: Mean over deviation, corrected for small samples; signed.
    """

    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    error: NDArray[np.float64]
    g: NDArray[np.float64]

    def reshape(self, shape: tuple[int, ...]) -> PairedMeans:
        """Lay the cells out in another shape."""
        figures = (self.mean, self.deviation, self.error, self.g)
        return PairedMeans(self.n.reshape(shape), *(one.reshape(shape) for one in figures))

    @property
    def design_effect(self) -> NDArray[np.float64]:
        """How many times the clusters enlarge the mean's variance; 1 where it is not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = self.error**2 * self.n / self.deviation**2
        return np.where(np.isfinite(effect) & (effect > 0), effect, 1.0)


def mean_difference(values: Values, clusters: Labels | None = None) -> PairedMeans:
    """
    Sum up paired differences, cell by cell.

    Args:
        values: (n_prompts, n_cells) differences; NaN where a prompt is missing.
        clusters: (n_prompts,) labels of prompts that are not independent.

    Returns:
        Figures that too few prompts leave open are NaN: two for a deviation, three for g, two
        clusters for an error.

    Source:
        Hedges (1981), J. Educ. Stat. 6(2), for 1 − 3 / (4ν − 1) with ν = n − 1; Miller (2024),
        arXiv:2411.00640, for the error: √(C / (C − 1) · Σ (cluster's sum of residuals)²) / n.
    """
    index, n_clusters = number_clusters(clusters, len(values))
    is_there = np.isfinite(values)
    n = is_there.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(is_there, values, 0.0).sum(axis=0) / n
        residuals = np.where(is_there, values - mean, 0.0)
        deviation = np.sqrt((residuals**2).sum(axis=0) / np.where(n > 1, n - 1, np.nan))
        sums = sum_clusters(residuals, index, n_clusters)
        filled = (sum_clusters(is_there.astype(np.float64), index, n_clusters) > 0).sum(axis=0)
        spread = np.where(filled > 1, filled / (filled - 1), np.nan) * (sums**2).sum(axis=0)
        error = np.sqrt(spread) / n
        g = _standardise(mean, deviation, n)
    return PairedMeans(n, mean, deviation, error, g)


def bootstrap_g(
    values: Values,
    clusters: Labels | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Tell between which bounds each cell's g lies, by drawing whole clusters of prompts again.

    Bias-corrected and accelerated (BCa), 95 %.

    Args:
        values: (n_prompts, n_cells) differences; NaN where a prompt is missing.
        clusters: (n_prompts,) labels; prompts of one label are drawn together.
        resamples: How many.
        seed: Of the resamples; every cell is drawn the same clusters.

    Returns:
        Low and high ends, (n_cells,) each; NaN where prompts are too few or do not differ.

    Source:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 14.
    """
    index, n_clusters = number_clusters(clusters, len(values))
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=resamples)
    ends = [
        _accelerated(values[:, start : start + _CELLS_AT_ONCE], index, counts.astype(np.float64))
        for start in range(0, values.shape[1], _CELLS_AT_ONCE)
    ]
    low, high = np.concatenate(ends, axis=1) if ends else np.empty((2, 0))
    return low, high


def _accelerated(values: Values, index: Labels, counts: Values) -> NDArray[np.float64]:
    """Compute the BCa ends of some cells: (2, n_cells)."""
    from scipy.stats import norm

    sums = _Sums.of(values, index, counts.shape[1])
    observed = sums.g(np.ones((1, counts.shape[1])))[0]
    drawn = np.sort(sums.g(counts), axis=0)
    left_out = sums.g(1 - np.eye(counts.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (drawn < observed).mean(axis=0) + (drawn == observed).mean(axis=0) / 2
        bias = norm.ppf(below)
        is_known = np.isfinite(left_out)
        centre = np.where(is_known, left_out, 0.0).sum(axis=0) / is_known.sum(axis=0)
        away = np.where(is_known, centre - left_out, 0.0)
        acceleration = (away**3).sum(axis=0) / (6 * (away**2).sum(axis=0) ** 1.5)
        shift = bias + norm.ppf([[(1 - CONFIDENCE) / 2], [(1 + CONFIDENCE) / 2]])
        levels = norm.cdf(bias + shift / (1 - acceleration * shift))
    return _quantiles(drawn, levels)


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Each cluster's number of prompts, sum and sum of squares: (n_clusters, n_cells)."""

    n: Values
    total: Values
    squares: Values

    @classmethod
    def of(cls, values: Values, index: Labels, n_clusters: int) -> _Sums:
        is_there = np.isfinite(values)
        # Sums of squares lose no digits when the differences lie around 0.
        centre = np.where(is_there, values, 0.0).sum(axis=0) / np.maximum(is_there.sum(axis=0), 1)
        moved = values - centre
        total, squares, n = (
            sum_clusters(one, index, n_clusters)
            for one in (moved, moved**2, is_there.astype(np.float64))
        )
        return cls(n, total + n * centre, squares + 2 * centre * total + n * centre**2)

    def g(self, counts: Values) -> Values:
        """Give g of each resample: (n_resamples, n_cells), clusters taken as often as counted."""
        n, total, squares = (counts @ one for one in (self.n, self.total, self.squares))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / n
            variance = (squares - n * mean**2) / np.where(n > 1, n - 1, np.nan)
            # What rounding leaves of no spread at all is no spread.
            variance = np.where(variance > 1e-12 * mean**2, variance, np.nan)
            return _standardise(mean, np.sqrt(variance), n)


def _standardise(mean: Values, deviation: Values, n: NDArray[Any]) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = 1 - 3 / (4 * (n - 1) - 1)
        # Of two prompts the correction leaves nothing.
        return np.where((deviation > 0) & (n > 2), mean / deviation * correction, np.nan)


def _quantiles(drawn: Values, levels: Values) -> NDArray[np.float64]:
    """Interpolate between sorted resamples, at levels of each cell's own."""
    places = np.where(np.isfinite(levels), levels, 0.0) * (len(drawn) - 1)
    low = np.floor(places).astype(np.int64)
    share = places - low
    high = np.minimum(low + 1, len(drawn) - 1)
    ends = np.take_along_axis(drawn, low, axis=0) * (1 - share)
    ends += np.take_along_axis(drawn, high, axis=0) * share
    return np.where(np.isfinite(levels), ends, np.nan)
