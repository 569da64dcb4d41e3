"""A trait's vectors under several precisions, layer by layer: do they lead to the same place?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tistore.errors import QueryError
from tistore.schemas.evaluation import Evaluation
from tistore.schemas.site import Site
from tistore.vectors.comparing.arms import ArmComparison, compare_arms
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.evaluate import evaluate
from tistore.vectors.methods.fit import Method
from tistore.vectors.scenario_rows import ScenarioRows


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionComparison:
    """
    A precision against a reference, for one trait at one site.

    Attributes:
        trait: `category/name`.
        site: Where.
        arm: The precision.
        reference: The precision it is compared with.
        reader: Who read in the arm's.
        reference_reader: Who read in the reference's.
        found: How the two compare.
        rank: Place of the layer among those compared, by held-out g of the arm; 1 is the best.
            None without a g.
        reference_rank: The same of the reference.
    """

    trait: str
    site: Site
    arm: str
    reference: str
    reader: str
    reference_reader: str
    found: ArmComparison
    rank: int | None = None
    reference_rank: int | None = None


def compare_precisions(
    rows: Mapping[str, ScenarioRows],
    reference: str,
    sites: Sequence[Site],
    method: Method,
    *,
    seed: int = 0,
) -> list[PrecisionComparison]:
    """
    Compare what several precisions make of one trait, arm by arm and site by site.

    One site's rows of every arm are in memory at a time, and the next one's.

    Args:
        rows: What was read in each precision, of the very same texts.
        reference: The precision that the others are compared with.
        sites: Where; all of them have read there.
        method: Fits the directions.
        seed: Of whatever is drawn.

    Raises:
        QueryError: An arm has read other texts.
        ConfigError: There are too few scenarios to hold any out.
        FitError: The method finds no direction somewhere.
    """
    before = rows[reference]
    arms = [name for name in rows if name != reference]
    for name in arms:
        if rows[name].fitted_on != before.fitted_on:
            raise QueryError(
                f"{rows[name].reader} and {before.reader} have read other texts of {before.trait}",
                mend="have both read the same: tistore vectors quantise STORE TRAIT --config RUN",
            )
    compared: list[PrecisionComparison] = []
    for site, contrasts in _read_together(rows, sites):
        evaluation = evaluate(contrasts[reference], method, seed=seed)
        compared += [
            PrecisionComparison(
                trait=before.trait,
                site=site,
                arm=name,
                reference=reference,
                reader=rows[name].reader,
                reference_reader=before.reader,
                found=compare_arms(
                    contrasts[reference],
                    contrasts[name],
                    method,
                    seed=seed,
                    evaluation=evaluation,
                ),
            )
            for name in arms
        ]
    return [
        ranked for name in arms for ranked in _rank([one for one in compared if one.arm == name])
    ]


def correlate_ranks(comparisons: Sequence[PrecisionComparison]) -> float | None:
    """
    Measure whether an arm puts the layers in the same order as its reference, by held-out g.

    Args:
        comparisons: Of one trait and arm, one a layer.

    Returns:
        Spearman's correlation; None of fewer than three layers, or where a side ranks none.
    """
    pairs = [
        (one.rank, one.reference_rank)
        for one in comparisons
        if one.rank is not None and one.reference_rank is not None
    ]
    if len(pairs) < 3:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _read_together(
    rows: Mapping[str, ScenarioRows], sites: Sequence[Site]
) -> Iterator[tuple[Site, dict[str, Contrast]]]:
    walks = [of_arm.contrasts(sites) for of_arm in rows.values()]
    for site, read in zip(sites, zip(*walks, strict=True), strict=True):
        contrasts = (_number(contrast) for _, contrast in read)
        yield site, dict(zip(rows, contrasts, strict=True))


def _number(contrast: Contrast) -> Contrast:
    """Number groups without gaps: a reader of fewer scenarios has others in between."""
    known = contrast.groups
    return replace(
        contrast,
        positive_groups=_look_up(known, contrast.positive_groups),
        negative_groups=_look_up(known, contrast.negative_groups),
    )


def _look_up(known: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(known, groups).astype(np.int64)


def _rank(comparisons: Sequence[PrecisionComparison]) -> list[PrecisionComparison]:
    """Rank the layers of one arm, under it and under the reference."""
    own = _place([one.found.evaluation for one in comparisons])
    before = _place([one.found.reference for one in comparisons])
    return [
        replace(one, rank=rank, reference_rank=reference_rank)
        for one, rank, reference_rank in zip(comparisons, own, before, strict=True)
    ]


def _place(evaluations: Sequence[Evaluation]) -> list[int | None]:
    values = sorted((one.g for one in evaluations if one.g is not None), reverse=True)
    return [None if one.g is None else 1 + values.index(one.g) for one in evaluations]
