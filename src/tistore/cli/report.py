"""The command that writes all that is known of an organism into one page: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tistore
from tistore.cli.audit_options import Seed, Traits
from tistore.cli.options import AnyPairing, AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.schemas.model import BASE_READER


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(report)


def report(
    store: StorePath,
    organism: Annotated[str, typer.Argument(help="Whom it is about.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Where summary.md and report.html go."),
    ],
    baseline: Annotated[str, typer.Option(help="Whose scores are taken off.")] = BASE_READER,
    trait: Traits = None,
    prompt_set: Annotated[
        list[str] | None, typer.Option(help="Prompts of this set; may be repeated.")
    ] = None,
    families: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|REGEX",
            help="Variants of one behaviour, which are no control for each other: a .json, .csv or "
            ".tsv file, or what to cut out of the names.",
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Leave out names of organisms, labels and notes.")
    ] = False,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --blind: write down who is who.")
    ] = None,
    any_pairing: AnyPairing = False,
    q: Annotated[float, typer.Option(help="Share of the findings that may be false.")] = 0.05,
    seed: Seed = 0,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Report on an organism: a summary, and a page with every token that shows it."""
    from tistore.audit.report.key import check_key, write_key
    from tistore.audit.report.question import ReportQuestion
    from tistore.audit.report.report import check_folder, make_report

    question = ReportQuestion(
        organism, baseline, trait, prompt_set, families,
        blind=blind, any_pairing=any_pairing, q=q, seed=seed,
    )  # fmt: skip
    check_key(key, output, blind)
    opened = tistore.open(store, at)
    check_folder(opened, output)
    made = make_report(opened, question)
    written = made.write(output)
    if key is not None:
        written.append(write_key(made.names, key))
    say(made.verdict.headline)
    for kind in made.verdict.not_covered:
        say(f"not covered: {kind}")
    for note in made.notes:
        say(f"note: {note}")
    rows = [{"file": str(path), "size_bytes": path.stat().st_size} for path in written]
    print_rows(rows, choose(format, as_json))
