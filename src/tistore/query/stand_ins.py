"""
Stand-ins: what takes the place of an item of a FROM when the readings alone are asked.

For a relation it is the readings, or the pairs of them, or a table of the log. For a CTE or a
subquery it is one relation below it whose columns it shows: its rows come from that relation's,
whatever it filters, groups or orders besides. A stand-in never has fewer rows than what it stands
for has different values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from tistore.query.conditions import (
    filters_rows,
    is_inner,
    is_semi,
    is_steady,
    renames_columns,
    trace,
)
from tistore.query.relations import READING_LEVEL, RELATIONS
from tistore.query.scopes import Scope, Source


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """
    What stands in for one item of a FROM.

    Attributes:
        scope: Scope of the item.
        source: The item.
        shown: Names of all its columns; None when these are not known.
        origin: For a CTE or subquery, the item below whose columns it shows, with its scope.
        columns: Its columns that have one value for a whole reading, and the name of each in the
            relation itself, or in the item below.
    """

    scope: Scope
    source: Source
    shown: frozenset[str] | None
    origin: tuple[Scope, Source] | None
    columns: dict[str, str]

    @property
    def alias(self) -> str:
        """Name the item goes by."""
        return self.source.alias

    @property
    def is_partner(self) -> bool:
        """Whether every row of the FROM has a row of the item in it, and one that can be found."""
        join = self.source.join
        is_there = join is None or is_inner(join) or is_semi(join)
        has_table = self.source.relation is not None or self.origin is not None
        is_plain = not self.source.pivots and not self.source.is_nested
        return bool(self.alias and is_there and has_table and is_plain)


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A condition whose columns all carry the alias of the item of the FROM they belong to."""

    tree: exp.Expr
    aliases: frozenset[str]


Levels = Sequence[Sequence[StandIn]]
"""Stand-ins for the items of a scope's FROM, then for those of the scopes around it."""


class StandIns:
    """Finds stand-ins, each once: CTEs that build on each other ask for the same over and over."""

    def __init__(self) -> None:
        self._known: dict[Source, StandIn] = {}

    def levels(self, scope: Scope) -> list[list[StandIn]]:
        """Find what stands in for all that a scope's conditions can name, inner scopes first."""
        levels: list[list[StandIn]] = []
        around: Scope | None = scope
        taken: set[str] = set()
        while around is not None:
            found = [self.find(around, source) for source in around.sources]
            levels.append([view for view in found if view.alias not in taken])
            taken |= {view.alias for view in found}
            around = around.parent
        return levels

    def find(self, scope: Scope, source: Source) -> StandIn:
        """Find what stands in for an item of a FROM."""
        if source not in self._known:
            self._known[source] = self._find(scope, source)
        return self._known[source]

    def _find(self, scope: Scope, source: Source) -> StandIn:
        relation = source.relation
        if relation is not None:
            shown = frozenset(RELATIONS[relation])
            columns = {name: name for name in READING_LEVEL.get(relation, RELATIONS[relation])}
            return StandIn(scope, source, shown, None, columns)
        inner = source.derived.scope if source.derived is not None else None
        if inner is None or not _keeps_names(source):
            return StandIn(scope, source, None, None, {})
        names = self._shown_columns(inner)
        origins = self._origins(inner, names) if names is not None else []
        if not origins:
            return StandIn(scope, source, names, None, {})
        origin, columns = max(origins, key=lambda found: len(found[1]))
        return StandIn(scope, source, names, origin, columns)

    def _origins(
        self, inner: Scope, names: frozenset[str]
    ) -> list[tuple[tuple[Scope, Source], dict[str, str]]]:
        """Items below a CTE or subquery, each with those of its columns that are shown, by name."""
        traced = {name: column for name in names if (column := trace(inner, name)) is not None}
        found = []
        for source in inner.sources:
            view = self.find(inner, source)
            has_table = source.relation is not None or view.origin is not None
            if source.alias and not source.pivots and has_table:
                columns = {
                    name: column.name.lower()
                    for name, column in traced.items()
                    if column.name.lower() in view.columns and _is_of(column, source, inner)
                }
                if columns:
                    found.append(((inner, source), columns))
        return found

    def _shown_columns(self, inner: Scope) -> frozenset[str] | None:
        """Names of the columns that a SELECT shows; None when they are not known."""
        names: set[str] = set()
        for output in inner.select.expressions:
            is_star = isinstance(output, exp.Star) or (
                isinstance(output, exp.Column) and isinstance(output.this, exp.Star)
            )
            if is_star:
                alias = output.table.lower() if isinstance(output, exp.Column) else ""
                for source in inner.sources:
                    if alias in ("", source.alias):
                        shown = self.find(inner, source).shown
                        if shown is None or source.pivots:
                            return None
                        names |= shown
            elif output.find(exp.Columns, exp.Star, exp.Unnest, exp.Explode):
                if not isinstance(output, exp.Alias):
                    return None
                names.add(output.alias.lower())
            else:
                names.add(output.alias_or_name.lower())
        return frozenset(names)


def _keeps_names(source: Source) -> bool:
    """Whether a CTE or subquery goes by the column names it gives itself."""
    derived = source.derived
    return (
        derived is not None
        and not derived.is_recursive
        and not renames_columns(derived.query, source)
    )


def _is_of(column: exp.Column, source: Source, scope: Scope) -> bool:
    """Whether a column can only be of this item."""
    return column.table.lower() == source.alias if column.table else len(scope.sources) == 1


def bind(levels: Levels, condition: exp.Expr) -> Condition | None:
    """Bind a condition to columns with one value for a whole reading; None if it has others."""
    if not is_steady(condition) or not _has_readable_subqueries(condition):
        return None
    bound = condition.copy()
    aliases = set()
    for column in list(bound.find_all(exp.Column)):
        if isinstance(column.this, exp.Star):
            return None
        is_inside = _is_inside(column, bound)
        if is_inside:
            continue
        owner = find_owner(levels, column)
        if is_inside is None or owner is None or column.name.lower() not in owner.columns:
            return None
        column.set("table", exp.to_identifier(owner.alias))
        aliases.add(owner.alias)
    return Condition(bound, frozenset(aliases))


def _has_readable_subqueries(condition: exp.Expr) -> bool:
    """Whether subqueries read relations that the readings alone can stand in for."""
    for table in condition.find_all(exp.Table):
        name = table.name.lower()
        if name not in RELATIONS or READING_LEVEL.get(name, RELATIONS[name]) != RELATIONS[name]:
            return False
    return True


def _is_inside(column: exp.Column, condition: exp.Expr) -> bool | None:
    """Whether a column belongs to a subquery of the condition; None when that is not sure."""
    name, alias = column.name.lower(), column.table.lower()
    select = column.find_ancestor(exp.Select)
    while select is not None and select.root() is condition.root():
        for item in _from_items(select):
            if alias:
                if item.alias_or_name.lower() == alias:
                    return True
                continue
            names = _names_of(item)
            if names is None:
                return None
            if name in names:
                return True
        select = select.find_ancestor(exp.Select)
    return False


def _from_items(select: exp.Select) -> list[exp.Expr]:
    from_ = select.args.get("from_")
    items = [from_.this] if from_ is not None else []
    return [*items, *(join.this for join in select.args.get("joins") or [])]


def _names_of(item: exp.Expr) -> set[str] | None:
    """Names of the columns of an item of a FROM, read off the tree; None when not known."""
    if isinstance(item, exp.Table):
        return set(RELATIONS[item.name.lower()])
    given = item.args.get("alias")
    if isinstance(given, exp.TableAlias) and given.columns:
        return {column.name.lower() for column in given.columns}
    query = item.unnest() if isinstance(item, exp.Subquery) else item
    if not isinstance(query, exp.Select):
        return None
    names: set[str] = set()
    for output in query.expressions:
        if not output.find(exp.Star) or isinstance(output, exp.Alias):
            names.add(output.alias_or_name.lower())
            continue
        for inner in _from_items(query):
            shown = _names_of(inner)
            if shown is None:
                return None
            names |= shown
    return names


def find_owner(levels: Levels, column: exp.Column) -> StandIn | None:
    """Find the item of a FROM a column belongs to; None when that is not sure."""
    name, alias = column.name.lower(), column.table.lower()
    for level in levels:
        if alias:
            found = [view for view in level if view.alias == alias]
        elif any(view.shown is None for view in level):
            return None
        else:
            found = [view for view in level if name in (view.shown or ())]
            if len(found) > 1 and name not in used_columns(level[0].scope):
                return None
        if found:
            return found[0] if found[0].alias else None
        if level and name in _given_names(level[0].scope):
            return None  # DuckDB looks for an alias before it looks further out
    return None


def _given_names(scope: Scope) -> set[str]:
    return {str(output.alias).lower() for output in scope.select.expressions if output.alias}


def used_columns(scope: Scope) -> set[str]:
    """Columns that a USING merges."""
    return {
        identifier.name.lower()
        for source in scope.sources
        if source.join is not None
        for identifier in source.join.args.get("using") or []
    }


def using_conditions(level: Sequence[StandIn], view: StandIn) -> list[Condition]:
    """Spell USING as equality with the first item that has the column, where an item needs it."""
    if not filters_rows(view.scope, view.source):
        return []
    conditions = []
    for place, other in enumerate(level):
        join = other.source.join
        if join is None or any(before.shown is None for before in level[:place]):
            continue
        if not (is_inner(join) or is_semi(join) or other is view):
            continue
        for identifier in join.args.get("using") or []:
            name = identifier.name.lower()
            first = next((before for before in level[:place] if name in (before.shown or ())), None)
            if first and name in first.columns and name in other.columns:
                conditions.append(_equal(name, first, other))
    return conditions


def _equal(name: str, *views: StandIn) -> Condition:
    sides = [exp.column(name, exp.to_identifier(view.alias)) for view in views]
    equality = exp.EQ(this=sides[0], expression=sides[1])
    return Condition(equality, frozenset(view.alias for view in views))
