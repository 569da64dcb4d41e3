"""
The relation `scores`: vector × token, for the vectors that a query's own conditions name.

There is a score for every vector one could think of, so a use of `scores` must say which it means.
It then stands for one table of tokens with a score column for each of these vectors, laid out one
vector after the other only while the SQL runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sqlglot import exp

from tistore.errors import SqlError
from tistore.query.calls import Parameters, has_call
from tistore.query.conditions import conditions_around, is_inner, split
from tistore.query.relations import LONG, LONG_COLUMNS
from tistore.query.scopes import Scope, Source, inline
from tistore.schemas.tables import LOG_TABLES

_MOST_CHOICES = 1000

# A branch for each vector is the fastest to run, and a condition on the vector passes over the
# others; but each branch is bound anew, against a table with a column for each vector.
_MOST_BRANCHES = 64
_TOGETHER = 16

Evaluate = Callable[[exp.Query], list[Any]]
"""Runs a query over tables of the log, and gives the values of its one column."""


@dataclass(frozen=True, slots=True)
class LongColumn:
    """
    One vector of a use of `scores`.

    Attributes:
        vector: Its reference, as the query writes it.
        layer: Layer it is read at.
        column: Column of the use's table that holds its scores.
    """

    vector: str
    layer: int
    column: str


@dataclass(frozen=True, slots=True)
class _Choice:
    """Values that `vector` and `layer` can have together; None where any will do."""

    vectors: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None

    @property
    def is_possible(self) -> bool:
        return self.vectors != () and self.layers != ()

    def narrow(self, other: _Choice) -> _Choice:
        return _Choice(
            _intersect(self.vectors, other.vectors), _intersect(self.layers, other.layers)
        )


def find_vectors(
    scope: Scope, source: Source, parameters: Parameters, evaluate: Evaluate
) -> list[tuple[str, int | None]]:
    """
    Find the vectors, and the layers, that the conditions on a use of `scores` leave.

    Returns:
        References as written, each with the layer asked for; None where its own will do.

    Raises:
        SqlError: The conditions leave any vector, or none; or one depends on the rows.
    """
    conditions = [*_list_conditions(scope, source), *_pivot_conditions(source)]
    reader = _Reader(scope, source, conditions, parameters, evaluate)
    choices = [_Choice()]
    for condition in conditions:
        choices = _both(choices, reader.read(condition))
    choices = [choice for choice in choices if choice.is_possible]
    if any(choice.vectors is None for choice in choices):
        name = "vector" if len(scope.sources) == 1 else f"{source.alias}.vector"
        raise SqlError(
            f"{LONG} has a score for any vector there is: say which are meant",
            mend=f"write WHERE {name} = 'refusal', or {name} IN ('refusal', 'sycophancy@26'), "
            f"or {name} IN (SELECT trait FROM vectors)",
        )
    found = {
        (vector, layer): None
        for choice in choices
        for vector in choice.vectors or ()
        for layer in choice.layers or (None,)
    }
    if not found:
        raise SqlError(f"the conditions on {source.alias or LONG} leave no vector to read")
    return list(found)


def write_union(
    table: str, columns: Sequence[str], long: Sequence[LongColumn], hidden: Sequence[str]
) -> exp.Query:
    """
    Write the query that lays out one vector after the other.

    Args:
        table: Table of tokens, with a column of scores for each vector.
        columns: Columns of `tokens` to show.
        long: The vectors.
        hidden: Further columns of the table to hand through.
    """
    together = 1 if len(long) <= _MOST_BRANCHES else _TOGETHER
    whole: exp.Query | None = None
    for start in range(0, len(long), together):
        branch = _write_branch(table, columns, long[start : start + together], hidden)
        whole = branch if whole is None else exp.union(whole, branch, distinct=False, copy=False)
    assert whole is not None
    return whole


def _write_branch(
    table: str, columns: Sequence[str], long: Sequence[LongColumn], hidden: Sequence[str]
) -> exp.Select:
    values = (
        [exp.cast(exp.Literal.string(place.vector), "varchar", dialect="duckdb") for place in long],
        [exp.cast(exp.Literal.number(place.layer), "int", dialect="duckdb") for place in long],
        [exp.column(place.column, quoted=True) for place in long],
    )
    laid_out = (
        column[0] if len(long) == 1 else exp.Unnest(expressions=[exp.Array(expressions=column)])
        for column in values
    )
    return exp.select(
        *(exp.column(name, quoted=True) for name in columns),
        *(exp.alias_(value, name) for name, value in zip(LONG_COLUMNS, laid_out, strict=True)),
        *(exp.column(name, quoted=True) for name in hidden),
    ).from_(exp.to_table(table))


def _list_conditions(scope: Scope, source: Source) -> list[exp.Expr]:
    """
    Collect conditions that every row of the answer made from a row of the source meets.

    Those read here hold for no NULL, so WHERE counts on either side of an outer join: leaving
    other rows out at once leaves out nothing that it would keep.
    """
    is_sampled = scope.select.args.get("sample") or source.node.args.get("sample")
    joins = [other.join for other in scope.sources if other.join is not None]
    if is_sampled or source.pivots or any("POSITIONAL" in (j.method, j.kind) for j in joins):
        return []
    join = source.join
    own = join.args.get("on") if join is not None and join.side not in ("RIGHT", "FULL") else None
    if join is not None and (join.kind in ("SEMI", "ANTI") or join.method == "ASOF"):
        return split(own)  # WHERE sees nothing of it, or only the row that was the nearest
    where = scope.select.args.get("where")
    inner = [other for other in joins if other is not join and is_inner(other)]
    on = [part for other in inner for part in split(other.args.get("on"))]
    return [*split(where.this if where else None), *split(own), *on, *conditions_around(scope)]


def _pivot_conditions(source: Source) -> list[exp.Expr]:
    """List the columns that a PIVOT spreads, with the values it names: nothing else is shown."""
    if len(source.pivots) != 1 or source.pivots[0].args.get("unpivot"):
        return []
    return [field for field in source.pivots[0].args.get("fields") or []]


class _Reader:
    """Reads conditions as choices of vectors and layers."""

    def __init__(
        self,
        scope: Scope,
        source: Source,
        conditions: Sequence[exp.Expr],
        parameters: Parameters,
        evaluate: Evaluate,
    ) -> None:
        self._scope = scope
        self._parameters = parameters
        self._evaluate = evaluate
        self._names = {
            name: _find_equals(scope, (source.alias, name), conditions)
            for name in ("vector", "layer")
        }

    def read(self, condition: exp.Expr) -> list[_Choice]:
        """Choices that a condition leaves, in the manner of a disjunctive normal form."""
        if isinstance(condition, exp.Paren):
            return self.read(condition.this)
        if isinstance(condition, exp.And):
            return _both(self.read(condition.left), self.read(condition.right))
        if isinstance(condition, exp.Or):
            return list(dict.fromkeys([*self.read(condition.left), *self.read(condition.right)]))
        if isinstance(condition, exp.EQ | exp.NullSafeEQ):
            for column, value in (
                (condition.left, condition.right),
                (condition.right, condition.left),
            ):
                if (name := self._name(column)) and not isinstance(value, exp.Column):
                    return [self._choice(name, self._values(value, condition))]
        if isinstance(condition, exp.In) and (name := self._name(condition.this)):
            return [self._choice(name, self._members(condition))]
        return [_Choice()]

    def _name(self, node: exp.Expr) -> str | None:
        """Which of `vector` and `layer` a node is; None for anything else."""
        if not isinstance(node, exp.Column):
            return None
        owned = set(_owners(self._scope, node))
        return next((name for name, equals in self._names.items() if owned & equals), None)

    def _choice(self, name: str, values: list[Any]) -> _Choice:
        known = list(dict.fromkeys(value for value in values if value is not None))
        if name == "vector":
            if wrong := [value for value in known if not isinstance(value, str)]:
                raise SqlError(f"{LONG}: vector is a reference, not {wrong[0]!r}")
            return _Choice(vectors=tuple(known))
        if wrong := [value for value in known if type(value) is not int or value < 0]:
            raise SqlError(f"{LONG}: {wrong[0]!r} is no layer: a block number from 0")
        return _Choice(layers=tuple(known))

    def _members(self, condition: exp.In) -> list[Any]:
        if (query := condition.args.get("query")) is not None:
            values = self._run(query, condition)
            # What is read and what runs must agree, whatever the query would say the second time.
            literals = [exp.convert(value) for value in values if value is not None]
            condition.set("query", None)
            condition.set("expressions", literals or [exp.Null()])
            return values
        if (field := condition.args.get("field")) is not None:
            return self._unnest(field, condition)
        return [value for item in condition.expressions for value in self._values(item, condition)]

    def _values(self, value: exp.Expr, condition: exp.Expr) -> list[Any]:
        if isinstance(value, exp.Paren):
            return self._values(value.this, condition)
        if isinstance(value, exp.Literal):
            return [value.to_py()]
        if isinstance(value, exp.Placeholder):
            return [self._parameters[value.name]]
        if isinstance(value, exp.Any):
            if isinstance(value.this, exp.Query) and not isinstance(value.this, exp.Subquery):
                return self._run(value.this, condition)
            return self._unnest(value.this, condition)
        return self._run(exp.select(value.copy()), condition)

    def _unnest(self, values: exp.Expr, condition: exp.Expr) -> list[Any]:
        return self._run(exp.select(exp.Unnest(expressions=[values.copy()])), condition)

    def _run(self, query: exp.Query, condition: exp.Expr) -> list[Any]:
        inlined = inline(query, self._scope.ctes)
        if inlined is None:
            raise SqlError(f"{condition.sql('duckdb')}: the CTEs in it are nested too deeply")
        tables = {table.name.lower() for table in inlined.find_all(exp.Table)}
        own = (column for column in inlined.find_all(exp.Column) if not _is_inside(column, inlined))
        if has_call(inlined) or tables - set(LOG_TABLES) or any(own):
            raise SqlError(
                f"{condition.sql('duckdb')}: which vectors are read must be known before the rows "
                "are",
                mend=f"name them, or ask a table of the log: {', '.join(LOG_TABLES)}",
            )
        return self._evaluate(inlined)


def _is_inside(column: exp.Column, query: exp.Query) -> bool:
    """Whether a column stands in a SELECT that reads a table."""
    select = column.find_ancestor(exp.Select)
    return select is not None and (select is not query or select.args.get("from_") is not None)


def _find_equals(
    scope: Scope, column: tuple[str, str], conditions: Sequence[exp.Expr]
) -> set[tuple[str, str]]:
    """Find the columns, as (alias, name), that conditions set equal to one."""
    equals = {column}
    pairs = [
        (set(_owners(scope, condition.left)), set(_owners(scope, condition.right)))
        for condition in conditions
        if isinstance(condition, exp.EQ)
        and isinstance(condition.left, exp.Column)
        and isinstance(condition.right, exp.Column)
    ]
    merged = {
        identifier.name.lower()
        for source in scope.sources
        if source.join is not None and is_inner(source.join)
        for identifier in source.join.args.get("using") or []
    }
    for name in merged & set(LONG_COLUMNS):
        holders = {(source.alias, name) for source in scope.sources if source.relation == LONG}
        pairs.append((holders, holders))
    while more := [a | b for a, b in pairs if (a | b) & equals and not (a | b) <= equals]:
        equals |= set().union(*more)
    return equals


def _owners(scope: Scope, column: exp.Column) -> list[tuple[str, str]]:
    """Items of the FROM, as (alias, name), whose column this can be."""
    name = column.name.lower()
    if column.table:
        return [(column.table.lower(), name)]
    return [
        (source.alias, name)
        for source in scope.sources
        if source.relation == LONG and name in LONG_COLUMNS
    ]


def _both(left: Sequence[_Choice], right: Sequence[_Choice]) -> list[_Choice]:
    found = dict.fromkeys(a.narrow(b) for a, b in product(left, right))
    if len(found) > _MOST_CHOICES:
        raise SqlError(
            f"the conditions on {LONG} combine in more than {_MOST_CHOICES} ways",
            mend="name the vectors in one list: vector IN (…)",
        )
    return list(found)


def _intersect(
    left: tuple[Any, ...] | None, right: tuple[Any, ...] | None
) -> tuple[Any, ...] | None:
    if left is None or right is None:
        return right if left is None else left
    return tuple(value for value in left if value in right)
