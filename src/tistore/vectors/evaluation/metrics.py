"""Measures of how two sides' scores lie apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tistore.vectors.evaluation.labelled import Folds, Marks

Scores = NDArray[np.floating]


def auroc(scores: Scores, is_positive: Marks, strata: Folds) -> NDArray[np.float64]:
    """
    Measure the chance that a positive row scores above a negative one of the same stratum.

    Only rows of one stratum are compared: those of one fold, which the same direction scores.
    Ties count half. Strata weigh as many pairs as they have.

    Args:
        scores: (..., n); leading axes are separate questions.
        is_positive: (..., n), broadcast against `scores`.
        strata: (n,).

    Returns:
        (...,) from 0 to 1; NaN where no stratum has both sides.

    Source:
        Mann and Whitney (1947); Bamber (1975) for its being the area under the ROC curve.
    """
    from scipy.stats import rankdata

    scores, labels = np.broadcast_arrays(scores, is_positive)
    above = np.zeros(scores.shape[:-1])
    pairs = np.zeros(scores.shape[:-1])
    for stratum in np.unique(strata):
        inside = strata == stratum
        is_its = labels[..., inside]
        n_positive = is_its.sum(axis=-1)
        ranks = rankdata(scores[..., inside], axis=-1)
        above += (ranks * is_its).sum(axis=-1) - n_positive * (n_positive + 1) / 2
        pairs += n_positive * (is_its.shape[-1] - n_positive)
    with np.errstate(invalid="ignore"):
        return np.asarray(above / pairs)


def balanced_accuracy(scores: Scores, is_positive: Marks) -> float:
    """
    Average over the sides the share of rows on the right side of 0.

    Scores are taken less the training midpoint, so 0 is where the training rows were parted. A
    score of exactly 0 counts half.
    """
    is_above = _is_above(scores)
    return float((is_above[is_positive].mean() + 1 - is_above[~is_positive].mean()) / 2)


def _is_above(scores: Scores) -> NDArray[np.float64]:
    return (np.sign(scores) + 1) / 2


def hedges_g(first: Scores, second: Scores) -> float:
    """
    Standardise the difference of two groups' means, corrected for small samples.

    Args:
        first: (n_first,).
        second: (n_second,).

    Returns:
        Signed: positive when `first` is larger. NaN with fewer than two values on a side or no
        spread at all.

    Source:
        Hedges, Journal of Educational Statistics 6(2), 1981: g = d (1 − 3 / (4ν − 1)) with
        ν = n_first + n_second − 2 and the pooled standard deviation.
    """
    freedom = len(first) + len(second) - 2
    if min(len(first), len(second)) < 2:
        return float("nan")
    squares = (len(first) - 1) * np.var(first, ddof=1) + (len(second) - 1) * np.var(second, ddof=1)
    spread = float(np.sqrt(squares / freedom))
    if spread == 0:
        return float("nan")
    effect = (float(np.mean(first)) - float(np.mean(second))) / spread
    return effect * (1 - 3 / (4 * freedom - 1))


def share_of_pairs_ordered(scores: Scores, is_positive: Marks, groups: NDArray[np.int64]) -> float:
    """
    Count the groups whose positive rows score higher on average than their negative rows.

    Returns:
        Their share among the groups with both sides, equal means counting half; NaN without any.
    """
    index = np.unique(groups, return_inverse=True)[1]
    sides = []
    for side in (is_positive, ~is_positive):
        n = np.bincount(index[side], minlength=index.max() + 1)
        with np.errstate(invalid="ignore"):
            sides.append(np.bincount(index[side], weights=scores[side], minlength=len(n)) / n)
    difference = sides[0] - sides[1]
    difference = difference[~np.isnan(difference)]
    return float(_is_above(difference).mean()) if len(difference) else float("nan")


class ResampledMetrics:
    """
    AUROC, balanced accuracy and Hedges' g of scores whose groups are taken several times or never.

    What a group contributes is summed up once, so that thousands of resamples are products of
    small matrices.

    Args:
        scores: (n,), less the training midpoint.
        is_positive: (n,).
        group_index: (n,) place of each row's group, from 0.
        strata: (n,); see `auroc`.
    """

    def __init__(
        self, scores: Scores, is_positive: Marks, group_index: NDArray[np.int64], strata: Folds
    ) -> None:
        self.n_groups = int(group_index.max()) + 1
        membership = np.eye(self.n_groups)[group_index]
        sides = [(is_positive, membership[is_positive]), (~is_positive, membership[~is_positive])]
        # Sums of squares lose no digits when the scores lie around 0.
        centred = scores - scores.mean()
        self._sums = [
            np.stack([np.ones(side.sum()), centred[side], centred[side] ** 2,
                      _is_above(scores[side])]) @ members
            for side, members in sides
        ]  # fmt: skip
        positive, negative = scores[is_positive], scores[~is_positive]
        is_compared = strata[is_positive][:, None] == strata[~is_positive][None, :]
        is_above = _is_above(positive[:, None] - negative[None, :]) * is_compared
        self._above = sides[0][1].T @ is_above @ sides[1][1]
        self._pairs = sides[0][1].T @ is_compared @ sides[1][1]

    def g(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Hedges' g for each row of counts, (resample, group): how often each group is taken."""
        sums = [counts @ side.T for side in self._sums]
        (n, m), (total, other), (squares, others) = (
            (sums[0][..., at], sums[1][..., at]) for at in range(3)
        )
        freedom = n + m - 2
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt((squares - total**2 / n + others - other**2 / m) / freedom)
            return np.asarray((total / n - other / m) / spread * (1 - 3 / (4 * freedom - 1)))

    def auroc(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """AUROC for each row of counts."""
        above, pairs = (
            ((counts @ table) * counts).sum(axis=-1) for table in (self._above, self._pairs)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(above / pairs)

    def balanced_accuracy(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Balanced accuracy for each row of counts."""
        sums = [counts @ side.T for side in self._sums]
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = [side[..., 3] / side[..., 0] for side in sums]
        return np.asarray((shares[0] + 1 - shares[1]) / 2)

    def all(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Stack g, AUROC and balanced accuracy: (3, resample)."""
        return np.stack([self.g(counts), self.auroc(counts), self.balanced_accuracy(counts)])


Metric = Callable[[NDArray[np.float64]], NDArray[np.float64]]
