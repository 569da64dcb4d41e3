"""Choosing among candidates, and what choosing achieves on scenarios that had no part in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from tistore.errors import InvalidRecordError
from tistore.schemas.evaluation import Evaluation
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import FOLDS, HeldOutScores, score_folds, score_outside
from tistore.vectors.evaluation.evaluate import describe_held_out
from tistore.vectors.evaluation.intervals import RESAMPLES
from tistore.vectors.evaluation.labelled import Folds, LabelledRows, deal_folds
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.rotation_invariant import lay_out


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """
    One of the vectors a choice is among: a method on the rows of a site and position.

    Attributes:
        name: Of the caller's making; each only once.
        contrast: Rows of the same scenarios, in the same order, as every other candidate's.
        method: Fits a direction.
    """

    name: Hashable
    contrast: Contrast
    method: Method


@dataclass(frozen=True, slots=True, order=True)
class Merit:
    """
    What candidates are compared by: held-out AUROC; where that is equal, held-out Hedges' g.

    Attributes:
        auroc: -1 where it cannot be told.
        g: Minus infinity where it cannot be told.
    """

    auroc: float
    g: float

    @classmethod
    def of(cls, held_out: HeldOutScores) -> Merit:
        """Measure held-out scores."""
        # Rounded, lest the order of a sum decide between equals.
        auroc, g = round(held_out.auroc, 9), round(held_out.g, 9)
        return cls(-1.0 if np.isnan(auroc) else auroc, -np.inf if np.isnan(g) else g)


@dataclass(frozen=True, slots=True, eq=False)
class NestedEvaluation:
    """
    A choice, and an estimate of what choosing in this way achieves.

    Attributes:
        best: Name of the candidate with the largest merit; of equals the first.
        merits: For each candidate, its merit on all scenarios, each held out once. That of the
            best is too large: it is the largest of many. No estimate of quality.
        winners: For each outer fold, the candidate that was best on the other folds.
        evaluation: Of the winners' scores on the folds that had no part in their being chosen,
            in standard deviations within a side of the training scores.
    """

    best: Hashable
    merits: dict[Hashable, Merit]
    winners: tuple[Hashable, ...]
    evaluation: Evaluation

    @property
    def wins(self) -> dict[Hashable, int]:
        """How often each candidate was best, the most frequent first; those never best left out."""
        return dict(Counter(self.winners).most_common())


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A candidate's scores on each outer fold, and its merit and spread on the others."""

    name: Hashable
    held_out: HeldOutScores
    merits: tuple[Merit, ...]
    spreads: tuple[float, ...]


def nested(
    candidates: Iterable[Candidate],
    *,
    folds: int = FOLDS,
    inner_folds: int = FOLDS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> NestedEvaluation:
    """
    Choose among candidates, and estimate the quality of the choice on what had no part in it.

    Scenarios are dealt into outer folds. Without each, every candidate is cross-fitted on the
    others; the best of them is fitted there, and it alone scores the fold that was left out. The
    split that chose is never the split that reports.

    Candidates are taken one after the other and none is kept: rows of one layer are in memory at a
    time, if the iterator reads them so.

    Args:
        candidates: At least one; of the same scenarios in the same order.
        folds: Outer folds.
        inner_folds: Folds within what an outer fold leaves.
        seed: Of all folds, and given to the methods.
        resamples: Bootstrap resamples for the intervals.

    Raises:
        ConfigError: There are too few scenarios for the folds.
        FitError: A method finds no direction on the rows of some folds.
        InvalidRecordError: There is no candidate, two have one name, or their scenarios differ.

    Source:
        Varma and Simon, BMC Bioinformatics 7:91, 2006; Cawley and Talbot, JMLR 11, 2010.
    """
    trials: list[_Trial] = []
    dealt: Folds | None = None
    for candidate in candidates:
        labelled = LabelledRows.of(lay_out(candidate.contrast, candidate.method))
        if dealt is None:
            dealt = deal_folds(labelled, folds, seed)
        _check_alike(candidate, labelled, trials)
        trials.append(_try(candidate, labelled, dealt, inner_folds, seed))
    if not trials or dealt is None:
        raise InvalidRecordError("there is nothing to choose among")
    # `max` takes the first of equals.
    winners = [
        max(trials, key=lambda trial: trial.merits[fold])  # noqa: B023  # used at once
        for fold in range(folds)
    ]
    first = trials[0].held_out
    scores = np.empty(len(first.scores))
    for fold, winner in enumerate(winners):
        inside = dealt == fold
        scores[inside] = winner.held_out.scores[inside] / winner.spreads[fold]
    held_out = HeldOutScores(scores, first.is_positive, first.groups, dealt)
    merits = {trial.name: Merit.of(trial.held_out) for trial in trials}
    return NestedEvaluation(
        max(merits, key=lambda name: merits[name]),
        merits,
        tuple(winner.name for winner in winners),
        describe_held_out(held_out, folds=folds, seed=seed, resamples=resamples),
    )


def _try(
    candidate: Candidate, labelled: LabelledRows, dealt: Folds, inner_folds: int, seed: int
) -> _Trial:
    scores = np.empty(len(labelled.rows))
    merits, spreads = [], []
    for fold in np.unique(dealt):
        outside = dealt != fold
        training = labelled.take(outside)
        inner = deal_folds(training, inner_folds, seed + 1 + int(fold))
        tested = score_folds(training, inner, candidate.method, seed)
        merits.append(Merit.of(tested))
        spreads.append(_spread(tested))
        scores[~outside] = score_outside(labelled, outside, candidate.method, seed)
    held_out = HeldOutScores(scores, labelled.is_positive, labelled.groups, dealt)
    return _Trial(candidate.name, held_out, tuple(merits), tuple(spreads))


def _spread(held_out: HeldOutScores) -> float:
    """Measure the spread within the sides, so that scores of different layers can be joined."""
    sides = (held_out.positive, held_out.negative)
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in sides)
    return float(np.sqrt(squares / (len(held_out.scores) - 2))) or 1.0


def _check_alike(candidate: Candidate, labelled: LabelledRows, trials: list[_Trial]) -> None:
    if any(trial.name == candidate.name for trial in trials):
        raise InvalidRecordError(f"two candidates are named {candidate.name}")
    if not trials:
        return
    first = trials[0]
    alike = (
        np.array_equal(labelled.groups, first.held_out.groups)
        and np.array_equal(labelled.is_positive, first.held_out.is_positive)
    )  # fmt: skip
    if not alike:
        raise InvalidRecordError(
            f"candidates {first.name} and {candidate.name} are of different scenarios, and no "
            "choice between them would be of the vectors alone"
        )
