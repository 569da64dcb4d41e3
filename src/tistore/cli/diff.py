"""`tistore diff`: how an organism departs from its base, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import AnyPairing, AtCommit, FormatOption, JsonOption, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import ConfigError

if TYPE_CHECKING:
    from tistore.audit.breakdown.question import Question
    from tistore.query.store import Store

Parts = Annotated[
    list[str] | None, typer.Option("--part", help="total, model or text; total and model.")
]
ClusterOption = Annotated[
    str, typer.Option(help="Prompts that share it count as one: note, topic, prompt_set.")
]
Seed = Annotated[int, typer.Option(help="Of the intervals' resamples.")]

_BY_TRAIT = "trait"
_KNOWN = ("organism", "baseline", "response_id")
"""Columns a table has no room for: whoever reads it has written the first two."""


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(diff)


def diff(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store.")],
    organism: Annotated[str, typer.Argument(help="Who departs.")],
    baseline: Annotated[str, typer.Argument(help="From whom.")] = "instruct",
    trait: Annotated[
        list[str] | None, typer.Option("--trait", "-t", help="Vector references; all traits.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="trait, token, clause, prompt, turn, position, slope, note, tag, topic, trigger."
        ),
    ] = _BY_TRAIT,
    part: Parts = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition on responses, clauses, or tokens.")
    ] = None,
    any_pairing: AnyPairing = False,
    cluster: ClusterOption = "prompt",
    bin_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a stretch of positions.")] = 16,
    until: Annotated[
        int | None, typer.Option(min=1, help="Where stretches end; shorter responses are left out.")
    ] = None,
    trigger: Annotated[
        str, typer.Option(help="Note, tag or ending of the id of prompts with the trigger.")
    ] = "trigger",
    n: Annotated[
        int | None,
        typer.Option("-n", "--rows", min=1, help="Only so many of each trait, the largest."),
    ] = None,
    seed: Seed = 0,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Measure how an organism departs from its base, trait by trait, and where."""
    from tistore.audit.breakdown.question import Question

    opened = tistore.open(store, at)
    if by == _BY_TRAIT:
        _refuse_unused(part=part, where=where, rows=n, until=until)
        return _print_traits(
            opened, organism, baseline, trait, any_pairing, choose(format, as_json)
        )
    question = Question(
        organism,
        by,  # type: ignore[arg-type]
        baseline=baseline,
        traits=trait,
        parts=tuple(part or ("total", "model")),  # type: ignore[arg-type]
        where=where,
        any_pairing=any_pairing,
        cluster=cluster,  # type: ignore[arg-type]
        bin_tokens=bin_tokens,
        until=until,
        trigger=trigger,
        seed=seed,
    )
    _print_breakdown(opened, question, n, choose(format, as_json))


def _refuse_unused(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"--{name} says nothing about whole traits", mend="say by what, too: --by prompt"
            )


def _print_traits(
    store: Store,
    organism: str,
    baseline: str,
    traits: list[str] | None,
    any_pairing: bool,
    format: Format,
) -> None:
    from tistore.audit.log import log_analysis
    from tistore.query.effects import find_effects

    found = find_effects(
        store, traits=traits, organisms=[organism], baseline=baseline, any_pairing=any_pairing
    )
    print_rows(found.rows, format)
    vectors = [row["reference"] for row in found.rows]
    asked = {"organism": organism, "baseline": baseline, "traits": traits}
    notes = log_analysis(
        store, "diff", asked, n_cells=len(vectors), n_rows=len(vectors), vectors=vectors,
        n_organisms=1, n_traits=len(vectors),
    )  # fmt: skip
    for note in (*found.notes, *notes):
        say(f"note: {note}")


def _print_breakdown(store: Store, question: Question, n: int | None, format: Format) -> None:
    from dataclasses import asdict

    from tistore.audit.breakdown.break_down import break_down
    from tistore.audit.log import log_analysis

    found = break_down(store, question, n)
    is_for_people = format in (Format.TABLE, Format.MD)
    shown = found.rows.drop(_KNOWN, strict=False) if is_for_people else found.rows
    print_rows(shown.to_arrow(), format)
    vectors = found.rows["vector"].unique(maintain_order=True).to_list()
    notes = log_analysis(
        store, "diff", asdict(question) | {"largest": n}, n_cells=found.n_cells,
        n_rows=len(found.rows), vectors=vectors, n_organisms=1, n_traits=len(vectors),
    )  # fmt: skip
    if len(found.rows) < found.n_cells:
        say(f"{len(found.rows)} of {found.n_cells} rows")
    for note in (*found.notes, *notes):
        say(f"note: {note}")
