"""The command that sums organisms up: `fingerprint`."""

from __future__ import annotations

from typing import Annotated

import typer

import tistore
from tistore.cli.audit_options import Traits, Where, conclude
from tistore.cli.options import AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows
from tistore.schemas.model import BASE_READER

_SHOWN = (
    "organism", "trait", "n_prompts", "scaled", "difference", "z", "percentile", "n_others",
)  # fmt: skip
"""What a table has room for; --json has everything."""


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(fingerprint)


def fingerprint(
    store: StorePath,
    organism: Annotated[
        list[str] | None, typer.Argument(help="Whom to list.", show_default="everyone")
    ] = None,
    trait: Traits = None,
    baseline: Annotated[str, typer.Option(help="Who is no organism among others.")] = BASE_READER,
    families: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|REGEX",
            help="Variants of one behaviour, which are no control for each other: a .json, .csv or "
            ".tsv file, or what to cut out of the names.",
        ),
    ] = None,
    where: Where = None,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Average each organism's scores over the size of its states, trait by trait."""
    from tistore.audit.families import read_families
    from tistore.audit.fingerprint import take_fingerprints

    opened = tistore.open(store, at)
    authors = [
        row[0]
        for row in opened.sql("SELECT DISTINCT organism FROM responses ORDER BY 1").fetchall()
    ]
    found = take_fingerprints(
        opened,
        trait,
        organisms=organism or None,
        baseline=baseline,
        families=read_families(families, authors) if families else None,
        where=where,
    )
    chosen = choose(format, as_json)
    is_table = chosen is Format.TABLE
    rows = [{name: row[name] for name in _SHOWN} for row in found.rows] if is_table else found.rows
    print_rows(rows, chosen)
    question = {
        "organism": organism or None, "trait": trait, "baseline": baseline, "families": families,
        "where": where,
    }  # fmt: skip
    conclude(
        opened,
        "fingerprint",
        question,
        found.notes,
        vectors=found.vectors,
        n_cells=len(rows),
        n_rows=len(rows),
        n_organisms=len({row["organism"] for row in rows}),
    )
