"""
The second fence: a statement as DuckDB itself reads it, held against lists of what is allowed.

The first (`guard`, `scopes`) reads the user's text with another parser. Should the two ever read a
text differently, this one sees what will run: it takes DuckDB's own tree of the statement that is
about to run, and knows no refusals, only what may be there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from tistore.errors import SqlError, nearest
from tistore.query.allowed import FUNCTIONS, TABLE_FUNCTIONS
from tistore.query.dynamics import FUNCTIONS as HOUSE_FUNCTIONS
from tistore.query.guard import RESERVED
from tistore.query.measures import MEASURES
from tistore.query.relations import RELATIONS
from tistore.query.value_sizes import BOUNDED, GROWING, MOST, TEMPLATED, WIDE

_CLASSES = frozenset(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA "
    "LAMBDA_REF OPERATOR PARAMETER POSITIONAL_REFERENCE STAR SUBQUERY TYPE WINDOW".split()
)
_NODES = frozenset("SELECT_NODE SET_OPERATION_NODE RECURSIVE_CTE_NODE CTE_NODE".split())
_TABLES = frozenset("BASE_TABLE SUBQUERY JOIN EXPRESSION_LIST EMPTY PIVOT TABLE_FUNCTION".split())
_MODIFIERS = frozenset(
    "ORDER_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER DISTINCT_MODIFIER "
    "ORDER_DEFAULT ASCENDING DESCENDING".split()
)
# DuckDB keeps views of its own under these names; a CTE of that name would lend them its cover.
_CATALOG_NAME = re.compile(r"(duckdb|pg|pragma|sqlite|information)_.*")


def check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """
    Refuse a statement unless every part of it is known to only read.

    Args:
        connection: Where it will run; it is only parsed.
        sql: The statement, the planner's own names included.

    Raises:
        SqlError: Something in it is not on the lists, or asks for more than it may.
    """
    tree = _parse(connection, sql)
    parts = list(_walk(tree))
    ctes = {str(part["key"]).lower() for part in parts if "key" in part and "value" in part}
    for part in parts:
        _check_part(part, ctes)


def _parse(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """DuckDB's tree of the one statement in `sql`."""
    options = "skip_empty := true, skip_null := true, skip_default := true"
    try:
        rows = connection.execute(f"SELECT json_serialize_sql(?::VARCHAR, {options})", [sql])
        answer = json.loads(rows.fetchall()[0][0])
    except RecursionError as error:
        raise SqlError("the SQL is nested too deeply") from error
    except duckdb.Error as error:
        raise SqlError(f"the SQL is refused: {str(error).splitlines()[0]}") from error
    if answer.get("error", True):
        raise SqlError(f"the SQL is refused: {answer.get('error_message', 'it is no query')}")
    if len(answer["statements"]) != 1:
        raise SqlError(f"one statement at a time; there are {len(answer['statements'])}")
    return answer["statements"][0]["node"]


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a tree, without recursion: what is nested is the user's choice."""
    left = [tree]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)


def _check_part(part: dict[str, Any], ctes: set[str]) -> None:
    kind = part.get("type")
    if "class" in part:
        if part["class"] not in _CLASSES:
            raise SqlError(f"{part['class']} is refused: a query here only reads")
        if "function_name" in part:
            _check_function(part)
    elif isinstance(kind, str):
        if kind not in _NODES | _TABLES | _MODIFIERS:
            raise SqlError(f"{kind.removesuffix('_NODE')} is refused: a query here only reads")
        if kind == "BASE_TABLE":
            _check_table(part, ctes)
        if kind == "TABLE_FUNCTION":
            _check_table_function(part)


def _check_table(part: dict[str, Any], ctes: set[str]) -> None:
    name = str(part.get("table_name", "")).lower()
    is_known = name in RELATIONS or name.startswith(RESERVED) or name in ctes
    is_plain = len(part.get("qualified_name", {}).get("path", ())) == 1 and "at_clause" not in part
    if not is_known or not is_plain or (name in ctes and _CATALOG_NAME.fullmatch(name)):
        raise SqlError(
            f"{name!r} is refused: a query reads the store's relations only",
            mend=f"they are {', '.join(RELATIONS)}",
        )


def _check_function(part: dict[str, Any]) -> None:
    name = str(part["function_name"]).lower()
    if not _is_allowed(name):
        known = [*FUNCTIONS, *HOUSE_FUNCTIONS, *MEASURES]
        raise SqlError(f"{name}() is no function a query may call; {nearest(name, known)}")
    arguments = [argument.get("expression", {}) for argument in part.get("arguments", [])]
    if name in BOUNDED or name in WIDE:
        if not part.get("stands_in_from"):
            _check_size(name, part, arguments)
    elif name in TEMPLATED:
        _check_template(name, part, arguments)
    elif name in ("list_reduce", "array_reduce", "reduce"):
        _check_reduction(name, arguments)


def _is_allowed(name: str) -> bool:
    is_operator = not any(character.isalnum() or character == "_" for character in name)
    is_known = name in FUNCTIONS or name in HOUSE_FUNCTIONS or name in TABLE_FUNCTIONS
    return is_operator or is_known or name.startswith(RESERVED)


def _check_size(name: str, part: dict[str, Any], arguments: list[dict[str, Any]]) -> None:
    """Sizes that are no literals have gone to a function of another name, which looks at them."""
    if len(part["qualified_name"]["path"]) > 1:
        raise SqlError(f"write {name}(value, …): called on a value, its size cannot be checked")
    if name in WIDE:
        raise SqlError(f"{name}() is refused in this place")
    size = BOUNDED[name]([_literal(argument) for argument in arguments])
    if size is None or size > MOST:
        raise SqlError(
            f"{name}() may make {MOST} characters or elements"
            + (f", not {size:.0f}" if size is not None else ""),
            mend="for rows, write FROM range(n)" if name in TABLE_FUNCTIONS else None,
        )


def _literal(argument: dict[str, Any]) -> Any:
    """The value of a literal; None for anything else."""
    if argument.get("class") == "CAST" and "child" in argument:
        return _literal(argument["child"])
    literal = argument.get("literal") if argument.get("class") == "CONSTANT" else None
    if not isinstance(literal, dict):
        return None
    if literal.get("kind") == "STRING":
        return str(literal.get("text", ""))
    try:
        return float(literal["text"])
    except (KeyError, ValueError):
        return None


def _check_template(name: str, part: dict[str, Any], arguments: list[dict[str, Any]]) -> None:
    """Widths and precisions in a template make text of any size."""
    template = _literal(arguments[0]) if arguments else None
    if len(part["qualified_name"]["path"]) > 1 or not isinstance(template, str):
        raise SqlError(f"{name}() takes a template written out, as {name}('…', value)")
    if re.search(r"\d{4}|%[-+ #0]*\*|%[-+ #0\d]*\.\*|\{[^{}]*\{", template):
        raise SqlError(f"{name}(): widths and precisions are numbers below 1000")


def _check_reduction(name: str, arguments: list[dict[str, Any]]) -> None:
    steps = [argument for argument in arguments if argument.get("class") == "LAMBDA"]
    for part in _walk(steps):
        if str(part.get("function_name", "")).lower() in GROWING:
            raise SqlError(
                f"{name}() may not put strings or lists together: they could double at each step",
                mend="use array_to_string(list, ''), string_agg or flatten",
            )


def _check_table_function(part: dict[str, Any]) -> None:
    function = part.get("function", {})
    name = str(function.get("function_name", "")).lower()
    if name not in TABLE_FUNCTIONS:
        raise SqlError(
            f"{name}() is refused: a FROM names relations, queries, VALUES, UNNEST or range(n)"
        )
    if name != "unnest":
        # Rows are made a block at a time, however many; but only from numbers known beforehand.
        arguments = [argument.get("expression", {}) for argument in function.get("arguments", [])]
        if any(argument.get("class") not in ("CONSTANT", "PARAMETER") for argument in arguments):
            raise SqlError(f"FROM {name}() takes numbers; for others, write unnest({name}(…))")
        function["stands_in_from"] = True
