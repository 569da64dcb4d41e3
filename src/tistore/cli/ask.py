"""Commands that ask a store: `sql`, `top`, `diff`."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.deadline import deadline
from tistore.cli.options import (
    FormatOption,
    JsonOption,
    MultiplyAdds,
    RowCount,
    StorePath,
    check_multiply_adds,
    choose,
)
from tistore.cli.output import Format, print_record, print_rows, say
from tistore.cli.span_report import write_report
from tistore.cli.spans import shorten
from tistore.errors import ConfigError
from tistore.schemas.size import parse_size

if TYPE_CHECKING:
    from tistore.query.span_question import Order
    from tistore.query.store import Store


_LEAST_MEMORY_BYTES = 10**6

AnyPairing = Annotated[
    bool,
    typer.Option(
        "--any-pairing", help="Keep pairs that differ in precision, template or tokenizer."
    ),
]


class Statistic(StrEnum):
    """What a response's score is."""

    MEAN = "mean"
    MAX = "max"
    TOP3 = "top3"
    TOP5 = "top5"
    STD = "std"


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
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Ask in SQL; project('trait') is a score, whatever the relation."""
    text = sys.stdin.read() if query == "-" else query
    parameters = dict(_split_parameter(given) for given in parameter or []) or None
    opened = tistore.open(store)
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


def top(
    store: StorePath,
    trait: Annotated[str, typer.Option("--trait", "-t", help="Vector reference.")],
    by: Annotated[
        str, typer.Option(help="response, clause, token, turn, or window:N for N tokens.")
    ] = "clause",
    organism: Annotated[str | None, typer.Option(help="Author of the responses.")] = None,
    reader: Annotated[str | None, typer.Option(help="Whose reading; the organism's own.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Subtract this reader's score of the same tokens.")
    ] = None,
    per_organism: Annotated[
        bool, typer.Option("--per-organism", help="The best of each organism, not of all.")
    ] = False,
    rank_by: Annotated[
        Statistic, typer.Option(help="Of a response's token scores, what it is ranked by.")
    ] = Statistic.MEAN,
    lowest: Annotated[bool, typer.Option("--lowest", help="Lowest scores first.")] = False,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Largest scores first, of either sign.")
    ] = False,
    min_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Shortest span; 3 for clauses.", show_default=False),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition on responses, clauses, or tokens.")
    ] = None,
    any_pairing: AnyPairing = False,
    context: Annotated[int, typer.Option(min=0, help="Tokens of text around each span.")] = 30,
    n: RowCount = 20,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Rank the spans that light up a trait the most; --format md is a report."""
    from tistore.query.span_question import SpanQuestion
    from tistore.query.spans import find_spans

    opened = tistore.open(store)
    question = SpanQuestion(
        trait,
        by=by,
        organism=organism,
        reader=reader,
        baseline=baseline,
        n=n,
        order=_choose_order(lowest, absolute),
        per_organism=per_organism,
        rank_by=rank_by.value,
        min_tokens=min_tokens,
        where=where,
        any_pairing=any_pairing,
    )
    found = find_spans(opened, question, context=context)
    chosen = choose(format, as_json)
    if chosen is Format.MD:
        return print(write_report(found, opened.explain(found.sql)))
    print_rows(list(map(shorten, found.rows)) if chosen is Format.TABLE else found.rows, chosen)
    for note in found.notes:
        say(f"note: {note}")


def _choose_order(lowest: bool, absolute: bool) -> Order:
    if lowest and absolute:
        raise ConfigError("--lowest and --absolute are two orders", mend="choose one of them")
    return "lowest" if lowest else "absolute" if absolute else "highest"


def diff(
    store: StorePath,
    organism: Annotated[str, typer.Argument(help="Who departs.")],
    baseline: Annotated[str, typer.Argument(help="From whom.")] = "instruct",
    trait: Annotated[
        list[str] | None, typer.Option("--trait", "-t", help="Vector references; all traits.")
    ] = None,
    any_pairing: AnyPairing = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Measure, trait by trait, how an organism departs from its base."""
    from tistore.query.effects import find_effects

    found = find_effects(
        tistore.open(store),
        traits=trait,
        organisms=[organism],
        baseline=baseline,
        any_pairing=any_pairing,
    )
    print_rows(found.rows, choose(format, as_json))
    for note in found.notes:
        say(f"note: {note}")


def _split_parameter(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise ConfigError(f"--parameter {given!r} is not NAME=VALUE")
    return name.lstrip("$"), value
