"""Straight-line fits on several covariates, with errors that know which rows belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels, number_clusters, sum_clusters
from tistore.errors import QueryError

Values = NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """
    A fit by least squares; arrays are (1 + covariates,), the intercept first.

    Attributes:
        coefficients: What the value is where every covariate is 0, then its change for one unit
            of each covariate, the others held.
        errors: Standard errors, robust to what clusters share; NaN below two clusters.
        low: Low ends of 95 % intervals, from Student's t with as many degrees of freedom as
            clusters, less one.
        high: High ends.
        n: Rows.
        n_clusters: Clusters.
        r2: Share of the values' variance that the covariates explain.
    """

    coefficients: Values
    errors: Values
    low: Values
    high: Values
    n: int
    n_clusters: int
    r2: float


def fit_clustered(values: Values, covariates: Values, clusters: Labels) -> Fit:
    """
    Fit values by a constant and some covariates.

    Args:
        values: (row,), finite.
        covariates: (row, covariate), finite.
        clusters: (row,) labels; rows of one label are not independent.

    Raises:
        QueryError: There are no more rows than coefficients, or covariates go together so that
            their shares cannot be told apart.

    Source:
        Liang and Zeger (1986), Biometrika 73(1), with the small-sample factor
        C / (C − 1) · (n − 1) / (n − k).
    """
    from scipy.stats import t

    n, k = len(values), covariates.shape[1] + 1
    if n <= k:
        raise QueryError(f"{n} responses are too few for {k} coefficients", mend="capture more")
    index, n_clusters = number_clusters(clusters, n)
    scale = np.concatenate([[1.0], np.abs(covariates).max(axis=0, initial=0.0)])
    if not scale.all():
        raise QueryError("a covariate is 0 at every response", mend="leave it out")
    design = np.column_stack([np.ones(n), covariates]) / scale
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    if rank < k:
        raise QueryError(
            "the covariates go together, so that none can be held while another changes",
            mend="leave one of them out",
        )
    residuals = values - design @ solution
    inverse = np.linalg.inv(design.T @ design)
    scores = sum_clusters(design * residuals[:, None], index, n_clusters)
    factor = n_clusters / (n_clusters - 1) * (n - 1) / (n - k) if n_clusters > 1 else np.nan
    variance = factor * inverse @ (scores.T @ scores) @ inverse
    errors = np.sqrt(np.diag(variance)) / scale
    reach = t.ppf((1 + CONFIDENCE) / 2, max(n_clusters - 1, 1)) * errors
    spread = ((values - values.mean()) ** 2).sum()
    return Fit(
        coefficients=solution / scale,
        errors=errors,
        low=solution / scale - reach,
        high=solution / scale + reach,
        n=n,
        n_clusters=n_clusters,
        r2=float(1 - (residuals**2).sum() / spread) if spread > 0 else float("nan"),
    )
