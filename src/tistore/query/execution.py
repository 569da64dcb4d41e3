"""Running a checked statement, and being back at the time limit whatever it does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import pyarrow as pa

from tistore.errors import SqlError
from tistore.query.limits import Limits
from tistore.store.threads import start

_GRACE_SECONDS = 0.3
"""Time DuckDB has to stop by itself: it looks at its clock between blocks of rows."""

_INTERRUPTED_SECONDS = 3.0
"""Time it has when somebody has interrupted the program."""


@contextmanager
def open_cursor(database: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of its own for one question; closed when that is answered."""
    cursor = database.cursor()
    try:
        yield cursor
    finally:
        # One that outlived its limit is busy still; its own thread closes it in the end.
        with suppress(duckdb.ResourceInUseException):
            cursor.close()


def close_database(database: duckdb.DuckDBPyConnection) -> None:
    """Close a database; one that a question has outlived its limit on ends with the process."""
    with suppress(duckdb.ResourceInUseException):
        database.close()


def run(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Mapping[str, Any] | None,
    limits: Limits,
) -> pa.Table:
    """
    Run a statement that has been checked (`fence.check_statement`).

    A function that does not look at the clock is left behind at the limit: the caller is told
    in time, and what is left of the work ends when the function does.

    Raises:
        SqlError: It took longer than its limit.
        duckdb.Error: It failed.
    """
    if limits.timeout_seconds is None:
        return _fetch(connection, sql, parameters)
    answer: list[pa.Table | BaseException] = []

    def work() -> None:
        try:
            answer.append(_fetch(connection, sql, parameters))
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            answer.append(error)
        if is_late.is_set():
            connection.close()
        is_done.set()

    is_late, is_done = threading.Event(), threading.Event()
    start(threading.Thread(target=work, name="tistore-sql", daemon=True))
    try:
        # Not join(): an interrupt makes that believe that the thread has ended.
        is_done.wait(limits.timeout_seconds + _GRACE_SECONDS)
    except BaseException:
        is_late.set()
        connection.interrupt()
        # An interpreter that ends while DuckDB is at work aborts.
        is_done.wait(_INTERRUPTED_SECONDS)
        raise
    if not answer:
        is_late.set()
        connection.interrupt()
        raise SqlError("the query took longer than its time limit")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def _fetch(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any] | None
) -> pa.Table:
    return connection.sql(sql, params=parameters or None).to_arrow_table()
