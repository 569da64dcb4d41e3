"""Prompts that belong together: what one of them shows is no second piece of evidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.errors import InvalidRecordError

Values = NDArray[np.float64]
Labels = NDArray[np.int64]


def number_clusters(labels: Labels | None, n_prompts: int) -> tuple[Labels, int]:
    """
    Number clusters from 0, in order of their labels; each prompt is its own without labels.

    Raises:
        InvalidRecordError: There are not as many labels as prompts.
    """
    if labels is None:
        return np.arange(n_prompts), n_prompts
    if len(labels) != n_prompts:
        raise InvalidRecordError(f"{len(labels)} cluster labels for {n_prompts} prompts")
    known, index = np.unique(labels, return_inverse=True)
    return np.asarray(index, dtype=np.int64), len(known)


def sum_clusters(values: Values, index: Labels, n_clusters: int) -> Values:
    """Add up the prompts of each cluster, NaN counting as nothing: (cluster, cell)."""
    sums = np.zeros((n_clusters, values.shape[1]))
    np.add.at(sums, index, np.nan_to_num(values))
    return sums
