"""The command that mends a damaged store: `repair`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say

if TYPE_CHECKING:
    from tistore.store.repairing.repair import Mend


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(repair)


def repair(
    store: StorePath,
    yes: Annotated[bool, typer.Option("--yes", help="Repair it; otherwise only tell.")] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Restore what is damaged, keep what is whole, drop the rest. Without --yes, only tell."""
    from tistore.query.store import Store

    report = Store.repair(store, dry_run=not yes)
    print_rows([_to_row(mend) for mend in report.mends], choose(format, as_json))
    if report.is_sound:
        say("every byte is as committed: there is nothing to repair")
        return
    for group in report.groups:
        say(
            f"lost: {group.readings} readings by {group.reader} of {group.organism} on "
            f"{group.prompt_set}"
        )
    say(f"{report.lost_readings} readings are lost, {report.kept_readings} are kept")
    for mend in report.mends:
        if mend.is_lost_commit:
            say(f"what {mend.path} said is lost, too: nobody can tell whether that were readings")
    say("damaged files lie in the trash" if yes else "nothing was changed; --yes repairs")


def _to_row(mend: Mend) -> dict[str, Any]:
    row = asdict(mend)
    del row["is_lost_commit"]  # its action says so
    return row
