"""The difference of means, and how well it separates what it was not fitted on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.errors import InvalidRecordError

FOLDS = 5


def fit_mean_difference(
    positive: NDArray[np.floating], negative: NDArray[np.floating]
) -> NDArray[np.float64]:
    """
    Fit the direction from the negative mean to the positive mean.

    Not normalised: its length is in the site's own activation units.

    Args:
        positive: Rows that show the behaviour, (n_positive, hidden).
        negative: Rows that do not, at the same site, (n_negative, hidden).

    Returns:
        The direction, (hidden,) float64.

    Raises:
        InvalidRecordError: A side has no rows, or the sides differ in width.

    Source:
        Contrastive Activation Addition, arXiv:2312.06681.
    """
    if not len(positive) or not len(negative):
        raise InvalidRecordError(
            f"a mean difference needs rows on both sides, not {len(positive)} and {len(negative)}"
        )
    if positive.shape[1:] != negative.shape[1:]:
        raise InvalidRecordError(
            f"the sides differ in width: {positive.shape[1:]} and {negative.shape[1:]}"
        )
    return np.asarray(
        positive.mean(axis=0, dtype=np.float64) - negative.mean(axis=0, dtype=np.float64)
    )


def hedges_g(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
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


def held_out_separation(
    positive: NDArray[np.floating], negative: NDArray[np.floating], folds: int = FOLDS
) -> float:
    """
    Measure how far apart the sides lie along directions fitted without them.

    Row i of both sides goes to fold i mod `folds`, so that no contrasting pair straddles a split.

    Args:
        positive: (n_positive, hidden).
        negative: (n_negative, hidden).
        folds: How many directions are fitted, each without its fold.

    Returns:
        Hedges' g of the held-out scores; NaN with fewer than two rows a fold and side.
    """
    if min(len(positive), len(negative)) < 2 * folds:
        return float("nan")
    scores: list[list[NDArray[np.float64]]] = [[], []]
    for fold in range(folds):
        outside = [np.arange(len(side)) % folds != fold for side in (positive, negative)]
        direction = fit_mean_difference(positive[outside[0]], negative[outside[1]])
        direction /= np.linalg.norm(direction)
        for side, mask, kept in zip((positive, negative), outside, scores, strict=True):
            kept.append(side[~mask] @ direction)
    return hedges_g(np.concatenate(scores[0]), np.concatenate(scores[1]))
