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
from functools import partial

import duckdb
import numpy as np
import pyarrow as pa
from sqlglot import exp

from tistore.query.calls import Parameters, has_call
from tistore.query.conditions import find_conditions, is_inner
from tistore.query.guard import RESERVED
from tistore.query.readings import Ids, Readings
from tistore.query.relations import DIFF_OF, READING_LEVEL, RELATIONS, Extent
from tistore.query.scopes import Scope, Source

_ID = f"{RESERVED}_id"
_READINGS = f"{RESERVED}_readings"
_PAIRS = f"{RESERVED}_pairs"

# Only what gives one answer however often, and over however many rows, it is asked.
_STEADY: tuple[type[exp.Expr], ...] = (
    exp.And, exp.Or, exp.Not, exp.Paren, exp.Column, exp.Identifier, exp.Literal, exp.Boolean,
    exp.Null, exp.Placeholder, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is,
    exp.NullSafeEQ, exp.NullSafeNEQ, exp.Between, exp.In, exp.Tuple, exp.Like, exp.ILike,
    exp.SimilarTo, exp.RegexpLike, exp.RegexpFullMatch, exp.StartsWith, exp.EndsWith, exp.Contains,
    exp.Lower, exp.Upper, exp.Length, exp.Substring, exp.Coalesce, exp.Concat, exp.DPipe, exp.Add,
    exp.Sub, exp.Mul, exp.Mod, exp.Neg, exp.Case, exp.If, exp.Escape,
    exp.Subquery, exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Where, exp.Exists, exp.Star,
    exp.Count, exp.Min, exp.Max, exp.Group, exp.Having, exp.Distinct, exp.Alias, exp.Join,
    exp.Union, exp.Except, exp.Intersect, exp.Any, exp.Glob, exp.Cast, exp.DataType,
)  # fmt: skip


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


@dataclass(frozen=True, slots=True, eq=False)
class _Condition:
    """A condition whose columns all carry the alias of the item of the FROM they belong to."""

    tree: exp.Expr
    aliases: frozenset[str]


class Narrower:
    """
    Asks the readings which of them a relation of a FROM can need.

    Args:
        connection: Where to ask; the relations of the log are registered there.
        readings: The snapshot's readings.
        parameters: Values bound to the query.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        readings: Readings,
        parameters: Parameters,
    ) -> None:
        self._connection = connection
        self._readings = readings
        self._parameters = parameters
        self._registered: set[str] = set()

    def narrow(self, scope: Scope, source: Source) -> Narrowed:
        """Find the readings an item of a FROM can need; all of them when in doubt."""
        for statement in self._plan(scope, source):
            text = statement.args["where"].this.sql("duckdb")
            ids = self._ask(statement)
            if ids is not None:
                return Narrowed(self._extent(source, ids), text)
        return Narrowed(self._extent(source, None), None)

    def _plan(self, scope: Scope, source: Source) -> Iterator[exp.Select]:
        """Statements to try, the narrowest first; none when all readings are needed."""
        bound = [
            condition
            for condition in map(partial(_bind, scope), find_conditions(scope, source))
            if condition is not None
        ]
        own = [condition for condition in bound if condition.aliases <= {source.alias}]
        if _joins_inner_only(scope):
            others, shared = _connect(source, [*bound, *_using_conditions(scope)], scope)
            if shared:
                yield _select_ids(source, own, others, shared)
        if own:
            yield _select_ids(source, own)

    def _ask(self, statement: exp.Select) -> Ids | None:
        """Run a statement; None when it does not bind or fails."""
        # In subqueries of conditions, relations go by their reading-level tables, too.
        for table in statement.find_all(exp.Table):
            if table.name.lower() in READING_LEVEL:
                _replace_table(table, table.name.lower(), table.alias_or_name)
        self._register(statement)
        used = {node.name for node in statement.find_all(exp.Placeholder)}
        parameters = {key: value for key, value in self._parameters.items() if key in used}
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
        return of_reader.append_column("baseline", baseline).append_column(
            _ID, pa.array(np.arange(len(pairs.reader)))
        )

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


def _joins_inner_only(scope: Scope) -> bool:
    return all(
        source.relation is not None
        and source.alias
        and not source.pivots
        and (source.join is None or is_inner(source.join))
        for source in scope.sources
    )


def _using_conditions(scope: Scope) -> list[_Condition]:
    """USING, spelled as equality with the first item of the FROM that has the column."""
    conditions = []
    for source in scope.sources:
        for identifier in (source.join.args.get("using") or []) if source.join else []:
            name = identifier.name.lower()
            first = _first_owner(scope, name)
            if first and first is not source and name in _reading_level(source):
                if name in _reading_level(first):
                    sides = [exp.column(name, table=owner.alias) for owner in (first, source)]
                    both = frozenset({first.alias, source.alias})
                    conditions.append(_Condition(exp.EQ(this=sides[0], expression=sides[1]), both))
    return conditions


def _connect(
    source: Source, conditions: Sequence[_Condition], scope: Scope
) -> tuple[list[Source], list[_Condition]]:
    """Collect the sources that equalities tie to this one, and the conditions among them."""
    tied = {source.alias}
    while True:
        more = {
            alias
            for condition in conditions
            if isinstance(condition.tree, exp.EQ) and condition.aliases & tied
            for alias in condition.aliases - tied
        }
        if not more:
            break
        tied |= more
    others = [other for other in scope.sources if other.alias in tied and other is not source]
    shared = [c for c in conditions if c.aliases <= tied and not c.aliases <= {source.alias}]
    return others, shared


def _is_steady(condition: exp.Expr) -> bool:
    return not has_call(condition) and all(
        isinstance(node, _STEADY) and not (isinstance(node, exp.Distinct) and node.args.get("on"))
        for node in condition.walk()
    )


def _bind(scope: Scope, condition: exp.Expr) -> _Condition | None:
    """Bind a condition to columns with one value for a whole reading; None if it has others."""
    if not _is_steady(condition) or not _has_readable_subqueries(condition, scope):
        return None
    bound = condition.copy()
    inside = list(bound.find_all(exp.Table))
    inside_columns = {name for table in inside for name in RELATIONS[table.name.lower()]}
    inside_aliases = {table.alias_or_name.lower() for table in inside}
    aliases = set()
    for column in bound.find_all(exp.Column):
        name, alias = column.name.lower(), column.table.lower()
        if isinstance(column.this, exp.Star):
            return None
        if column.find_ancestor(exp.Select) is not None and (
            alias in inside_aliases or (not alias and name in inside_columns)
        ):
            continue
        owner = scope.find(alias) if alias else _bare_owner(scope, name)
        if owner is None or name not in _reading_level(owner):
            return None
        column.set("table", exp.to_identifier(owner.alias))
        aliases.add(owner.alias)
    return _Condition(bound, frozenset(aliases))


def _has_readable_subqueries(condition: exp.Expr, scope: Scope) -> bool:
    """Whether subqueries read relations that the readings alone can stand in for."""
    for table in condition.find_all(exp.Table):
        name = table.name.lower()
        if name in scope.ctes or name not in RELATIONS:
            return False
        if READING_LEVEL.get(name, RELATIONS[name]) != RELATIONS[name]:
            return False
    return True


def _bare_owner(scope: Scope, name: str) -> Source | None:
    """The item of the FROM a column without an alias belongs to; None when that is not sure."""
    if any(source.relation is None for source in scope.sources):
        return None  # a subquery's or a function's columns are not known here
    owners = [source for source in scope.sources if name in RELATIONS[str(source.relation)]]
    if len(owners) == 1 or (owners and name in _used_columns(scope)):
        return owners[0] if owners[0].alias else None
    return None


def _first_owner(scope: Scope, name: str) -> Source | None:
    return next((s for s in scope.sources if name in RELATIONS.get(str(s.relation), ())), None)


def _used_columns(scope: Scope) -> set[str]:
    """Columns that a USING merges."""
    return {
        identifier.name.lower()
        for source in scope.sources
        if source.join is not None
        for identifier in source.join.args.get("using") or []
    }


def _reading_level(source: Source) -> tuple[str, ...]:
    relation = str(source.relation)
    return READING_LEVEL.get(relation, RELATIONS.get(relation, ()))


def _select_ids(
    source: Source,
    own: Sequence[_Condition],
    others: Sequence[Source] = (),
    shared: Sequence[_Condition] = (),
) -> exp.Select:
    """Select the ids of rows that meet their own conditions, and have partners in the others."""
    table = exp.to_table(str(source.relation), alias=source.alias)
    statement = exp.select(exp.column(_ID, table=source.alias)).from_(table)
    conditions = [condition.tree.copy() for condition in own]
    if others:
        partners = exp.select("1")
        for place, other in enumerate(others):
            named = exp.to_table(str(other.relation), alias=other.alias)
            if place == 0:
                partners = partners.from_(named)
            else:
                partners = partners.join(named, join_type="CROSS")
        trees = (condition.tree.copy() for condition in shared)
        conditions.append(exp.Exists(this=partners.where(*trees)))
    return statement.where(*conditions)


def _replace_table(table: exp.Table, relation: str, alias: str) -> None:
    """Put the relation's reading-level columns, and ids, where the relation is named."""
    inner = exp.select(_ID, *READING_LEVEL[relation]).from_(
        _PAIRS if relation in DIFF_OF else _READINGS
    )
    table.replace(inner.subquery(alias, copy=False))
