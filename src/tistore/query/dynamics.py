"""
How a score moves along a text: SQL functions over a list of token scores.

`trajectory('refusal')` makes such a list, and so does `list(project('refusal') ORDER BY position)`.
With x₀ … xₙ₋₁ its values, in this order:

- `velocity(x)`: xᵢ₊₁ − xᵢ, n − 1 values. `acceleration(x)`: the differences of these, n − 2.
- `peak_velocity(x)`, `mean_velocity(x)`: the largest, and the mean, of |velocity|.
- `commitment_point(x)`, `commitment_point(x, threshold)`: the first i with |accelerationᵢ| below
  the threshold, 0.1 unless given; counted from 0, as positions are.
- `persistence(x)`: how many values after the one of largest |x| lie above half of it.
- `smooth(x)`, `smooth(x, width)`: the mean over the `width` values around each, 5 unless given;
  at the ends over those there are. An even width counts as the next odd one. A list shorter than
  the width stays as it is.
- `top_mean(x, n)`: the mean of the n largest values; of all, where there are fewer.

A width or an n below 1 gives NULL, as do the first seven for fewer than two values, and
`commitment_point` where no acceleration is that small. A NULL in a list is a gap: it keeps its
place, what is next to it has no velocity, and no mean, maximum or count takes it in.

Source:
    velocity to persistence follow the dynamics of trait-interp (December 2025), smooth its charts.
"""

from __future__ import annotations

import duckdb

# Each takes its list through a lambda of its own, so that the list is computed once; names that a
# query cannot use keep these from catching the columns the list is made of.
_LIST, _I, _SIZES, _ITEM = ("__tistore_x", "__tistore_i", "__tistore_sizes", "__tistore_item")

_COMMITMENT_THRESHOLD = 0.1
_WINDOW = 5


def _over_list(body: str, of: str = "x", name: str = _LIST) -> str:
    """SQL of an expression in which `name` is the list; NULL where that is NULL."""
    return f"list_transform([({of})::DOUBLE[]], lambda {name}: {body})[1]"


def _from_two(body: str) -> str:
    return f"CASE WHEN len({_LIST}) >= 2 THEN {body} END"


def _at(offset: int) -> str:
    return f"{_LIST}[{_I} + {offset}]"


def _commitment(threshold: str) -> str:
    is_small = f"list_transform(acceleration(x), lambda {_ITEM}: abs({_ITEM}) < ({threshold}))"
    return f"list_position({is_small}, true) - 1"


def _smooth(width: str) -> str:
    half = f"(({width}) // 2)"
    window = f"{_LIST}[greatest(1, {_I} - {half}) : {_I} + {half}]"
    mean = f"CASE WHEN {_LIST}[{_I}] IS NOT NULL THEN list_avg({window}) END"
    means = f"list_transform(range(1, len({_LIST}) + 1), lambda {_I}: {mean})"
    return _over_list(
        f"CASE WHEN ({width}) < 1 THEN NULL WHEN len({_LIST}) < ({width}) THEN {_LIST} "
        f"ELSE {means} END"
    )


_SPEEDS = f"list_transform(velocity(x), lambda {_ITEM}: abs({_ITEM}))"
_VELOCITY = _over_list(
    _from_two(f"list_transform(range(1, len({_LIST})), lambda {_I}: {_at(1)} - {_at(0)})")
)
_ACCELERATION = _over_list(
    _from_two(
        f"list_transform(range(1, len({_LIST}) - 1), "
        f"lambda {_I}: ({_at(2)} - {_at(1)}) - ({_at(1)} - {_at(0)}))"
    )
)
_PERSISTENCE = _over_list(
    f"CASE WHEN len({_SIZES}) >= 2 AND list_max({_SIZES}) IS NOT NULL THEN len(list_filter("
    f"{_SIZES}[list_position({_SIZES}, list_max({_SIZES})) + 1 :], "
    f"lambda {_ITEM}: {_ITEM} > 0.5 * list_max({_SIZES}))) END",
    of=f"list_transform(x, lambda {_ITEM}: abs({_ITEM}))",
    name=_SIZES,
)
_TOP_MEAN = _over_list(
    # error() would say more than NULL, but makes a call volatile: no alias could refer to it.
    f"CASE WHEN (n) >= 1 THEN list_avg(list_sort({_LIST}, 'DESC', 'NULLS LAST')[1 : (n)]) END"
)

_BODIES: dict[str, tuple[str, ...]] = {
    "velocity": (f"(x) AS {_VELOCITY}",),
    "acceleration": (f"(x) AS {_ACCELERATION}",),
    "peak_velocity": (f"(x) AS list_max({_SPEEDS})",),
    "mean_velocity": (f"(x) AS list_avg({_SPEEDS})",),
    "commitment_point": (
        f"(x) AS {_commitment(str(_COMMITMENT_THRESHOLD))}",
        f"(x, threshold) AS {_commitment('threshold')}",
    ),
    "persistence": (f"(x) AS {_PERSISTENCE}",),
    "smooth": (f"(x) AS {_smooth(str(_WINDOW))}", f"(x, width) AS {_smooth('width')}"),
    "top_mean": (f"(x, n) AS {_TOP_MEAN}",),
}
_STATEMENTS = ";".join(f"CREATE MACRO {name}{', '.join(_BODIES[name])}" for name in _BODIES)

FUNCTIONS: frozenset[str] = frozenset(_BODIES)
"""Names of the functions."""


def create_functions(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the functions, as macros, on a connection."""
    connection.execute(_STATEMENTS)
