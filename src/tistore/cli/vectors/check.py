"""The command that tells whether a vector may be applied: `vectors check`."""

from __future__ import annotations

from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(check)


def check(
    store: StorePath,
    vector: Annotated[str, typer.Argument(metavar="VECTOR", help="A vector reference.")],
    reader: Annotated[str | None, typer.Option(help="Only this reader's readings.")] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Tell, reader by reader, whether a vector may be applied to its readings, and why not."""
    from tistore.vectors.compatibility import check_vector

    found = check_vector(tistore.open(store), vector, reader)
    print_rows([one.to_row() for one in found], choose(format, as_json))
    if all(one.verdict == "no" for one in found):
        say(f"{vector} can be applied to none of these")
        raise typer.Exit(1)
