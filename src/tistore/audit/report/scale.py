"""One scale for every token of a report: units that compare, and the colours they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tistore.audit.spans.length_scale import LengthScale, measure_scale
from tistore.query.span_question import and_condition, quote
from tistore.schemas.prompt import SCENARIO_SETS
from tistore.schemas.vector import Vector

if TYPE_CHECKING:
    from tistore.query.store import Store

Values = NDArray[np.float64]

STEPS = 12
"""Colours on either side of white."""

_LIMIT_QUANTILE = 0.995
_LEAST_LIMIT = 1.0

# Orange against blue is told apart with every common kind of colour blindness, and both are light
# enough for black text: 7.2 and 5.9 to 1 at their strongest.
_MORE, _LESS, _ZERO = (233, 131, 18), (74, 144, 222), (255, 255, 255)


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """
    What the scores along one vector are measured in.

    Attributes:
        mean: The baseline's mean over the tokens of its own answers, in score units.
        deviation: Their standard deviation, in score units: 1 SD of the report.
        by_length: How far means of n tokens in a row stray from the mean.
    """

    mean: float
    deviation: float
    by_length: LengthScale


def measure_units(
    store: Store, vectors: list[Vector], baseline: str, authors: list[str], where: str | None
) -> list[Unit]:
    """
    Measure the spread of the baseline's token scores along vectors.

    They are those of its own answers; where it has none, of its readings of the organisms' texts.

    Args:
        store: Where they are.
        vectors: Along which.
        baseline: Whose reading.
        authors: Organisms whose texts stand in where the baseline has no answers.
        where: SQL condition on `responses`.
    """
    found: list[dict[str, Values]] = []
    for some in ([baseline], authors):
        found = [_read_trajectories(store, one, baseline, some, where) for one in vectors]
        if any(found):
            break
    return [_measure(list(one.values())) for one in found]


def _measure(trajectories: list[Values]) -> Unit:
    longest = max(map(len, trajectories), default=1)
    scale = measure_scale(trajectories, longest)
    # Too few tokens for stretches of them can still tell what one of them varies by.
    told = np.concatenate([np.empty(0), *trajectories])
    deviation = float(told.std()) if len(told) else float("nan")
    return Unit(
        float(told.mean()) if len(told) else float("nan"),
        deviation if deviation > 0 else float("nan"),
        scale,
    )


def _read_trajectories(
    store: Store, vector: Vector, reader: str, authors: list[str], where: str | None
) -> dict[str, Values]:
    condition = and_condition(where)
    listed = ", ".join(map(quote, authors))
    sql = (
        "SELECT response_id, trajectory($v) AS scores FROM responses "
        f"WHERE reader = {quote(reader)} AND organism IN ({listed}) "
        f"AND NOT starts_with(prompt_set, {quote(SCENARIO_SETS)}){condition} ORDER BY response_id"
    )
    rows = store.sql(sql, {"v": vector.exact_name}).fetchall()
    return {
        response: np.array([one for one in scores if one is not None], dtype=np.float64)
        for response, scores in rows
        if scores is not None
    }


def find_limit(values: Values) -> float:
    """
    Choose where the colours end: one number for all traits, layers, views and responses.

    All but the farthest 1 in 200 of what is shown lie within; half units, 1 at least.
    """
    told = np.abs(values[np.isfinite(values)])
    if not len(told):
        return _LEAST_LIMIT
    return max(_LEAST_LIMIT, float(np.ceil(np.quantile(told, _LIMIT_QUANTILE) * 2) / 2))


def colour_steps(values: Values, limit: float) -> NDArray[np.int64]:
    """Give each value its colour, from -12 to 12; 0, which is white, also to what is not known."""
    steps = np.round(np.nan_to_num(values) / limit * STEPS)
    return np.clip(steps, -STEPS, STEPS).astype(np.int64)


def name_step(step: int) -> str:
    """Name a colour's class: "p3" for the third on the side of more, "n3" on the side of less."""
    return "zero" if step == 0 else f"{'p' if step > 0 else 'n'}{abs(step)}"


def list_colours() -> dict[str, str]:
    """List the colours of all classes, least first, as CSS has them."""
    return {name_step(step): _mix(step) for step in range(-STEPS, STEPS + 1)}


def _mix(step: int) -> str:
    end = _MORE if step > 0 else _LESS
    share = abs(step) / STEPS
    mixed = (round(zero + (far - zero) * share) for zero, far in zip(_ZERO, end, strict=True))
    return "#" + "".join(f"{one:02x}" for one in mixed)
