"""Held-out scores: each row along a direction fitted without its fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.labelled import Folds, LabelledRows, Marks, deal_folds
from tistore.vectors.evaluation.metrics import auroc, balanced_accuracy, hedges_g
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.rotation_invariant import lay_out

FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutScores:
    """
    Scores of rows along directions they had no part in.

    Attributes:
        scores: (n,) float64: row · direction / ‖direction‖, less the midpoint between the mean
            scores of the two sides that direction was fitted on; in the site's activation units.
        is_positive: (n,) whether a row shows the trait.
        groups: (n,) situation each row tells of.
        folds: (n,) which direction scored it; only scores of one fold are comparable to the last
            digit.
    """

    scores: NDArray[np.float64]
    is_positive: Marks
    groups: NDArray[np.int64]
    folds: Folds

    @property
    def positive(self) -> NDArray[np.float64]:
        """Scores of the rows that show the trait."""
        return self.scores[self.is_positive]

    @property
    def negative(self) -> NDArray[np.float64]:
        """Scores of the rows that do not."""
        return self.scores[~self.is_positive]

    @property
    def auroc(self) -> float:
        """See `metrics.auroc`; rows are compared within folds."""
        return float(auroc(self.scores, self.is_positive, self.folds))

    @property
    def g(self) -> float:
        """See `metrics.hedges_g`."""
        return hedges_g(self.positive, self.negative)

    @property
    def balanced_accuracy(self) -> float:
        """See `metrics.balanced_accuracy`."""
        return balanced_accuracy(self.scores, self.is_positive)


def cross_fit(
    contrast: Contrast, method: Method, *, folds: int = FOLDS, seed: int = 0
) -> HeldOutScores:
    """
    Score every row along a direction fitted without its fold.

    Whole groups are held out, so that no two rows of one situation are on either side of a split.

    Args:
        contrast: Rows of both sides.
        method: Fits a direction.
        folds: How many directions are fitted.
        seed: Of the folds, and given to the method.

    Returns:
        One score a row, the positive ones first, in the contrast's order.

    Raises:
        ConfigError: There are fewer scenarios than folds on a side.
        FitError: The method finds no direction on the rows of some folds.
    """
    labelled = LabelledRows.of(lay_out(contrast, method))
    return score_folds(labelled, deal_folds(labelled, folds, seed), method, seed)


def score_folds(labelled: LabelledRows, folds: Folds, method: Method, seed: int) -> HeldOutScores:
    """Score every row along a direction fitted on the rows of the other folds."""
    scores = np.empty(len(labelled.rows))
    for fold in np.unique(folds):
        outside = folds != fold
        scores[~outside] = score_outside(labelled, outside, method, seed)
    return HeldOutScores(scores, labelled.is_positive, labelled.groups, folds)


def score_outside(
    labelled: LabelledRows, is_training: Marks, method: Method, seed: int
) -> NDArray[np.float64]:
    """Fit on some rows, and score the others: less the training midpoint, in their order."""
    training = labelled.contrast(is_training)
    values = method(training, seed).values
    unit = values / np.linalg.norm(values)
    midpoint = ((training.positive @ unit).mean() + (training.negative @ unit).mean()) / 2
    return np.asarray(labelled.rows[~is_training] @ unit - midpoint, dtype=np.float64)
