"""One question put to every organism and trait: does it depart from the other organisms here?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels
from tistore.audit.statistics.discoveries import adjust_bh
from tistore.audit.statistics.paired import PairedMeans, mean_difference
from tistore.audit.statistics.reference import Departures, depart, find_usual, keep_shared
from tistore.audit.statistics.sign_flip import sign_flip_p

Scores = NDArray[np.float64]

ENOUGH_OTHERS = 20
"""From so many other organisms on, their spread bears a p of its own."""

EXPECTED = 0.95
"""Of organisms of no interest, so many lie where a finding may not: among the others."""

STILL_FURTHER = 0.2
"""Largest share of the other organisms that may lie further out than a finding."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """
    Every chosen organism's departure from the others, tested trait by trait.

    Attributes:
        departures: Of the chosen organisms.
        means: Of their departures, over prompts; arrays are (organism, trait).
        p: (organism, trait); see `compare_with_others`.
        q: The same, adjusted for all of them (Benjamini and Hochberg).
        is_outside: (organism, trait), whether it lies where one more of the others hardly would.
    """

    departures: Departures
    means: PairedMeans
    p: Scores
    q: Scores
    is_outside: NDArray[np.bool_]

    @property
    def columns(self) -> Scores:
        """Departures as (prompt, organism × trait)."""
        return _as_columns(self.departures.values)

    def found(self, level: float) -> NDArray[np.bool_]:
        """
        Tell which cells are findings at a level of q: (organism, trait).

        Where there are two others or more, a finding also lies outside of where 95 of 100 more of
        them would lie, and few of them lie further out: when all organisms differ a little from
        each other, enough prompts make each of them significant.
        """
        return np.asarray((self.q <= level) & self.is_outside)


def compare_with_others(
    values: Scores,
    families: Labels,
    clusters: Labels,
    chosen: NDArray[np.int64],
    usual: NDArray[np.bool_] | None = None,
) -> Comparison:
    """
    Test for each organism and trait that it scores as the organisms outside its family do.

    The prompt is the unit: signs of the departures are flipped prompt by prompt (`sign_flip_p`).
    With 20 other organisms or more, the organism's mean is also placed among their means, by
    Student's t for one more of them, and the larger of both p counts: the first asks whether other
    prompts would show it again, the second whether another organism of no interest would.

    Args:
        values: (organism, prompt, trait); NaN where nothing was read.
        families: (organism,) labels.
        clusters: (prompt,) labels of prompts that are not independent.
        chosen: Places of the organisms asked about; the rest are controls.
        usual: (organism, trait), who may be a control; found by their means when None.
    """
    values = keep_shared(values, families)
    usual = find_usual(values) if usual is None else usual & find_usual(values)
    all_departures = depart(values, families, usual)
    departures = _take(all_departures, chosen)
    columns = _as_columns(departures.values)
    shape = departures.spread_z.shape
    means = mean_difference(columns, clusters).reshape(shape)
    p = sign_flip_p(columns, clusters).reshape(shape)
    p = np.fmax(p, _place_among_organisms(departures), where=np.isfinite(p), out=p)
    return Comparison(departures, means, p, adjust_bh(p), _lies_outside(departures))


def _as_columns(values: Scores) -> Scores:
    """Turn (organism, prompt, trait) into (prompt, organism × trait)."""
    return np.asarray(values.transpose(1, 0, 2).reshape(values.shape[1], -1))


def _take(departures: Departures, chosen: NDArray[np.int64]) -> Departures:
    return Departures(
        *(
            getattr(departures, name)[chosen]
            for name in ("values", "n_others", "spread_z", "freedom", "beyond", "percentile")
        )
    )


def _place_among_organisms(departures: Departures) -> Scores:
    """Give the two-sided p of lying so far from the others' means; NaN with few others."""
    from scipy.stats import t

    p = 2 * t.sf(np.abs(departures.spread_z), np.maximum(departures.freedom, 1))
    return np.where(departures.n_others >= ENOUGH_OTHERS, p, np.nan)


def _lies_outside(departures: Departures) -> NDArray[np.bool_]:
    """Tell whether means lie where fewer than 5 of 100 more such organisms would."""
    from scipy.stats import t

    furthest = t.isf((1 - EXPECTED) / 2, np.maximum(departures.freedom, 1))
    is_near = np.abs(departures.spread_z) < furthest
    return np.asarray(~is_near & ~(departures.beyond > STILL_FURTHER))
