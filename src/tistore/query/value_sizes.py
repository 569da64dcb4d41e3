"""
Functions whose answer is as large as an argument says.

DuckDB looks at its clock between blocks of rows, not inside a function: `repeat('x', 2000000000)`
runs for half a minute whatever the time limit is. So one value is at most `MOST` characters or
elements. Sizes that are written out are read in the statement (`fence`); any other is looked at
when it is known, by a macro of the same meaning that this module puts in the place of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import duckdb
from sqlglot import exp

from tistore.errors import SqlError

MOST = 10_000
"""Characters or elements that one call may make: 2048 rows of them are one step for DuckDB."""

_MOST_COMPARED = 25_000_000  # steps to compare two texts of 5,000 characters

_SIZED = "__tistore_sized_"


def _span(values: Sequence[Any]) -> float | None:
    """Elements of range(stop), range(start, stop) and range(start, stop, step)."""
    if not values or not all(isinstance(value, float) for value in values):
        return None
    start, stop = (0.0, values[0]) if len(values) == 1 else values[:2]
    step = values[2] if len(values) > 2 else 1.0
    return float((stop - start) / step) if step else None


def _repeated(values: Sequence[Any]) -> float | None:
    is_known = len(values) == 2 and isinstance(values[0], str) and isinstance(values[1], float)
    return len(values[0]) * values[1] if is_known else None


def _second(values: Sequence[Any]) -> float | None:
    return values[1] if len(values) > 1 and isinstance(values[1], float) else None


BOUNDED: dict[str, Callable[[Sequence[Any]], float | None]] = {
    "repeat": _repeated,
    "lpad": _second,
    "rpad": _second,
    "list_resize": _second,
    "array_resize": _second,
    "bitstring": _second,
    "range": _span,
    "generate_series": _span,
}
"""What each makes of literals: characters or elements; None when that cannot be told."""

WIDE = frozenset(
    "levenshtein editdist3 damerau_levenshtein jaro_similarity jaro_winkler_similarity".split()
)
"""Comparisons whose time grows with the product of both lengths."""

TEMPLATED = frozenset({"printf", "format"})
"""Functions that take widths from a template."""

GROWING = frozenset(
    "|| concat concat_ws list_concat list_cat array_concat array_cat list_append array_append "
    "list_prepend array_prepend array_push_back array_push_front repeat lpad rpad replace "
    "regexp_replace list_resize array_resize list_value list_pack list_zip array_zip map_concat "
    "printf format json_array json_object json_merge_patch struct_concat flatten".split()
)
"""Functions whose answer can be larger than each of their arguments."""


def _macro(name: str, parameters: str, looked_at: str, size: str, most: int = MOST) -> str:
    told = f"{name}() may make {most} characters or elements"
    if name in WIDE:
        told = f"{name}() may compare texts of 5000 characters"
    # Inside the call, not around it: DuckDB computes what it can beforehand, whichever branch.
    checked = f"CASE WHEN {size} > {most} THEN error('{told}') ELSE {looked_at} END"
    arguments = ", ".join(checked if part == looked_at else part for part in parameters.split(", "))
    return f"({parameters}) AS {name}({arguments})"


_NUMBER = "TRY_CAST(({})::VARCHAR AS DOUBLE)"
_SECONDS = "epoch(TRY_CAST(({})::VARCHAR AS {}))"


def _spans(name: str) -> str:
    """Counts of numbers or of moments: a macro cannot know which it is given."""
    a, b, c = (_NUMBER.format(of) for of in "abc")
    moments = (
        f"({_SECONDS.format('b', 'TIMESTAMP')} - {_SECONDS.format('a', 'TIMESTAMP')})"
        f" / {_SECONDS.format('c', 'INTERVAL')}"
    )
    return ", ".join(
        (
            _macro(name, "a", "a", a),
            _macro(name, "a, b", "b", f"{b} - {a}"),
            _macro(name, "a, b, c", "b", f"coalesce(({b} - {a}) / {c}, {moments})"),
        )
    )


_MACROS = {
    "repeat": _macro("repeat", "a, b", "b", "len(a) * (b)::DOUBLE"),
    "lpad": _macro("lpad", "a, b, c", "b", "(b)"),
    "rpad": _macro("rpad", "a, b, c", "b", "(b)"),
    "bitstring": _macro("bitstring", "a, b", "b", "(b)"),
    **{
        name: f"{_macro(name, 'a, b', 'b', '(b)')}, {_macro(name, 'a, b, c', 'b', '(b)')}"
        for name in ("list_resize", "array_resize")
    },
    **{name: _spans(name) for name in ("range", "generate_series")},
    **{
        name: _macro(name, "a, b", "a", "strlen(a)::DOUBLE * strlen(b)", _MOST_COMPARED)
        for name in sorted(WIDE)
    },
}
_STATEMENTS = ";".join(f"CREATE MACRO {_SIZED}{name}{body}" for name, body in _MACROS.items())


def create_sized_functions(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the macros that look at sizes, on a connection."""
    connection.execute(_STATEMENTS)


def bound_sizes(tree: exp.Query) -> None:
    """
    Put macros in the place of calls whose sizes are not written out; the tree is changed.

    Raises:
        SqlError: Such a call stands in the arguments of another, or hangs on chance.
    """
    calls = [(node, name) for node in tree.find_all(exp.Func) if (name := _needs_look(node))]
    found = {id(node) for node, _ in calls}
    for node, name in calls:
        _check_arguments(node, name, found)
    for output in {id(o): o for node, _ in calls if (o := _output_of(node))}.values():
        _keep_name(output)
    for node, name in calls:
        arguments = [part for part in node.iter_expressions()]
        node.replace(exp.Anonymous(this=f"{_SIZED}{name}", expressions=arguments))


def _needs_look(node: exp.Func) -> str | None:
    """The function a call is of, when its size has to be looked at; else None."""
    name = sized_name(node)
    if name not in _MACROS or isinstance(node.parent, exp.Table | exp.Lateral):
        return None
    if name in WIDE or isinstance(node.parent, exp.Dot):
        return name
    literals = [_literal(argument) for argument in node.iter_expressions()]
    return name if BOUNDED[name](literals) is None else None


def sized_name(node: exp.Func) -> str:
    """Name a call as DuckDB does, in lower case; the parser has names of its own for some."""
    if isinstance(node, exp.GenerateSeries):
        return "range" if node.args.get("is_end_exclusive") else "generate_series"
    if isinstance(node, exp.Pad):
        return "lpad" if node.args.get("is_left") else "rpad"
    if isinstance(node, exp.JarowinklerSimilarity):
        return "jaro_winkler_similarity"
    return (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()


def _literal(node: exp.Expr) -> str | float | None:
    if isinstance(node, exp.Literal):
        return str(node.this) if node.is_string else float(node.this)
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        return -float(node.this.this)
    return None


def _check_arguments(node: exp.Func, name: str, found: set[int]) -> None:
    # Its arguments are written twice: once to look at, once to use.
    for part in node.walk():
        if part is not node and id(part) in found:
            raise SqlError(
                f"{name}() of another such call: its size cannot be checked",
                mend="make the inner value in a subquery, and use its name here",
            )
        if isinstance(part, exp.Rand | exp.Uuid) or (
            isinstance(part, exp.Anonymous) and part.name.lower() in ("random", "setseed")
        ):
            raise SqlError(f"{name}() of a random size is refused")


def _output_of(node: exp.Expr) -> exp.Expr | None:
    """The output column a node stands in; None when it stands elsewhere."""
    while node.parent is not None and not isinstance(node.parent, exp.Select):
        node = node.parent
    return node if node.arg_key == "expressions" and isinstance(node.parent, exp.Select) else None


def _keep_name(output: exp.Expr) -> None:
    if not isinstance(output, exp.Alias | exp.Aliases | exp.Star | exp.Columns):
        written = output.sql("duckdb", normalize_functions="lower")
        named = exp.Alias(alias=exp.to_identifier(written, quoted=True))
        output.replace(named)
        named.set("this", output)
