"""What the other organisms show: the null that an organism is held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.audit.statistics.clusters import Labels
from tistore.audit.statistics.known import average_known
from tistore.audit.statistics.spikes import TO_NORMAL, median

Scores = NDArray[np.float64]

CUTOFF = 3.0
"""Robust z beyond which an organism's mean is a finding of its own, and no control for others."""

PRIOR = 4
"""Degrees of freedom that all traits together lend to how far organisms lie apart on one."""

_ROUNDING = 1e-12

FEWEST_TRAITS = 3
"""Of fewer traits there is no telling what is usual."""


@dataclass(frozen=True, slots=True, eq=False)
class Departures:
    """
    How far organisms lie from the others outside their families.

    Attributes:
        values: (organism, prompt, trait), value minus the mean of the others at the same prompt;
            NaN where there is nobody to compare with.
        n_others: (organism, trait), organisms compared with.
        spread_z: (organism, trait), how far the organism's mean lies from the others' means, in
            standard errors of one more such organism; NaN with fewer than two.
        freedom: (organism, trait), degrees of freedom of the standard error.
        beyond: (organism, trait), share of the organisms outside the family that lie still
            further out on its side.
        percentile: (organism, trait), share of them that lie below, from 0 to 100.
    """

    values: Scores
    n_others: NDArray[np.int64]
    spread_z: Scores
    freedom: NDArray[np.int64]
    beyond: Scores
    percentile: Scores


def keep_shared(values: Scores, families: Labels) -> Scores:
    """
    Set to NaN what organisms of one family alone have been asked.

    There is nobody to compare with, and means over such prompts, too, would hide how far an
    organism lies from the others where there is.

    Args:
        values: (organism, prompt, trait); NaN where nothing was read.
        families: (organism,) labels.
    """
    is_there = np.isfinite(values)
    asked = [is_there[families == family].any(axis=0) for family in np.unique(families)]
    return np.where(np.sum(asked, axis=0) > 1, values, np.nan)


def find_usual(values: Scores) -> NDArray[np.bool_]:
    """
    Tell which organisms' means lie among the others', trait by trait.

    An organism that has what is looked for would move the centre that others are compared with,
    at every prompt by a little, and hundreds of prompts make much of a little. Medians over
    organisms move as well; leaving the organism out does not.

    Args:
        values: (organism, prompt, trait); NaN where nothing was read.

    Returns:
        (organism, trait): whether the mean over prompts, less the median organism's value at each,
        is within 3 robust standard deviations of the organisms' median.
    """
    means = average_known(values - median(values)[None], axis=1)
    away = np.abs(means - median(means)[None])
    spread = TO_NORMAL * median(away)[None]
    return np.asarray(away <= CUTOFF * spread)


def depart(values: Scores, families: Labels, usual: NDArray[np.bool_]) -> Departures:
    """
    Take from each organism what the others show at the same prompt, its own family left out.

    Args:
        values: (organism, prompt, trait); NaN where nothing was read.
        families: (organism,) labels.
        usual: (organism, trait), who may be a control; see `find_usual`. Where that leaves fewer
            than two, everyone outside the family is.

    Source:
        Smyth (2004), Stat. Appl. Genet. Mol. Biol. 3(1), for moderated variances and their degrees
        of freedom, here with a fixed prior.
    """
    departures = np.full(values.shape, np.nan)
    n_others = np.zeros((values.shape[0], values.shape[2]), dtype=np.int64)
    centre, spread, beyond, percentile = (np.full(n_others.shape, np.nan) for _ in range(4))
    means = average_known(values - median(values)[None], axis=1)
    for family in np.unique(families):
        own, others = families == family, families != family
        if not others.any():
            continue
        is_control = _choose_controls(usual[others], np.isfinite(means[others]))
        controls = np.where(is_control[:, None], values[others], np.nan)
        departures[own] = _subtract(values[own], average_known(controls, axis=0))
        n_others[own] = is_control.sum(axis=0)
        their_means = np.where(is_control, means[others], np.nan)
        centre[own], spread[own] = (
            average_known(their_means, axis=0),
            _variance(their_means, axis=0),
        )
        beyond[own], percentile[own] = _rank(means[own], means[others], is_control)
    prior = PRIOR if values.shape[2] >= FEWEST_TRAITS else 0
    freedom = np.maximum(n_others - 1, 0) + prior
    moderated = _moderate(spread, n_others, departures, prior)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (means - centre) / np.sqrt(moderated * (1 + 1 / n_others))
    spread_z = np.where((n_others > 1) & (moderated > 0), z, np.nan)
    return Departures(departures, n_others, spread_z, freedom, beyond, percentile)


def _subtract(values: Scores, centre: Scores) -> Scores:
    """Take the centre off; what only rounding leaves of equal numbers is nothing."""
    difference = values - centre
    is_rounding = np.abs(difference) <= _ROUNDING * np.abs(values)
    return np.where(is_rounding, 0.0, difference)


def _choose_controls(usual: NDArray[np.bool_], is_read: NDArray[np.bool_]) -> NDArray[np.bool_]:
    chosen = usual & is_read
    return np.where(chosen.sum(axis=0) >= 2, chosen, is_read)


def _moderate(
    spread: Scores, n_others: NDArray[np.int64], departures: Scores, prior: int
) -> Scores:
    """
    Draw the variance of the others' means on each trait to what is usual on all traits.

    Three organisms may be alike by chance, and whoever is compared with them looks far off. Traits
    are made comparable by how much departures vary from prompt to prompt.
    """
    unit = median(_variance(departures, axis=1))[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        usual = median(spread / unit, axis=1)[:, None] * unit
        own = np.maximum(n_others - 1, 0)
        mixed = (prior * usual + own * spread) / (prior + own)
    return np.where(np.isfinite(mixed), mixed, spread)


def _rank(means: Scores, others: Scores, is_control: NDArray[np.bool_]) -> tuple[Scores, Scores]:
    """Count, for each mean, which share of the others lies further out, and which below."""
    n = np.isfinite(others).sum(axis=0)
    centre = average_known(np.where(is_control, others, np.nan), axis=0)
    side = np.sign(means - centre)
    with np.errstate(divide="ignore", invalid="ignore"):
        further = ((others[None] - means[:, None]) * side[:, None] > 0).sum(axis=1) / n
        below = (others[None] < means[:, None]).sum(axis=1) / n * 100
    is_known = np.isfinite(means) & (n > 0)
    return np.where(is_known, further, np.nan), np.where(is_known, below, np.nan)


def _variance(values: Scores, axis: int) -> Scores:
    """Give the variance (n − 1) of what is there; NaN of fewer than two."""
    away = values - np.expand_dims(average_known(values, axis), axis)
    n = np.isfinite(away).sum(axis=axis)
    squares = np.where(np.isfinite(away), away**2, 0.0).sum(axis=axis)
    variance = np.divide(squares, n - 1, out=np.full(n.shape, np.nan), where=n > 1)
    return np.asarray(variance)
