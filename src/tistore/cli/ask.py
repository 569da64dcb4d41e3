"""Commands that ask a store: `sql`, `top`, `diff`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, RowCount, StorePath, choose
from tistore.cli.output import Format, print_record, print_rows, say
from tistore.cli.spans import shorten
from tistore.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(sql)
    app.command()(top)
    app.command()(diff)


def sql(
    store: StorePath,
    query: Annotated[str, typer.Argument(help="One SELECT; - reads it from stdin.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="NAME=VALUE for $NAME.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Only say what would be read.")] = False,
    max_read: Annotated[
        int | None, typer.Option(help="Refuse to read more than this many bytes.")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Ask in SQL; project('trait') is a score, whatever the relation."""
    text = sys.stdin.read() if query == "-" else query
    opened = tistore.open(store)
    parameters = dict(_split_parameter(given) for given in parameter or [])
    if explain:
        plan = opened.explain(text, parameters or None)
        return print_record(plan.to_row(), choose(format, as_json))
    result = opened.sql(text, parameters or None, max_read_bytes=max_read)
    print_rows(list(result.rows()), choose(format, as_json))
    for note in result.notes:
        say(f"note: {note}")


def top(
    store: StorePath,
    trait: Annotated[str, typer.Option("--trait", "-t", help="Vector reference.")],
    by: Annotated[
        str, typer.Option(help="response, clause, token, or window:N for N tokens.")
    ] = "clause",
    organism: Annotated[str | None, typer.Option(help="Author of the responses.")] = None,
    reader: Annotated[str | None, typer.Option(help="Whose reading; the organism's own.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Subtract this reader's score of the same tokens.")
    ] = None,
    min_tokens: Annotated[int, typer.Option(min=1, help="Shortest clause to rank.")] = 3,
    lowest: Annotated[bool, typer.Option("--lowest", help="Lowest scores first.")] = False,
    where: Annotated[str | None, typer.Option(help="SQL condition on the relation.")] = None,
    n: RowCount = 20,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Rank the spans that light up a trait the most."""
    from tistore.query.spans import top_spans

    rows = top_spans(
        tistore.open(store),
        trait,
        by=by,
        organism=organism,
        reader=reader,
        baseline=baseline,
        min_tokens=min_tokens,
        sign=-1 if lowest else 1,
        where=where,
        n=n,
    )
    chosen = choose(format, as_json)
    is_for_people = chosen in (Format.TABLE, Format.MD)
    print_rows([shorten(row) for row in rows] if is_for_people else rows, chosen)


def diff(
    store: StorePath,
    organism: Annotated[str, typer.Argument(help="Who departs.")],
    baseline: Annotated[str, typer.Argument(help="From whom.")] = "instruct",
    trait: Annotated[
        list[str] | None, typer.Option("--trait", "-t", help="Vector references; all traits.")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Measure, trait by trait, how an organism departs from its base."""
    from tistore.query.effects import effects

    rows = effects(tistore.open(store), traits=trait, organisms=[organism], baseline=baseline)
    print_rows(rows, choose(format, as_json))


def _split_parameter(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise ConfigError(f"--parameter {given!r} is not NAME=VALUE")
    return name.lstrip("$"), value
