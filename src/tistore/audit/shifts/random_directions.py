"""Effects along directions that mean nothing, for those along vectors to be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tistore.audit.effects.definitions import Measure
from tistore.audit.effects.moments import measure_moments

Values = NDArray[np.float64]
Name = TypeVar("Name", bound=str)

DIRECTIONS = 10_000
_AT_ONCE = 256
_NEGLIGIBLE = 1e-12


def share_as_large(
    first: Values,
    second: Values,
    measures: Mapping[Name, Measure],
    observed: Mapping[Name, Values],
    *,
    directions: int = DIRECTIONS,
    seed: int = 0,
) -> dict[Name, Values]:
    """
    Count the random directions along which an effect is at least as large, of either sign.

    Directions are uniform on the sphere. A direction's effect depends on its part in the span of
    the rows alone, and that part is as uniform there: so it is drawn there, where few numbers
    tell it. Activations are not as wide in all directions, and traits are not directions like
    any other: that few random ones reach an effect does not make it the trait's.

    Args:
        first: (prompt, width) response means of one side.
        second: The other side's, of the same prompts.
        measures: Effects, by name; none may depend on a direction's length.
        observed: (vector,) effects along the vectors, for each measure.
        directions: How many.
        seed: Of the directions.

    Returns:
        For each measure (vector,) shares, the effect itself counted in:
        (1 + those as large) / (1 + all); NaN where the effect is.

    Source:
        Phipson and Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9(1), for counting it in.
    """
    reached = {name: np.zeros(len(observed[name])) for name in measures}
    for one, other in _score(first, second, directions, seed):
        moments = measure_moments(one, other)
        for name, measure in measures.items():
            sizes = np.sort(np.abs(np.nan_to_num(measure(moments))))
            below = np.searchsorted(sizes, np.abs(np.nan_to_num(observed[name])), side="left")
            reached[name] += len(sizes) - below
    return {
        name: np.where(np.isfinite(observed[name]), (1 + counts) / (1 + directions), np.nan)
        for name, counts in reached.items()
    }


def _score(
    first: Values, second: Values, directions: int, seed: int
) -> Iterator[tuple[Values, Values]]:
    """Score both sides along some directions at a time: (prompt, direction) each."""
    rows = locate_in_span(np.concatenate([first, second]))
    generator = np.random.default_rng(seed)
    for start in range(0, directions, _AT_ONCE):
        drawn = generator.standard_normal((rows.shape[1], min(_AT_ONCE, directions - start)))
        scores = rows @ drawn
        yield scores[: len(first)], scores[len(first) :]


def locate_in_span(rows: Values) -> Values:
    """
    Give rows by coordinates along an orthonormal basis of their own span.

    Args:
        rows: (row, width).

    Returns:
        (row, rank): their products with each other are those of the rows. Rows as they are where
        there are more of them than they are wide.
    """
    if len(rows) >= rows.shape[1]:
        return rows
    sizes, basis = np.linalg.eigh(rows @ rows.T)
    is_there = sizes > _NEGLIGIBLE * max(float(sizes[-1]), 0.0)
    return np.asarray(basis[:, is_there] * np.sqrt(sizes[is_there]))
