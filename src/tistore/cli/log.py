"""The command that says what has been asked of a store: `log`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(log)


def log(
    store: StorePath,
    command: Annotated[
        list[str] | None, typer.Option("--command", help="Only analyses by this command.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("-n", "--last", min=1, help="Only the newest; all.")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List the analyses of a store, and how many cells they have inspected together."""
    from tistore.audit.log import read_analyses

    analyses = read_analyses(tistore.open(store))
    found = [one.to_row() for one in analyses if not command or one.command in command]
    shown = found[-last:] if last else found
    chosen = choose(format, as_json)
    is_for_people = chosen in (Format.TABLE, Format.MD)
    print_rows(list(map(_shorten, shown)) if is_for_people else shown, chosen)
    if analyses:
        n_cells = analyses[-1].total_cells
        say(f"{len(analyses)} analyses have inspected {n_cells:,} cells so far")


def _shorten(row: dict[str, Any]) -> dict[str, Any]:
    """Pick what a table has room for."""
    names = ("at", "command", "question", "snapshot", "n_cells", "total_cells", "n_rows")
    return {name: row[name] for name in names} | {"at": row["at"][:19]}
