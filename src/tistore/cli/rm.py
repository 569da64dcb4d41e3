"""The command that removes readings: `rm`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(rm)


def rm(
    store: StorePath,
    where: Annotated[
        str, typer.Option(metavar="CONDITION", help="SQL condition on responses; which readings.")
    ],
    reader: Annotated[str | None, typer.Option(help="Only readings of this reader.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the store.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; otherwise only tell.")] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Remove readings; earlier commits keep them. Without --yes, list what would go."""
    report = tistore.open(store).remove(where, reader=reader, reason=reason, dry_run=not yes)
    print_rows([asdict(group) for group in report.groups], choose(format, as_json))
    say(
        f"{report.readings} readings and {report.responses} responses, of "
        f"{report.readings + report.kept_readings} readings; {report.freed_bytes / 1e6:.1f} MB; "
        f"{report.segments_dropped} segments dropped, {report.segments_rewritten} written anew"
    )
    if yes:
        say(f"their files stay until nobody needs them: tistore gc {store}")
    else:
        say("nothing was removed; --yes removes them")
