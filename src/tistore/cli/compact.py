"""The command that merges small segments: `compact`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(compact)


def compact(
    store: StorePath,
    target: Annotated[
        str, typer.Option(metavar="SIZE", help="What a merged segment may hold.")
    ] = "4GiB",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Merge nothing; only tell.")] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Merge small segments, and small files of tables; no answer changes."""
    from tistore.schemas.size import parse_size

    report = tistore.open(store).compact(
        parse_size("--target", target),
        dry_run=dry_run,
        progress=lambda done: say(
            f"{done.done_bytes / 1e6:.0f} of {done.total_bytes / 1e6:.0f} MB merged"
        ),
    )
    print_record(asdict(report), choose(format, as_json))
    if dry_run:
        say("nothing was merged")
    elif report.commits:
        say(f"{report.freed_bytes / 1e6:.1f} MB stay until nobody needs them: tistore gc {store}")
    else:
        say("there is nothing to merge")
