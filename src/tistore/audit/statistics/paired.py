"""How far paired differences lie from 0: mean, error and effect size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels, Values, number_clusters, sum_clusters


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
        n_clusters: Clusters of prompts.
    """

    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    error: NDArray[np.float64]
    g: NDArray[np.float64]
    n_clusters: NDArray[np.int64]

    def reshape(self, shape: tuple[int, ...]) -> PairedMeans:
        """Lay the cells out in another shape."""
        return PairedMeans(
            n=self.n.reshape(shape),
            mean=self.mean.reshape(shape),
            deviation=self.deviation.reshape(shape),
            error=self.error.reshape(shape),
            g=self.g.reshape(shape),
            n_clusters=self.n_clusters.reshape(shape),
        )

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
    return PairedMeans(n, mean, deviation, error, g, filled)


def _standardise(mean: Values, deviation: Values, n: NDArray[Any]) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = 1 - 3 / (4 * (n - 1) - 1)
        # Of two prompts the correction leaves nothing.
        return np.where((deviation > 0) & (n > 2), mean / deviation * correction, np.nan)
