"""Conditions that decide, row by row, which rows of one item of a FROM matter."""

from __future__ import annotations

from sqlglot import exp

from tistore.query.calls import has_call, is_call
from tistore.query.dynamics import FUNCTIONS
from tistore.query.relations import RELATIONS
from tistore.query.scopes import Scope, Source

# What gives one answer for a row, however often it is asked.
_SCALAR: tuple[type[exp.Expr], ...] = (
    exp.And, exp.Or, exp.Not, exp.Paren, exp.Column, exp.Identifier, exp.Literal, exp.Boolean,
    exp.Null, exp.Placeholder, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is,
    exp.NullSafeEQ, exp.NullSafeNEQ, exp.Between, exp.In, exp.Tuple, exp.Like, exp.ILike,
    exp.SimilarTo, exp.RegexpLike, exp.RegexpFullMatch, exp.StartsWith, exp.EndsWith, exp.Contains,
    exp.Lower, exp.Upper, exp.Length, exp.Substring, exp.Trim, exp.Coalesce, exp.Nullif, exp.Concat,
    exp.DPipe, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Neg, exp.Abs, exp.Round,
    exp.Greatest, exp.Least, exp.Case, exp.If, exp.Escape, exp.Glob, exp.Cast, exp.DataType,
    exp.Array, exp.ArrayContains, exp.Bracket,
)  # fmt: skip

# And for the whole of a subquery, over however many rows.
_STEADY = (
    *_SCALAR,
    exp.Subquery, exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Where, exp.Exists, exp.Star,
    exp.Count, exp.Min, exp.Max, exp.Group, exp.Having, exp.Distinct, exp.Alias, exp.Join,
    exp.Union, exp.Except, exp.Intersect, exp.Any, exp.All,
)  # fmt: skip


def find_conditions(scope: Scope, source: Source) -> list[exp.Expr]:
    """
    Collect conditions without which none of the source's rows gets any further.

    Those of the query around count too, where the scope hands its rows through. None are given
    where a row that is left out could change what becomes of others: samples, pivots, outer and
    positional joins, and the right side of ASOF.
    """
    if not filters_rows(scope, source):
        return []
    join = source.join
    if join is not None and (join.side == "LEFT" or join.kind in ("SEMI", "ANTI")):
        # WHERE sees the NULLs of rows without a partner, or nothing of this source at all.
        return split(join.args.get("on"))
    where = scope.select.args.get("where")
    conditions = split(where.this if where else None)
    for other in scope.sources:
        if other.join is not None and (is_inner(other.join) or is_semi(other.join)):
            conditions += split(other.join.args.get("on"))
    return [*conditions, *conditions_around(scope)]


def is_inner(join: exp.Join) -> bool:
    """Whether a join keeps the pairs its condition holds for, and nothing else."""
    return not join.side and join.kind in ("", "INNER", "CROSS") and not join.method


def is_semi(join: exp.Join) -> bool:
    """Whether a join keeps the rows of its left side that have a partner."""
    return join.kind == "SEMI" and not join.side and not join.method


def is_steady(condition: exp.Expr) -> bool:
    """Whether a condition has no score in it, and the same answer whenever it is asked."""
    return not has_call(condition) and all(
        isinstance(node, _STEADY) and not (isinstance(node, exp.Distinct) and node.args.get("on"))
        for node in condition.walk()
    )


def split(condition: exp.Expr | None) -> list[exp.Expr]:
    """Take a condition apart into those that must all hold; none for None."""
    if condition is None:
        return []
    if isinstance(condition, exp.Paren):
        return split(condition.this)
    if isinstance(condition, exp.And):
        return [*split(condition.left), *split(condition.right)]
    return [condition]


def filters_rows(scope: Scope, source: Source) -> bool:
    """Whether conditions in a scope can leave out rows of an item before all else happens."""
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


def conditions_around(scope: Scope) -> list[exp.Expr]:
    """Collect conditions of the one query around, in this scope's own columns."""
    derived = scope.stands_for
    if derived is None or len(derived.uses) != 1 or derived.is_recursive:
        return []
    if not _hands_rows_on(scope.select) or renames_columns(derived.query, derived.uses[0][1]):
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
    # An unknown function may be an aggregate.
    return not any(
        isinstance(node, exp.Func | exp.Window)
        and not isinstance(node, _SCALAR)
        and not is_call(node)
        and not (isinstance(node, exp.Anonymous) and node.name.lower() in FUNCTIONS)
        and node.find_ancestor(exp.Query) is select
        for item in select.expressions
        for node in item.walk()
    )


def renames_columns(query: exp.Expr, source: Source) -> bool:
    """Whether a CTE or subquery is given column names of its own where it is used."""
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
        inner = trace(scope, column.name.lower()) if is_of_source else None
        if inner is None:
            return None
        column.replace(inner)
    return translated


def trace(scope: Scope, name: str) -> exp.Column | None:
    """Find the one column of a scope's FROM that an output column is; None when it is not sure."""
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
