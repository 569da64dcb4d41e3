"""Evaluating a method on a contrast: figures, intervals and nulls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.schemas.evaluation import Evaluation
from tistore.schemas.vector import Vector
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import FOLDS, HeldOutScores, score_folds
from tistore.vectors.evaluation.intervals import RESAMPLES, bootstrap_intervals
from tistore.vectors.evaluation.labelled import LabelledRows, deal_folds
from tistore.vectors.evaluation.metrics import auroc, share_of_pairs_ordered
from tistore.vectors.evaluation.nulls import (
    Null,
    permutation_null,
    permute_labels,
    random_null,
    share_as_large,
)
from tistore.vectors.evaluation.reliability import SPLITS, split_half
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.rotation_invariant import lay_out


@dataclass(frozen=True, slots=True)
class Effort:
    """
    What an evaluation does besides the held-out figures themselves.

    Attributes:
        resamples: Bootstrap resamples for the intervals; none, no intervals.
        permutations: Permutations of the labels, each fitted and evaluated anew.
        random: Random directions that score the same rows.
        splits: Splits into halves for the reliability.
    """

    resamples: int = RESAMPLES
    permutations: int = 0
    random: int = 0
    splits: int = 0

    def with_nulls(self, permutations: int, random: int) -> Effort:
        """Change the size of the nulls."""
        return replace(self, permutations=permutations, random=random)


QUICK = Effort()
"""Figures and intervals: what every fitted vector gets."""

FULL = Effort(permutations=200, random=200, splits=SPLITS)
"""All of it: what `tistore vectors eval` does."""


def evaluate(
    contrast: Contrast,
    method: Method,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    effort: Effort = QUICK,
) -> Evaluation:
    """
    Measure how well a method's directions separate scenarios they were not fitted on.

    For several methods on wide rows, hand over `in_span(contrast)` where the method is one of
    `ROTATION_INVARIANT`: it is turned only once then.

    Args:
        contrast: Rows of both sides at one site.
        method: Fits a direction.
        folds: Parts the scenarios are dealt into, each scored along a direction fitted on the
            others.
        seed: Of everything that is drawn.
        effort: What else to do.

    Raises:
        ConfigError: There are fewer scenarios than folds on a side.
        FitError: The method finds no direction on the rows of some folds.
    """
    contrast = lay_out(contrast, method)
    labelled = LabelledRows.of(contrast)
    dealt = deal_folds(labelled, folds, seed)
    held_out = score_folds(labelled, dealt, method, seed)
    figures = _describe_scores(held_out, effort.resamples, seed)
    if effort.permutations:
        null = permutation_null(labelled, dealt, method, times=effort.permutations, seed=seed)
        figures |= _describe_null("permutation", null, held_out.auroc)
    if effort.random:
        null = random_null(labelled, dealt, times=effort.random, seed=seed)
        figures |= _describe_null("random", null, held_out.auroc)
    if effort.splits:
        halves = split_half(contrast, method, splits=effort.splits, seed=seed)
        figures |= {
            "n_splits": effort.splits,
            "split_half_cosine": halves.split_half_cosine,
            "reliability": halves.reliability,
        }
    return Evaluation(folds=folds, seed=seed, **_count(labelled), **_known(figures))


def evaluate_as_it_is(
    contrast: Contrast, vector: Vector, *, seed: int = 0, effort: Effort = QUICK
) -> Evaluation:
    """
    Measure how well a vector separates scenarios that had no part in it; nothing is fitted.

    Permutations then are of the labels alone. Without a midpoint there is no balanced accuracy,
    and mean scores are not less it.

    Args:
        contrast: Rows of both sides at the vector's site, none of which it was fitted on.
        vector: The vector.
        seed: Of everything that is drawn.
        effort: What else to do; there is nothing to split into halves.
    """
    labelled = LabelledRows.of(contrast)
    together = np.zeros(len(labelled.rows), dtype=np.int64)
    unit = vector.unit.astype(np.float64)
    scores = labelled.rows.astype(np.float64) @ unit - (vector.midpoint or 0.0)
    held_out = HeldOutScores(scores, labelled.is_positive, labelled.groups, together)
    figures = _describe_scores(held_out, effort.resamples, seed)
    if vector.midpoint is None:
        figures = {k: v for k, v in figures.items() if not k.startswith("balanced_accuracy")}
    if effort.permutations:
        labels = permute_labels(labelled, together, effort.permutations, seed)
        figures |= _describe_null("permutation", auroc(scores, labels, together), held_out.auroc)
    if effort.random:
        null = random_null(labelled, together, times=effort.random, seed=seed)
        figures |= _describe_null("random", null, held_out.auroc)
    return Evaluation(folds=0, seed=seed, **_count(labelled), **_known(figures))


def describe_held_out(
    held_out: HeldOutScores, *, folds: int, seed: int = 0, resamples: int = RESAMPLES
) -> Evaluation:
    """Lay out what held-out scores say by themselves: figures and intervals."""
    labelled = LabelledRows(held_out.scores[:, None], held_out.is_positive, held_out.groups)
    figures = _describe_scores(held_out, resamples, seed)
    return Evaluation(folds=folds, seed=seed, **_count(labelled), **_known(figures))


def _describe_scores(held_out: HeldOutScores, resamples: int, seed: int) -> dict[str, Any]:
    positive, negative = held_out.positive, held_out.negative
    figures: dict[str, Any] = {
        "auroc": held_out.auroc,
        "balanced_accuracy": held_out.balanced_accuracy,
        "g": held_out.g,
        "polarity": int(np.sign(positive.mean() - negative.mean())),
        "pairs_ordered": share_of_pairs_ordered(
            held_out.scores, held_out.is_positive, held_out.groups
        ),
        "positive_mean": float(positive.mean()),
        "positive_std": float(positive.std(ddof=1)) if len(positive) > 1 else math.nan,
        "negative_mean": float(negative.mean()),
        "negative_std": float(negative.std(ddof=1)) if len(negative) > 1 else math.nan,
        "n_resamples": resamples,
    }
    if resamples:
        found = bootstrap_intervals(held_out, resamples=resamples, seed=seed)
        for name in ("g", "auroc", "balanced_accuracy"):
            figures[f"{name}_low"], figures[f"{name}_high"] = getattr(found, name)
    return figures


def massive_energy(values: NDArray[np.floating], dims: Sequence[int]) -> float:
    """
    Measure the share of a vector's squared length that lies on massive dimensions.

    Args:
        values: (width,).
        dims: Massive dimensions of its site.
    """
    squares = np.square(values, dtype=np.float64)
    return float(squares[list(dims)].sum() / squares.sum())


def _describe_null(kind: str, null: Null, observed: float) -> dict[str, Any]:
    return {
        f"n_{'permutations' if kind == 'permutation' else kind}": len(null),
        f"{kind}_p": share_as_large(null, observed),
        f"{kind}_auroc_95": float(np.quantile(null, 0.95)),
    }


def _count(labelled: LabelledRows) -> dict[str, Any]:
    n_positive = int(labelled.is_positive.sum())
    return {
        "n_positive": n_positive,
        "n_negative": len(labelled.rows) - n_positive,
        "n_groups": labelled.n_groups,
        "is_paired": labelled.is_paired,
    }


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    """Leave out what could not be told."""
    return {
        name: value
        for name, value in figures.items()
        if not (isinstance(value, float) and math.isnan(value))
    }
