"""The command that asks a store in SQL: `sql`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.deadline import deadline
from tistore.cli.options import (
    AtCommit,
    FormatOption,
    JsonOption,
    MultiplyAdds,
    StorePath,
    check_multiply_adds,
    choose,
)
from tistore.cli.output import Format, print_record, print_rows, say
from tistore.errors import ConfigError
from tistore.schemas.size import parse_size

if TYPE_CHECKING:
    from tistore.query.store import Store


_LEAST_MEMORY_BYTES = 10**6


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(sql)


def sql(
    store: StorePath,
    query: Annotated[str, typer.Argument(help="One SELECT; - reads it from stdin.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="NAME=VALUE for $NAME.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Only say what would be read.")] = False,
    max_read: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Refuse to read more activations: 500MB, 2GB."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after so long.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory the SQL may use: 500MB, 2GB.")
    ] = None,
    max_multiply_adds: MultiplyAdds = None,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Ask in SQL; project('trait') is a score, whatever the relation."""
    text = sys.stdin.read() if query == "-" else query
    parameters = dict(_split_parameter(given) for given in parameter or []) or None
    opened = tistore.open(store, at)
    _set_limits(opened, max_read, timeout, memory, max_multiply_adds)
    with deadline(timeout):
        if explain:
            plan = opened.explain(text, parameters)
        else:
            result = opened.sql(text, parameters)
    if explain:
        return print_record(plan.to_row(), choose(format, as_json))
    print_rows(result.table, choose(format, as_json))
    for note in result.notes:
        say(f"note: {note}")


def _set_limits(
    store: Store,
    max_read: str | None,
    timeout: float | None,
    memory: str | None,
    max_multiply_adds: float | None,
) -> None:
    """Put the limits that were asked for in the place of the store's own."""
    changes: dict[str, Any] = {}
    if max_read is not None:
        changes["max_read_bytes"] = parse_size("--max-read", max_read)
    if timeout is not None:
        changes["timeout_seconds"] = timeout
    if memory is not None:
        size_bytes = parse_size("--memory", memory)
        if size_bytes < _LEAST_MEMORY_BYTES:
            raise ConfigError(
                f"--memory {memory!r} is too little to run anything in",
                mend="write a size of 1MB or more",
            )
        changes["memory_limit"] = f"{size_bytes}B"
    if max_multiply_adds is not None:
        changes["max_multiply_adds"] = check_multiply_adds(max_multiply_adds)
    store.limits = replace(store.limits, **changes)


def _split_parameter(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise ConfigError(f"--parameter {given!r} is not NAME=VALUE")
    return name.lstrip("$"), value
