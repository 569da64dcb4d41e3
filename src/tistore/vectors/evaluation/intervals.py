"""How far figures might lie off: resampling whole scenarios."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.vectors.evaluation.cross_fit import HeldOutScores
from tistore.vectors.evaluation.labelled import LabelledRows
from tistore.vectors.evaluation.metrics import Metric, ResampledMetrics

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Intervals:
    """
    95 % intervals, each a low and a high end; NaN where the rows determine none.

    Attributes:
        g: Of Hedges' g.
        auroc: Of the AUROC.
        balanced_accuracy: Of the balanced accuracy.
    """

    g: tuple[float, float]
    auroc: tuple[float, float]
    balanced_accuracy: tuple[float, float]


def bootstrap_intervals(
    held_out: HeldOutScores, *, resamples: int = RESAMPLES, seed: int = 0
) -> Intervals:
    """
    Resample the scenarios, and see how the figures of their held-out scores vary.

    Whole groups are drawn with replacement: those with both sides, and those of one side, each
    among themselves. The interval of g is bias-corrected and accelerated (BCa); those of AUROC and
    balanced accuracy, which end at 1, are percentiles: where every resample is parted without a
    mistake, both ends are 1. The directions are taken as they are, so the intervals tell of these
    scores on other scenarios of the kind, not of directions fitted on others.

    Args:
        held_out: Scores; see `cross_fit`.
        resamples: How many.
        seed: Of the resamples.

    Raises:
        Nothing: figures that cannot be told are NaN.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13 and 14.
    """
    from scipy.stats import bootstrap

    labelled = LabelledRows(held_out.scores[:, None], held_out.is_positive, held_out.groups)
    metrics = ResampledMetrics(
        held_out.scores, held_out.is_positive, labelled.group_index, held_out.folds
    )
    strata = _list_strata(labelled)
    if any(len(stratum) < 2 for stratum in strata):
        nothing = (float("nan"), float("nan"))
        return Intervals(nothing, nothing, nothing)

    def measure(metric: Metric) -> Any:
        def measured(*drawn: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
            return metric(_count(drawn, metrics.n_groups))

        return measured

    options: dict[str, Any] = {"confidence_level": CONFIDENCE, "vectorized": True}
    with warnings.catch_warnings():
        # Scores without spread: the interval is NaN, and says so.
        warnings.simplefilter("ignore")
        drawn = bootstrap(
            strata,
            measure(metrics.all),
            method="percentile",
            n_resamples=resamples,
            rng=np.random.default_rng(seed),
            **options,
        )
        of_g = bootstrap(
            strata,
            measure(metrics.g),
            method="BCa",
            n_resamples=0,
            bootstrap_result=replace(drawn, bootstrap_distribution=drawn.bootstrap_distribution[0]),
            **options,
        ).confidence_interval
    low, high = drawn.confidence_interval
    return Intervals(
        (float(of_g.low), float(of_g.high)),
        (float(low[1]), float(high[1])),
        (float(low[2]), float(high[2])),
    )


def _list_strata(labelled: LabelledRows) -> list[NDArray[np.int64]]:
    """Part the groups by the sides they have; a lone one goes with the others."""
    strata = [np.flatnonzero(labelled.kind == kind) for kind in range(3)]
    lone = [stratum for stratum in strata if len(stratum) == 1]
    several = [stratum for stratum in strata if len(stratum) > 1]
    if not lone:
        return several
    return [np.concatenate([*lone, *several[:1]]), *several[1:]]


def _count(drawn: tuple[NDArray[np.int64], ...], n_groups: int) -> NDArray[np.float64]:
    """Count how often each group was drawn: (..., n_groups)."""
    shape = np.broadcast_shapes(*(part.shape[:-1] for part in drawn))
    places = np.concatenate(
        [np.broadcast_to(part, (*shape, part.shape[-1])) for part in drawn], axis=-1
    ).reshape(-1, sum(part.shape[-1] for part in drawn))
    offsets = np.arange(len(places))[:, None] * n_groups
    counts = np.bincount((places + offsets).ravel(), minlength=len(places) * n_groups)
    return counts.reshape(*shape, n_groups).astype(np.float64)
