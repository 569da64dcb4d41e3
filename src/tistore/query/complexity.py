"""
How much a statement may ask of a planner.

Reading, binding and optimising a statement cannot be interrupted, and some short texts stand for
an enormous plan. These bounds lie far above what people and programs write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlglot import exp

from tistore.errors import SqlError

MOST_CHARACTERS = 1_000_000
MOST_PARTS = 40_000
"""Words, numbers and signs of one statement: its parser takes about a second for as many."""

MOST_COLUMNS_OF_PIVOT = 1_000
_MOST_TABLES = 300
_MOST_JOINS = 60
_MOST_STARS = 100
_MOST_SPELLED_OUT = 20_000
_MOST_WRITTEN_OUT = 2_000
_MOST_GROWTH = 4_096

_FACTORS: dict[type[exp.Expr], float] = {exp.Hex: 2.0, exp.ToBase64: 1.4}


def check_length(sql: str) -> None:
    """
    Refuse a text that would take long to parse.

    Raises:
        SqlError: It is too long.
    """
    if len(sql) > MOST_CHARACTERS:
        raise SqlError(
            f"the SQL is {len(sql)} characters long, and may be {MOST_CHARACTERS}",
            mend="bind long values as parameters",
        )


@contextmanager
def shallow() -> Iterator[None]:
    """Refuse what is nested deeper than the parser, or a walk through its tree, can follow."""
    try:
        yield
    except RecursionError as error:
        raise SqlError("the SQL is nested too deeply") from error


def check_complexity(tree: exp.Query) -> None:
    """
    Refuse a statement whose plan would be out of all proportion.

    Raises:
        SqlError: It names too much, or what it says stands for too much.
    """
    _check_count(tree, exp.Table, _MOST_TABLES, "tables")
    stars = sum(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star))
    if stars + sum(1 for _ in tree.find_all(exp.Columns)) > _MOST_STARS:
        raise SqlError(f"the SQL has more than {_MOST_STARS} stars")
    for select in tree.find_all(exp.Select):
        if len(select.args.get("joins") or []) > _MOST_JOINS:
            raise SqlError(f"a FROM may join {_MOST_JOINS} tables")
        _check_aliases(select)
    _check_ctes(tree)
    _check_growth(tree)


def _check_count(tree: exp.Query, kind: type[exp.Expr], most: int, told: str) -> None:
    if sum(1 for _ in tree.find_all(kind)) > most:
        raise SqlError(f"the SQL names more than {most} {told}")


def _check_ctes(tree: exp.Query) -> None:
    """Bound what becomes of CTEs that name each other twice: written out, they double each time."""
    ctes = [cte for with_ in tree.find_all(exp.With) for cte in with_.expressions]
    named = [[table.name.lower() for table in cte.this.find_all(exp.Table)] for cte in ctes]
    sizes: dict[str, int] = {}
    # A WITH inside a CTE is met after it, so that sizes take a round for each level.
    levels = {sum(1 for _ in _around(cte, exp.CTE)) for cte in ctes}
    for _ in range(1 + max(levels, default=0)):
        for cte, names in zip(ctes, named, strict=True):
            cte.set("materialized", cte.args.get("materialized") or None)  # no NOT MATERIALIZED
            name = cte.alias.lower()
            size = 1 + sum(sizes.get(other, 0) for other in names if other != name)
            if size > _MOST_WRITTEN_OUT:
                raise SqlError("CTEs name each other too many times over")
            sizes[name] = max(size, sizes.get(name, 0))


def _around(node: exp.Expr, kind: type[exp.Expr]) -> Iterator[exp.Expr]:
    found = node.find_ancestor(kind)
    while found is not None:
        yield found
        found = found.find_ancestor(kind)


def _check_aliases(select: exp.Select) -> None:
    """Bound what becomes of `1 AS a, a + a AS b, b + b AS c, …`: each name is written out."""
    sizes: dict[str, int] = {}
    for output in select.expressions:
        size = 1
        for column in output.find_all(exp.Column):
            size += sizes.get(column.name.lower(), 0) if not column.table else 0
        if size > _MOST_SPELLED_OUT:
            raise SqlError(
                "output columns are made of each other too many times over",
                mend="make some of them in a subquery, and use their names",
            )
        if isinstance(output, exp.Alias):
            sizes[output.alias.lower()] = size


def _check_growth(tree: exp.Query) -> None:
    """Bound what a chain of replacements can make of one character."""
    for node in tree.find_all(exp.Replace, exp.RegexpReplace, *_FACTORS):
        growth = 1.0
        around: exp.Expr | None = node
        while around is not None and not isinstance(around, exp.Query):
            growth *= _factor(around)
            around = around.parent
        if growth > _MOST_GROWTH:
            raise SqlError("replacements in replacements could make one value too large")


def _factor(node: exp.Expr) -> float:
    if not isinstance(node, exp.Replace | exp.RegexpReplace):
        return _FACTORS.get(type(node), 1.0)
    pattern, put = node.expression, node.args.get("replacement")
    put_size = len(put.name) if isinstance(put, exp.Literal) else 8
    is_plain = isinstance(node, exp.Replace) and isinstance(pattern, exp.Literal)
    return max(1.0, put_size / (max(1, len(pattern.name)) if is_plain else 1))
