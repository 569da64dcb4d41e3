"""Groups of alike points: how they are formed, how well they part, how firm they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.errors import QueryError

Points = NDArray[np.float64]
Labels = NDArray[np.int64]

Linkage = Literal["ward", "average", "complete", "single"]
LINKAGES: tuple[Linkage, ...] = get_args(Linkage)

WEAK = 0.25
"""A mean silhouette up to this speaks of no groups at all."""

_MOST_MEANS = 10
_MOST_FITTED = 3000
"""Points that means are fitted to; more would move them by little, and take long."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """
    Points in groups, numbered from 0, the largest first.

    Attributes:
        labels: (point,) which group.
        centres: (group, feature) means.
        distance: (point,) Euclidean distance to the centre of its own group.
        nearest: (point,) the other group with the nearest centre.
        nearest_distance: (point,) how far that centre is.
        silhouette: (point,) from −1 to 1, how much nearer it is to its own group than to the next;
            0 for a point alone in its group.
    """

    labels: Labels
    centres: Points
    distance: NDArray[np.float64]
    nearest: Labels
    nearest_distance: NDArray[np.float64]
    silhouette: NDArray[np.float64]

    @property
    def sizes(self) -> Labels:
        """How many points each group has."""
        return np.bincount(self.labels, minlength=len(self.centres))


def link(points: Points, n_groups: int | None = None, linkage: Linkage = "ward") -> Groups:
    """
    Group a few points by joining the nearest first.

    Args:
        points: (point, feature).
        n_groups: How many; as many as give the largest mean silhouette when None, up to half as
            many as there are points.
        linkage: What the distance of two groups is.

    Raises:
        QueryError: There are fewer than three points, or not as many as groups.

    Source:
        Ward (1963), J. Amer. Statist. Assoc. 58; Rousseeuw (1987), J. Comput. Appl. Math. 20, for
        the silhouette.
    """
    from scipy.cluster.hierarchy import linkage as join

    _check(points, n_groups)
    tree = join(points, method=linkage)
    counts = [n_groups] if n_groups else range(2, max(2, len(points) // 2) + 1)
    return _best(_describe(points, _cut(tree, count), exact=True) for count in counts)


def relabel(points: Points, n_groups: int, linkage: Linkage) -> Labels:
    """Group points anew, by number only; see `link`."""
    from scipy.cluster.hierarchy import linkage as join

    return _cut(join(points, method=linkage), n_groups)


def part(points: Points, n_groups: int | None = None, seed: int = 0) -> Groups:
    """
    Group many points around means (k-means).

    Silhouettes are measured to centres rather than to every other point.

    Args:
        points: (point, feature).
        n_groups: How many; as many as give the largest mean silhouette when None, up to 10.
        seed: Of the first centres.

    Raises:
        QueryError: There are fewer than three points, or not as many as groups.

    Source:
        Lloyd (1982), IEEE Trans. Inf. Theory 28(2); Hruschka, de Castro and Campello (2004),
        ICDM, for the silhouette to centres.
    """
    _check(points, n_groups)
    most = min(_MOST_MEANS, len(points) - 1)
    counts = [n_groups] if n_groups else range(2, most + 1)
    return _best(
        _describe(points, fit_means(points, points, count, seed), exact=False) for count in counts
    )


def fit_means(fitted: Points, points: Points, n_groups: int, seed: int, starts: int = 4) -> Labels:
    """
    Fit means to some points, and tell which of them others are nearest to.

    Of more than 3000 points to fit, so many are drawn.
    """
    from sklearn.cluster import KMeans

    if len(fitted) > _MOST_FITTED:
        drawn = np.random.default_rng(seed).choice(len(fitted), _MOST_FITTED, replace=False)
        fitted = fitted[drawn]
    model = KMeans(n_groups, n_init=starts, random_state=seed).fit(fitted)
    return np.asarray(model.predict(points), dtype=np.int64)


def overlap(labels: Labels, others: Iterable[Labels]) -> tuple[NDArray[np.float64], float]:
    """
    Measure how far groups come back when points are grouped anew.

    Args:
        labels: (point,) groups, numbered from 0.
        others: The same points in other groups, several times.

    Returns:
        For each group the mean over the others of |A ∩ B| / |A ∪ B| with the group B most like it
        (below 0.6 it is not to be relied on, above 0.85 it is firm), and the mean adjusted Rand
        index; NaN without others.

    Source:
        Hennig (2007), Comput. Stat. Data Anal. 52(1); Hubert and Arabie (1985), J. Classif. 2.
    """
    from sklearn.metrics import adjusted_rand_score

    n_groups = int(labels.max()) + 1
    totals, agreement, n = np.zeros(n_groups), 0.0, 0
    for other in others:
        shared = np.zeros((n_groups, int(other.max()) + 1))
        np.add.at(shared, (labels, other), 1)
        union = shared.sum(axis=1)[:, None] + shared.sum(axis=0)[None] - shared
        totals += (shared / union).max(axis=1)
        agreement += float(adjusted_rand_score(labels, other))
        n += 1
    if not n:
        return np.full(n_groups, np.nan), float("nan")
    return totals / n, agreement / n


def _check(points: Points, n_groups: int | None) -> None:
    if len(points) < 3:
        raise QueryError(
            f"{len(points)} points make no groups", mend="three are needed, at the least"
        )
    if n_groups is not None and not 2 <= n_groups < len(points):
        raise QueryError(
            f"{len(points)} points cannot be {n_groups} groups",
            mend=f"name a number from 2 to {len(points) - 1}",
        )


def _cut(tree: Points, n_groups: int) -> Labels:
    from scipy.cluster.hierarchy import fcluster

    return np.asarray(fcluster(tree, n_groups, criterion="maxclust") - 1, dtype=np.int64)


def _best(found: Iterable[Groups]) -> Groups:
    # Of equally good ones the first, which has the fewest groups.
    return max(found, key=lambda groups: float(groups.silhouette.mean()))


def _describe(points: Points, labels: Labels, exact: bool) -> Groups:
    labels = _number_by_size(labels)
    n_groups = int(labels.max()) + 1
    if n_groups < 2:
        raise QueryError("all points are the same, and make no groups")
    centres = np.stack([points[labels == group].mean(axis=0) for group in range(n_groups)])
    away = np.stack([np.linalg.norm(points - centre, axis=1) for centre in centres], axis=1)
    places = np.arange(len(points))
    own = away[places, labels]
    others = away.copy()
    others[places, labels] = np.inf
    nearest = others.argmin(axis=1)
    next_distance = others[places, nearest]
    return Groups(
        labels=labels,
        centres=centres,
        distance=own,
        nearest=nearest,
        nearest_distance=next_distance,
        silhouette=_measure_silhouettes(points, labels)
        if exact
        else _divide(next_distance - own, np.maximum(own, next_distance)),
    )


def _measure_silhouettes(points: Points, labels: Labels) -> NDArray[np.float64]:
    from sklearn.metrics import silhouette_samples

    if int(labels.max()) + 1 >= len(points):
        return np.zeros(len(points))
    return np.asarray(np.nan_to_num(silhouette_samples(points, labels)))


def _number_by_size(labels: Labels) -> Labels:
    """Number groups from 0, the largest first; of equal ones, whose first point comes first."""
    known, first, index, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -counts))
    rank = np.empty(len(known), dtype=np.int64)
    rank[order] = np.arange(len(known))
    return rank[index]


def _divide(value: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(value, by, out=np.zeros_like(value), where=by > 0)
