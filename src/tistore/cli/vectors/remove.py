"""The command that takes vectors out of a store: `vectors rm`."""

from __future__ import annotations

from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.cli.vectors.description import describe_vector
from tistore.cli.vectors.filters import (
    ComponentFilter,
    MethodFilter,
    ModelFilter,
    PositionFilter,
    make_filters,
)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(rm)


def rm(
    store: StorePath,
    references: Annotated[
        list[str], typer.Argument(metavar="REFERENCE...", help="References or hashes.")
    ],
    all_named: Annotated[
        bool, typer.Option("--all", help="Remove every vector that a reference names.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the store.")] = None,
    component: ComponentFilter = None,
    position: PositionFilter = None,
    method: MethodFilter = None,
    model: ModelFilter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing.")] = False,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Remove vectors, and their scores from the cache; earlier commits keep them."""
    from tistore.vectors.removal import remove_vectors

    done = remove_vectors(
        tistore.open(store),
        references,
        filters=make_filters(component, position, method, model),
        all_named=all_named,
        reason=reason,
        dry_run=dry_run,
    )
    print_rows([describe_vector(vector) for vector in done.vectors], choose(format, as_json))
    forgotten = done.forgotten
    if dry_run:
        say("nothing was removed")
    elif forgotten.files:
        say(
            f"{forgotten.files} files of cached scores removed, {forgotten.size_bytes / 1e6:.1f} MB"
        )
    if forgotten.bundled:
        say(f"{forgotten.bundled} segments hold scores of these as a part of themselves: they stay")
    for vector in done.unchosen:
        say(
            f"{vector.reference} was what {vector.trait} means; choose again: "
            f"tistore vectors best {store} {vector.trait}"
        )
