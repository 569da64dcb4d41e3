"""
What SQL may do here: read the relations, and nothing else.

Three fences, none of which is relied on alone: the statement is one query over known relations,
without functions that reach outside (this module and `scopes`); what runs is generated from the
checked tree, never the user's text; and the connection has no files, no extensions and no way to
change its settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tistore.errors import SqlError

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


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one query may use.

    Attributes:
        memory_limit: DuckDB's memory, such as "4GB"; its own default when None.
        timeout_seconds: Time the SQL may run, the scan before it left out; no limit when None.
        threads: DuckDB's threads; its own default when None.
        max_read_bytes: Bytes of activations a query may read; no limit when None.
    """

    memory_limit: str | None = None
    timeout_seconds: float | None = None
    threads: int | None = None
    max_read_bytes: int | None = None


def parse_query(sql: str) -> exp.Query:
    """
    Parse SQL and refuse everything that is not a single query.

    Raises:
        SqlError: The SQL is malformed, or does something else than read.
    """
    try:
        statements = [tree for tree in sqlglot.parse(sql, read="duckdb") if tree is not None]
    except SqlglotError as error:
        raise SqlError(f"the SQL cannot be parsed: {first_line(error)}") from error
    except RecursionError as error:
        raise SqlError("the SQL is nested too deeply") from error
    if len(statements) != 1:
        raise SqlError(f"one statement at a time; there are {len(statements)}")
    tree = statements[0]
    if not isinstance(tree, exp.Query):
        raise SqlError(
            f"only queries can be run, not {type(tree).__name__.upper()}",
            mend="write a SELECT, or WITH … SELECT",
        )
    for node in tree.walk():
        _check_node(node)
    return tree


def connect(limits: Limits) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database that can reach no file, extension, setting or Python variable."""
    connection = duckdb.connect(
        config={
            "enable_external_access": "false",
            "python_enable_replacements": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": "",
            "max_temp_directory_size": "0B",
            **({"memory_limit": limits.memory_limit} if limits.memory_limit else {}),
            **({"threads": str(limits.threads)} if limits.threads else {}),
        }
    )
    if limits.timeout_seconds is not None:
        connection.execute(f"SET max_execution_time={max(1, round(limits.timeout_seconds * 1000))}")
    connection.execute("SET lock_configuration=true")
    return connection


def _check_node(node: exp.Expr) -> None:
    if isinstance(node, _REFUSED_NODES):
        raise SqlError(f"{type(node).__name__.upper()} is refused: a query here only reads")
    if isinstance(node, exp.Func) and _REFUSED_FUNCTIONS.fullmatch(name := function_name(node)):
        raise SqlError(f"{name}() is refused: a query reads the store's relations only")
    if isinstance(node, exp.Identifier) and node.name.lower().startswith(RESERVED):
        raise SqlError(f"{node.name!r} is a reserved name: choose one without {RESERVED}")


def function_name(node: exp.Func) -> str:
    """Name a function call as it was written, in lower case."""
    return (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()


def first_line(error: SqlglotError) -> str:
    """Give the first line of a parser's error, without terminal codes."""
    # sqlglot underlines the place with terminal codes on the lines after.
    return re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()[0]
