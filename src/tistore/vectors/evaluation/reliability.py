"""How much of a direction a second set of scenarios would give again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.labelled import LabelledRows, deal_folds
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.rotation_invariant import lay_out

SPLITS = 20


@dataclass(frozen=True, slots=True)
class Reliability:
    """
    Agreement of directions fitted on disjoint scenarios.

    Attributes:
        split_half_cosine: Mean cosine between the directions of two halves of the scenarios.
        reliability: What that says of directions fitted on as many scenarios as there are.
    """

    split_half_cosine: float
    reliability: float


def split_half(
    contrast: Contrast, method: Method, *, splits: int = SPLITS, seed: int = 0
) -> Reliability:
    """
    Fit both halves of the scenarios, dealt anew each time, and compare the directions.

    Args:
        contrast: Rows of both sides.
        method: Fits a direction.
        splits: How often.
        seed: Of the halves, and given to the method.

    Raises:
        ConfigError: There are fewer than two scenarios on a side.
        FitError: The method finds no direction on a half.

    Source:
        Spearman (1910) and Brown (1910): 2r / (1 + r), here of the mean cosine r.
    """
    labelled = LabelledRows.of(lay_out(contrast, method))
    cosines = []
    for split in range(splits):
        is_first = deal_folds(labelled, 2, seed + split) == 0
        first, second = (
            method(labelled.contrast(half), seed).values for half in (is_first, ~is_first)
        )
        cosines.append(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
    mean = float(np.mean(cosines))
    return Reliability(mean, 2 * mean / (1 + mean) if mean > -1 else float("nan"))
