"""Conditions that decide, row by row, which rows of one item of a FROM matter."""

from __future__ import annotations

from sqlglot import exp

from tistore.query.calls import is_call
from tistore.query.relations import RELATIONS
from tistore.query.scopes import Scope, Source


def find_conditions(scope: Scope, source: Source) -> list[exp.Expr]:
    """
    Collect conditions without which none of the source's rows gets any further.

    Those of the query around count too, where the scope hands its rows through. None are given
    where a row that is left out could change what becomes of others: samples, pivots, outer and
    positional joins, and the right side of ASOF.
    """
    if not _filters_rows(scope, source):
        return []
    join = source.join
    if join is not None and (join.side == "LEFT" or join.kind in ("SEMI", "ANTI")):
        # WHERE sees the NULLs of rows without a partner, or nothing of this source at all.
        return _split(join.args.get("on"))
    where = scope.select.args.get("where")
    conditions = _split(where.this if where else None)
    for other in scope.sources:
        if other.join is not None and is_inner(other.join):
            conditions += _split(other.join.args.get("on"))
    return [*conditions, *_conditions_around(scope)]


def is_inner(join: exp.Join) -> bool:
    """Whether a join keeps the pairs its condition holds for, and nothing else."""
    return not join.side and join.kind in ("", "INNER", "CROSS") and not join.method


def _filters_rows(scope: Scope, source: Source) -> bool:
    joins = [other.join for other in scope.sources if other.join is not None]
    return not (
        scope.select.args.get("sample")
        or any(other.node.args.get("sample") for other in scope.sources)
        or any(other.is_nested for other in scope.sources)
        or any(join.side in ("RIGHT", "FULL") or _is(join, "POSITIONAL") for join in joins)
        or source.pivots
        or (source.join is not None and _is(source.join, "ASOF"))
    )


def _is(join: exp.Join, word: str) -> bool:
    return word in (join.method, join.kind, join.side)


def _split(condition: exp.Expr | None) -> list[exp.Expr]:
    if condition is None:
        return []
    if isinstance(condition, exp.Paren):
        return _split(condition.this)
    if isinstance(condition, exp.And):
        return [*_split(condition.left), *_split(condition.right)]
    return [condition]


def _conditions_around(scope: Scope) -> list[exp.Expr]:
    """Conditions of the one query around, in this scope's own columns."""
    derived = scope.stands_for
    if derived is None or len(derived.uses) != 1 or derived.is_recursive:
        return []
    if not _hands_rows_on(scope.select) or _renames_columns(derived.query, derived.uses[0][1]):
        return []
    around, source = derived.uses[0]
    found = (
        _translate(condition, scope, around, source)
        for condition in find_conditions(around, source)
    )
    return [condition for condition in found if condition is not None]


def _hands_rows_on(select: exp.Select) -> bool:
    """Whether leaving a row out leaves every other row of the answer as it is."""
    clauses = ("group", "distinct", "having", "qualify", "limit", "offset", "sample", "windows")
    if any(select.args.get(clause) for clause in clauses):
        return False
    # A function may be an aggregate; columns and stars are none.
    return not any(
        isinstance(node, exp.Func | exp.Window) and node.find_ancestor(exp.Query) is select
        for item in select.expressions
        for node in item.walk()
        if not is_call(node)
    )


def _renames_columns(query: exp.Expr, source: Source) -> bool:
    holders = (query.parent, query, source.node)
    aliases = (holder.args.get("alias") for holder in holders if holder is not None)
    return any(isinstance(alias, exp.TableAlias) and alias.columns for alias in aliases)


def _translate(condition: exp.Expr, scope: Scope, around: Scope, source: Source) -> exp.Expr | None:
    """Write a condition on a query's answer as one on its FROM; None where that cannot be."""
    if condition.find(exp.Query):
        return None
    translated: exp.Expr = exp.Paren(this=condition.copy())
    is_alone = around.sources == [source]
    for column in list(translated.find_all(exp.Column)):
        is_of_source = column.table.lower() == source.alias if column.table else is_alone
        inner = _trace(scope, column.name.lower()) if is_of_source else None
        if inner is None:
            return None
        column.replace(inner)
    return translated


def _trace(scope: Scope, name: str) -> exp.Column | None:
    """Find the one column of a scope's FROM that its output column is; None when it is not sure."""
    found: list[exp.Column] = []
    for output in scope.select.expressions:
        column = output.this if isinstance(output, exp.Alias) else output
        if isinstance(output, exp.Star) or (
            isinstance(output, exp.Column) and isinstance(output.this, exp.Star)
        ):
            star = output if isinstance(output, exp.Star) else output.this
            if star.args.get("except_") or star.args.get("replace") or star.args.get("rename"):
                return None
            alias = "" if isinstance(output, exp.Star) else output.table.lower()
            found += _star_columns(scope, alias, name)
        elif output.alias_or_name.lower() == name:
            if not isinstance(column, exp.Column):
                return None
            found.append(column.copy())
    return found[0] if len(found) == 1 else None


def _star_columns(scope: Scope, alias: str, name: str) -> list[exp.Column]:
    sources = [source for source in scope.sources if alias in ("", source.alias)]
    if any(source.relation is None for source in scope.sources):
        return _through_one(sources, name)
    return [
        exp.column(name, table=source.alias)
        for source in sources
        if name in RELATIONS[str(source.relation)]
    ]


def _through_one(sources: list[Source], name: str) -> list[exp.Column]:
    """Trace a star over a single query: what that has is not known here, so take its word."""
    return [exp.column(name, table=sources[0].alias or None)] if len(sources) == 1 else []
