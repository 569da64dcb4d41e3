"""
What SQL may do here: read the relations, and nothing else.

Four fences, none of which is relied on alone: the statement is one query over known relations,
without functions that reach outside (this module and `scopes`); what runs is generated from the
checked tree, never the user's text; DuckDB's own reading of that holds nothing but what is on a
list (`fence`); and the connection has no files, no extensions and no way to change its settings.
"""

from __future__ import annotations

import re

import duckdb
from sqlglot import Dialect, exp
from sqlglot.errors import SqlglotError

from tistore.errors import SqlError
from tistore.query.complexity import (
    MOST_COLUMNS_OF_PIVOT,
    MOST_PARTS,
    check_complexity,
    check_length,
    shallow,
)
from tistore.query.dynamics import create_functions
from tistore.query.limits import Limits
from tistore.query.value_sizes import bound_sizes, create_sized_functions

RESERVED = "__tistore"
"""Prefix of the names the planner gives to tables and columns of its own."""

_REFUSED_NODES: tuple[type[exp.Expr], ...] = (
    exp.DDL,
    exp.DML,
    exp.Command,
    exp.Into,
    exp.Lock,
    exp.Describe,
    exp.Summarize,
    exp.Set,
    exp.Pragma,
    exp.Attach,
    exp.Detach,
    exp.Use,
    exp.Copy,
)
_REFUSED_FUNCTIONS = re.compile(
    r"read_\w+|write_\w+|glob|sniff_csv|parquet_\w+|\w+_scan|scan_\w+|from_substrait\w*"
    r"|getenv|getvariable|current_setting|set_config|which_secret|duckdb_\w+|pragma_\w+|pg_\w+"
    r"|query|query_table|json_execute_serialized_sql|sql_auto_complete|checkpoint|force_checkpoint"
    r"|nextval|currval|setseed|enable_logging|disable_logging|truncate_duckdb_logs|sleep\w*"
)


def parse_query(sql: str) -> exp.Query:
    """
    Parse SQL and refuse everything that is not a single query.

    Raises:
        SqlError: The SQL is malformed, or does something else than read.
    """
    with shallow():
        tree = _parse(sql)
        for node in tree.walk():
            _check_node(node)
        check_complexity(tree)
        bound_sizes(tree)
        for select in tree.find_all(exp.Select):
            _gather_joins(select)
    return tree


def _gather_joins(select: exp.Select) -> None:
    """Have the joins of `FROM a JOIN b SELECT …` stand beside the FROM, as those of SELECT do."""
    origin = select.args.get("from_")
    if origin is None:
        return
    if joins := origin.this.args.get("joins"):
        origin.this.set("joins", None)
        select.set("joins", [*joins, *(select.args.get("joins") or [])])


def _parse(sql: str) -> exp.Query:
    check_length(sql)
    dialect = Dialect.get_or_raise("duckdb")
    try:
        tokens = dialect.tokenize(sql)
        if len(tokens) > MOST_PARTS:
            raise SqlError(
                f"the SQL has {len(tokens)} words and signs, and may have {MOST_PARTS}",
                mend="bind a list as a parameter: … IN (SELECT unnest($values))",
            )
        parsed = dialect.parser().parse(tokens, sql)
    except SqlglotError as error:
        raise SqlError(f"the SQL cannot be parsed: {first_line(error)}") from error
    statements = [tree for tree in parsed if tree is not None]
    if len(statements) != 1:
        raise SqlError(f"one statement at a time; there are {len(statements)}")
    tree = statements[0]
    if not isinstance(tree, exp.Query):
        raise SqlError(
            f"only queries can be run, not {type(tree).__name__.upper()}",
            mend="write a SELECT, or WITH … SELECT",
        )
    return tree


def connect(limits: Limits) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database that can reach no file, extension, setting or Python variable."""
    memory = limits.memory_for("database")
    connection = duckdb.connect(
        config={
            "enable_external_access": "false",
            "python_enable_replacements": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": "",
            "max_temp_directory_size": "0B",
            "pivot_limit": str(MOST_COLUMNS_OF_PIVOT),
            **({"memory_limit": f"{memory}B"} if memory is not None else {}),
            **({"threads": str(limits.threads)} if limits.threads else {}),
        }
    )
    create_sized_functions(connection)
    create_functions(connection)
    if limits.timeout_seconds is not None:
        milliseconds = max(1, round(limits.timeout_seconds * 1000))
        connection.execute(f"SET GLOBAL max_execution_time={milliseconds}")
    connection.execute("SET lock_configuration=true")
    return connection


def _check_node(node: exp.Expr) -> None:
    if isinstance(node, _REFUSED_NODES):
        raise SqlError(f"{type(node).__name__.upper()} is refused: a query here only reads")
    if isinstance(node, exp.Func) and _REFUSED_FUNCTIONS.fullmatch(name := function_name(node)):
        raise SqlError(f"{name}() is refused: a query reads the store's relations only")
    if isinstance(node, exp.Identifier | exp.Anonymous) and (
        node.name.lower().startswith(RESERVED)
    ):
        raise SqlError(f"{node.name!r} is a reserved name: choose one without {RESERVED}")


def function_name(node: exp.Func) -> str:
    """Name a function call as it was written, in lower case."""
    return (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()


def first_line(error: SqlglotError) -> str:
    """Give the first line of a parser's error, without terminal codes."""
    # sqlglot underlines the place with terminal codes on the lines after.
    return re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()[0]
