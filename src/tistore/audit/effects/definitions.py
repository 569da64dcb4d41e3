"""Standardised effects, by the definitions of tistore and of trait-interp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.audit.effects.moments import Moments
from tistore.errors import QueryError, nearest

Values = NDArray[np.float64]
Measure = Callable[[Moments], Values]

DefinitionName = Literal["tistore", "trait-interp"]
DEFINITION_NAMES: tuple[DefinitionName, ...] = get_args(DefinitionName)


@dataclass(frozen=True, slots=True)
class Definition:
    """
    How an effect is standardised.

    Attributes:
        name: By which it is asked for.
        paired: Of the differences, prompt by prompt.
        unpaired: Of the two sides' means.
        paired_name: What the paired effect is called.
        unpaired_name: What the unpaired effect is called.
    """

    name: DefinitionName
    paired: Measure
    unpaired: Measure
    paired_name: str
    unpaired_name: str


def mean_difference(moments: Moments) -> Values:
    """Mean difference, in score units."""
    return moments.difference


def hedges_g_z(moments: Moments) -> Values:
    """
    Standardise by the deviation of the paired differences (n − 1), corrected for small samples.

    NaN below three prompts, or where the differences do not differ.

    Source:
        Lakens (2013), Frontiers in Psychology 4:863, eq. 6; Hedges (1981) for the correction
        1 − 3 / (4ν − 1), here with ν = n − 1.
    """
    return _divide(moments.difference, _variance(moments.paired, moments.n)) * _correction(
        moments.n - 1
    )


def hedges_g_av(moments: Moments) -> Values:
    """
    Standardise by the root mean of the two sides' variances (n − 1), corrected for small samples.

    NaN below two prompts, or where neither side varies.

    Source:
        Lakens (2013), Frontiers in Psychology 4:863, eq. 10, with the correction 1 − 3 / (4ν − 1)
        at ν = 2n − 2.
    """
    return cohens_d_av(moments) * _correction(2 * moments.n - 2)


def cohens_d_av(moments: Moments) -> Values:
    """
    Standardise by the root mean of the two sides' variances (n − 1), as it is.

    trait-interp's unpaired d, signed. NaN below two prompts, or where neither side varies.
    """
    within = (moments.first + moments.second) / 2
    return _divide(moments.difference, _variance(within, moments.n))


def population_d_z(moments: Moments) -> Values:
    """
    Standardise by the deviation of the paired differences, dividing by n.

    trait-interp's paired d: 0 where the differences do not differ, however large they are.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(moments.paired / moments.n)
        return np.where(deviation == 0, 0.0, moments.difference / deviation)


DEFINITIONS: dict[DefinitionName, Definition] = {
    "tistore": Definition("tistore", hedges_g_z, hedges_g_av, "Hedges' g_z", "Hedges' g_av"),
    "trait-interp": Definition(
        "trait-interp", population_d_z, cohens_d_av, "d_z over n", "d_av over n - 1"
    ),
}


def find_definition(name: str) -> Definition:
    """
    Find a definition by its name.

    Raises:
        QueryError: There is none of that name.
    """
    found = next((one for one in DEFINITIONS.values() if one.name == name), None)
    if found is None:
        raise QueryError(f"no definition {name!r}; {nearest(name, DEFINITION_NAMES)}")
    return found


def _variance(squares: Values, n: Values) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(squares / np.where(n > 1, n - 1, np.nan))


def _divide(difference: Values, variance: Values) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, difference / np.sqrt(variance), np.nan)


def _correction(freedom: Values) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        # One degree of freedom corrects every effect to 0, which would look like a finding.
        return np.where(freedom > 1, 1 - 3 / (4 * freedom - 1), np.nan)
