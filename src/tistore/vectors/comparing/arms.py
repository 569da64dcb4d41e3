"""The same vector extracted under several precisions: direction, scores and conclusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tistore.errors import QueryError
from tistore.schemas.evaluation import Evaluation
from tistore.vectors.comparing.directions import cosine
from tistore.vectors.contrast import Contrast, Rows
from tistore.vectors.evaluation.evaluate import evaluate
from tistore.vectors.evaluation.metrics import auroc
from tistore.vectors.methods.fit import Method


@dataclass(frozen=True, slots=True, eq=False)
class ArmComparison:
    """
    One precision against a reference, on the same scenarios at the same site.

    Attributes:
        cosine: Of the two directions, each fitted on its own arm's activations.
        row_error: ‖row − reference row‖ / ‖reference row‖, the mean over scenarios.
        score_correlation: Pearson's r of the scenarios' scores along the reference's direction,
            read by either arm: whether a vector of the one may be put to the other's captures.
        score_shift: Mean change of these scores, in standard deviations of the reference's.
        transfer_auroc: How well the reference's direction separates the arm's activations; it was
            fitted on the reference's of the same scenarios, so it tells of transfer only.
        evaluation: Of the method on the arm's own activations, held out.
        reference: The same of the reference.
        agrees: Whether both come to the same conclusion: intervals of Hedges' g that lie on the
            same side of 0, or both on neither.
    """

    cosine: float
    row_error: float
    score_correlation: float
    score_shift: float
    transfer_auroc: float
    evaluation: Evaluation
    reference: Evaluation

    @property
    def agrees(self) -> bool:
        """Whether both come to the same conclusion."""
        return _conclude(self.evaluation) == _conclude(self.reference)


def compare_arms(
    reference: Contrast,
    arm: Contrast,
    method: Method,
    *,
    seed: int = 0,
    evaluation: Evaluation | None = None,
) -> ArmComparison:
    """
    Compare what a method makes of the same scenarios read in two precisions.

    Args:
        reference: Rows read by the reference.
        arm: Rows of the same scenarios, in the same order, read by the arm.
        method: Fits the directions.
        seed: Of the fits, the folds and the intervals.
        evaluation: Of the method on the reference, with that seed, where it has been made before.

    Raises:
        QueryError: The rows are not of the same scenarios.
        ConfigError: There are too few scenarios to hold any out.
        FitError: The method finds no direction on one of them.
    """
    for one, other in (
        (reference.positive_groups, arm.positive_groups),
        (reference.negative_groups, arm.negative_groups),
    ):
        if not np.array_equal(one, other):
            raise QueryError(
                f"the arms have read {len(one)} and {len(other)} scenarios, not the same ones",
                mend="read the same scenarios with both, without vetting one of them",
            )
    if reference.width != arm.width:
        raise QueryError(f"the arms are {reference.width} and {arm.width} wide: two models")
    direction = method(reference, seed).values
    own = method(arm, seed).values
    before, after = _join(reference), _join(arm)
    unit = direction / np.linalg.norm(direction)
    scores, changed = before @ unit, after @ unit
    is_positive = np.arange(len(before)) < len(reference.positive)
    spread = float(scores.std(ddof=1))
    return ArmComparison(
        cosine=cosine(direction, own),
        row_error=float(
            np.mean(np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1))
        ),
        score_correlation=float(np.corrcoef(scores, changed)[0, 1]),
        score_shift=float((changed - scores).mean()) / spread,
        transfer_auroc=float(auroc(changed, is_positive, np.zeros(len(changed), np.int64))),
        evaluation=evaluate(arm, method, seed=seed),
        reference=evaluation or evaluate(reference, method, seed=seed),
    )


def _join(contrast: Contrast) -> Rows:
    return np.concatenate([contrast.positive, contrast.negative]).astype(np.float64)


def _conclude(evaluation: Evaluation) -> int | None:
    """Side of 0 that the interval of g lies on; 0 where it holds 0, None without one."""
    low, high = evaluation.g_low, evaluation.g_high
    if low is None or high is None:
        return None
    return int(low > 0) - int(high < 0)
