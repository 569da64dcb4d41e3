"""The command `import responses`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say
from tistore.errors import StoreNotFoundError

SourceFile = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="JSON or JSONL file of responses.")
]
OrganismOption = Annotated[
    str | None, typer.Option("--organism", help="Author of the responses that name none.")
]
PromptSetOption = Annotated[
    str | None, typer.Option("--prompt-set", help="Prompt set of the responses that name none.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check and count; write nothing.")]


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(responses)


def responses(
    store: StorePath,
    source: SourceFile,
    organism: OrganismOption = None,
    prompt_set: PromptSetOption = None,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Bring in responses without activations, to be read by `ingest`."""
    from tistore.exchange.responses import import_responses

    names = {"organism": organism, "prompt_set": prompt_set}
    try:
        opened = tistore.open(store)
    except StoreNotFoundError:
        # A file that cannot be imported leaves no store behind.
        report = import_responses(None, source, **names, dry_run=True)
        opened = None
        if not dry_run:
            opened = tistore.create(store)
            say(f"made a store at {store}")
    if opened is not None:
        report = import_responses(opened, source, **names, dry_run=dry_run)
    for key, count in report.unread_keys.items():
        say(f"{count} responses have a key {key!r}, which was not read")
    print_record(asdict(report), choose(format, as_json))
