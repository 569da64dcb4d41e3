"""Whether a few prompts stick out: what means over hundreds of prompts average away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels, number_clusters

Scores = NDArray[np.float64]

TO_NORMAL = 1.4826
"""Times the median absolute deviation, this is the standard deviation of a normal variable."""

MOST_SPIKES = 5
"""A spike may be of one prompt, or of so many."""


def robust_z(values: Scores, families: Labels) -> Scores:
    """
    Hold each organism against the others at the very same prompt.

    (value − median) / (1.4826 · median absolute deviation) of the organisms outside its family,
    the deviation moderated by the trait's usual one. An organism's own median over prompts is taken
    off, and its own spread divided by where that is above 1: a habit shown at every prompt, or more
    noise everywhere, is no spike.

    Args:
        values: (organism, prompt, trait); NaN where nothing was read.
        families: (organism,) labels; organisms of one family do not judge each other.

    Returns:
        The same shape; NaN where fewer than two others are there, or they are all alike.

    Source:
        Iglewicz and Hoaglin (1993), How to Detect and Handle Outliers; Smyth (2004), Stat. Appl.
        Genet. Mol. Biol. 3(1), for moderated spreads.
    """
    z = np.full(values.shape, np.nan)
    for family in np.unique(families):
        others = values[families != family]
        if len(others) < 2:
            continue
        centre = median(others)
        spread = _moderate(TO_NORMAL * median(np.abs(others - centre)))
        spread = np.where((np.isfinite(others).sum(axis=0) > 1) & (spread > 0), spread, np.nan)
        z[families == family] = (values[families == family] - centre) / spread
    z -= median(z, axis=1)[:, None]
    own_spread = TO_NORMAL * median(np.abs(z), axis=1)[:, None]
    return z / np.fmax(own_spread, 1.0)


def _moderate(spread: Scores) -> Scores:
    """
    Draw each prompt's spread half-way, as variances, to the trait's usual one: (prompt, trait).

    A median absolute deviation of few organisms is often small by chance, and what it divides then
    looks extreme.
    """
    return np.asarray(np.sqrt((spread**2 + median(spread)[None] ** 2) / 2))


def spike_p(z: Scores, families: Labels, clusters: Labels | None = None) -> Scores:
    """
    Test whether an organism's few most extreme prompts are more extreme than the others' ever are.

    The chance that one prompt of another organism is as far out is counted: among all prompts of
    all organisms outside the family, for the same trait, so no shape of the tail is assumed. For
    k = 1 … 5, the chance that k of n prompts are as far out as the k-th of this organism is the
    binomial's; the smallest of the five counts, times five. One prompt alone reaches no p below
    n / (prompts of all the others); three do, which is why k goes further.

    Args:
        z: (organism, prompt, trait), see `robust_z`; NaN where it is not known.
        families: (organism,) labels.
        clusters: (prompt,) labels; the most extreme prompt stands for its cluster.

    Returns:
        (organism, trait), two-sided; NaN where nothing can be told.

    Source:
        Berk and Jones (1979), Z. Wahrscheinlichkeitstheorie 47, on the largest few values; the
        tail is empirical, Phipson and Smyth (2010), arXiv:1603.05766, with one added to the count.
    """
    from scipy.stats import binom

    size = _largest_of_clusters(np.abs(z), clusters)
    p = np.full((z.shape[0], z.shape[2]), np.nan)
    n = np.isfinite(size).sum(axis=1)
    kept = np.where(np.isfinite(size), size, -np.inf)
    n_spikes = min(MOST_SPIKES, kept.shape[1])
    extremes = -np.sort(-kept, axis=1)[:, :n_spikes]
    k = np.arange(1, n_spikes + 1)
    for family in np.unique(families):
        for trait, pool in _pools(size[families != family]):
            own = np.flatnonzero(families == family)
            found = extremes[own, :, trait]
            as_far = len(pool) - np.searchsorted(pool, found, side="left")
            chance = (as_far + 1) / (len(pool) + 1)
            at_least = binom.sf(k - 1, n[own, trait][:, None], chance)
            at_least = np.where(np.isfinite(found), at_least, 1.0)
            p[own, trait] = np.minimum(at_least.min(axis=1) * n_spikes, 1.0)
    return np.where(n > 0, p, np.nan)


def _pools(size: Scores) -> Iterator[tuple[int, Scores]]:
    for trait in range(size.shape[2]):
        pool = size[:, :, trait].ravel()
        pool = np.sort(pool[np.isfinite(pool)])
        if len(pool):
            yield trait, pool


def _largest_of_clusters(size: Scores, clusters: Labels | None) -> Scores:
    """Keep each cluster's most extreme prompt: (organism, cluster, trait)."""
    index, n_clusters = number_clusters(clusters, size.shape[1])
    if n_clusters == size.shape[1]:
        return size
    largest = np.full((size.shape[0], n_clusters, size.shape[2]), -np.inf)
    known = np.where(np.isfinite(size), size, -np.inf)
    for prompt, cluster in enumerate(index):
        np.maximum(largest[:, cluster], known[:, prompt], out=largest[:, cluster])
    return np.where(np.isfinite(largest), largest, np.nan)


def median(values: Scores, axis: int = 0) -> Scores:
    """Find medians over an axis, leaving NaN out; NaN where nothing is left."""
    if np.isfinite(values).all():
        return np.asarray(np.median(values, axis=axis))
    # NaN sorts last, so the middle of what is left is at a place of its own in each column.
    ordered = np.sort(np.moveaxis(values, axis, 0), axis=0)
    n = np.isfinite(ordered).sum(axis=0)[None]
    low, high = (np.maximum((n - 1 + step) // 2, 0) for step in (0, 1))
    high = np.minimum(high, len(ordered) - 1)
    middle = (
        np.take_along_axis(ordered, low, axis=0) + np.take_along_axis(ordered, high, axis=0)
    ) / 2
    return np.asarray(np.where(n > 0, middle, np.nan)[0])
