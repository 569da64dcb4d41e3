"""
Narrowing: which readings a query can need, found before anything large is read.

For each relation of a FROM, the conditions that speak of whole readings are run against the
readings alone. Leaving conditions out only makes the answer larger, so whatever is not understood
is left out; where a condition's meaning could hang on rows that are not there (outer joins, ASOF,
samples, pivots), it is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from sqlglot import exp

from tistore.errors import SqlError
from tistore.query.calls import Parameters
from tistore.query.conditions import find_conditions
from tistore.query.fence import check_statement
from tistore.query.guard import RESERVED
from tistore.query.readings import Ids, Readings
from tistore.query.relations import DIFF_OF, READING_LEVEL, Extent
from tistore.query.scopes import Scope, Source, inline
from tistore.query.stand_ins import (
    Condition,
    Levels,
    StandIn,
    StandIns,
    bind,
    using_conditions,
)

_ID = f"{RESERVED}_id"
_READINGS = f"{RESERVED}_readings"
_PAIRS = f"{RESERVED}_pairs"

# Partners of partners narrow little more, and each could have as many again.
_DEPTH = 3


@dataclass(frozen=True, slots=True, eq=False)
class Narrowed:
    """
    What one item of a FROM needs.

    Attributes:
        extent: Its rows.
        condition: SQL of the conditions used; None when every reading is needed.
    """

    extent: Extent
    condition: str | None


class Narrower:
    """
    Asks the readings which of them a relation of a FROM can need.

    Args:
        connection: Where to ask; the relations of the log are registered there.
        readings: The snapshot's readings.
        parameters: Values bound to the query.

    Attributes:
        parameters: The same.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        readings: Readings,
        parameters: Parameters,
    ) -> None:
        self.parameters = parameters
        self._connection = connection
        self._readings = readings
        self._planner = _Planner()
        self._registered: set[str] = set()

    def narrow(self, scope: Scope, source: Source) -> Narrowed:
        """Find the readings an item of a FROM can need; all of them when in doubt."""
        for statement in self._plan(scope, source):
            text = statement.args["where"].this.sql("duckdb")
            ids = self._ask(statement)
            if ids is not None:
                return Narrowed(self._extent(source, ids), text)
        return Narrowed(self._extent(source, None), None)

    def evaluate(self, query: exp.Query) -> list[Any]:
        """
        Run a query over tables of the log, and give the values of its one column.

        Raises:
            SqlError: It fails.
        """
        used = {node.name for node in query.find_all(exp.Placeholder)}
        parameters = {key: value for key, value in self.parameters.items() if key in used}
        text = query.sql("duckdb")
        check_statement(self._connection, text)
        try:
            answer = self._connection.execute(text, parameters or None).fetchall()
        except duckdb.Error as error:
            raise SqlError(f"{text}: {str(error).splitlines()[0]}") from error
        if answer and len(answer[0]) != 1:
            raise SqlError(f"{text}: one column is expected, not {len(answer[0])}")
        return [row[0] for row in answer]

    def _plan(self, scope: Scope, source: Source) -> Iterator[exp.Select]:
        """Statements to try, the narrowest first; none when all readings are needed."""
        return self._planner.plan(scope, source)

    def _ask(self, statement: exp.Select) -> Ids | None:
        """Run a statement; None when it does not bind or fails."""
        # In subqueries of conditions, relations go by their reading-level tables, too.
        for table in statement.find_all(exp.Table):
            if table.name.lower() in READING_LEVEL:
                _replace_table(table, table.name.lower(), table.alias_or_name)
        self._register(statement)
        used = {node.name for node in statement.find_all(exp.Placeholder)}
        parameters = {key: value for key, value in self.parameters.items() if key in used}
        try:
            answer = self._connection.execute(statement.sql("duckdb"), parameters or None)
            return np.asarray(answer.fetchnumpy()[_ID], dtype=np.int64)
        except duckdb.Error:
            # Whatever is wrong with it, running the query itself will say so better.
            return None

    def _register(self, statement: exp.Select) -> None:
        named = {table.name for table in statement.find_all(exp.Table)}
        if _READINGS in named - self._registered:
            numbers = pa.array(np.arange(len(self._readings)))
            self._connection.register(_READINGS, self._readings.table.append_column(_ID, numbers))
        if _PAIRS in named - self._registered:
            self._connection.register(_PAIRS, self._pair_table())
        self._registered |= named

    def _pair_table(self) -> pa.Table:
        pairs = self._readings.pairs
        of_reader = self._readings.table.take(pa.array(pairs.reader))
        baseline = self._readings.table["reader"].take(pa.array(pairs.baseline))
        columns = {
            "baseline": baseline,
            "pairing": self._readings.pairing(pairs),
            _ID: pa.array(np.arange(len(pairs.reader))),
        }
        for name, column in columns.items():
            of_reader = of_reader.append_column(name, column)
        return of_reader

    def _extent(self, source: Source, ids: Ids | None) -> Extent:
        assert source.relation is not None
        if source.relation in DIFF_OF:
            pairs = self._readings.pairs
            if ids is not None:
                pairs = pairs.take(np.sort(ids))
            return Extent(source.relation, self._readings, pairs.reader, pairs.baseline)
        if ids is None:
            ids = np.arange(len(self._readings))
        return Extent(source.relation, self._readings, np.sort(ids))


class _Planner:
    """Writes the statements that ask which rows of an item a query can need."""

    def __init__(self) -> None:
        self._stand_ins = StandIns()

    def plan(self, scope: Scope, source: Source, depth: int = 0) -> Iterator[exp.Select]:
        """Statements that select an item's ids, the narrowest first."""
        levels = self._stand_ins.levels(scope)
        view = next((view for view in levels[0] if view.source is source), None)
        if view is None or not view.alias:
            return
        conditions = self._collect(levels, scope, view)
        own = [condition for condition in conditions if condition.aliases <= {view.alias}]
        others, shared = _connect(view, conditions, levels)
        if shared and depth < _DEPTH:
            tables = [self._table(other, depth) for other in others]
            yield _select_ids(view.alias, self._table(view, depth), own, tables, shared)
        if own:
            yield _select_ids(view.alias, self._table(view, depth), own)

    def _collect(self, levels: Levels, scope: Scope, view: StandIn) -> list[Condition]:
        """Conditions on an item, and on whatever its rows must have beside them to matter."""
        own = [_bind(levels, tree, scope) for tree in find_conditions(scope, view.source)]
        own += using_conditions(levels[0], view)
        beside: list[Condition | None] = []
        for place, level in enumerate(levels):
            for other in (other for other in level if other.is_partner and other is not view):
                # A condition that the item's own query is part of, such as NOT EXISTS (…), may hold
                # because of the very rows it would leave out.
                trees = [
                    tree
                    for tree in find_conditions(other.scope, other.source)
                    if all(inner != scope.select for inner in tree.find_all(exp.Select))
                ]
                beside += [_bind(levels[place:], tree, other.scope) for tree in trees]
                beside += using_conditions(level, other)
        # What must hold for a partner's rows may look at rows of this item that count all the same.
        beside = [found for found in beside if found and view.alias not in found.aliases]
        return [condition for condition in (*own, *beside) if condition is not None]

    def _table(self, view: StandIn, depth: int) -> exp.Expr:
        """What an item reads, or the rows of the item below it that its own can come from."""
        if view.origin is None:
            alias = exp.to_identifier(view.alias)
            return exp.to_table(str(view.source.relation), alias=alias)
        scope, source = view.origin
        statement = next(self.plan(scope, source, depth + 1), None)
        if statement is None:
            statement = exp.select().from_(self._table(self._stand_ins.find(scope, source), depth))
        alias = exp.to_identifier(source.alias)
        columns = [
            exp.alias_(exp.column(inner, table=alias.copy()), name, quoted=True)
            for name, inner in view.columns.items()
        ]
        statement.set("expressions", columns)
        return statement.subquery(exp.to_identifier(view.alias))


def _bind(levels: Levels, condition: exp.Expr, scope: Scope) -> Condition | None:
    """Bind a condition, the CTEs that its subqueries name written into it."""
    if any(table.name.lower() in scope.ctes for table in condition.find_all(exp.Table)):
        inlined = inline(condition, scope.ctes)
        return bind(levels, inlined) if inlined is not None else None
    return bind(levels, condition)


def _connect(
    view: StandIn, conditions: Sequence[Condition], levels: Levels
) -> tuple[list[StandIn], list[Condition]]:
    """Collect the items that equalities tie to this one, and the conditions among them."""
    partners = {other.alias: other for level in levels for other in level if other.is_partner}
    tied = {view.alias}
    while True:
        more = {
            alias
            for condition in conditions
            if isinstance(condition.tree, exp.EQ) and condition.aliases & tied
            for alias in condition.aliases - tied
            if alias in partners
        }
        if not more:
            break
        tied |= more
    others = [partners[alias] for alias in sorted(tied - {view.alias})]
    shared = [c for c in conditions if c.aliases <= tied and not c.aliases <= {view.alias}]
    return others, shared


def _select_ids(
    alias: str,
    table: exp.Expr,
    own: Sequence[Condition],
    others: Sequence[exp.Expr] = (),
    shared: Sequence[Condition] = (),
) -> exp.Select:
    """Select the ids of rows that meet their own conditions, and have partners in the others."""
    statement = exp.select(exp.column(_ID, table=exp.to_identifier(alias))).from_(table)
    conditions = [condition.tree.copy() for condition in own]
    if others:
        partners = exp.select("1").from_(others[0])
        for other in others[1:]:
            partners = partners.join(other, join_type="CROSS")
        trees = (condition.tree.copy() for condition in shared)
        conditions.append(exp.Exists(this=partners.where(*trees)))
    return statement.where(*conditions)


def _replace_table(table: exp.Table, relation: str, alias: str) -> None:
    """Put the relation's reading-level columns, and ids, where the relation is named."""
    inner = exp.select(_ID, *READING_LEVEL[relation]).from_(
        _PAIRS if relation in DIFF_OF else _READINGS
    )
    table.replace(inner.subquery(alias, copy=False))
