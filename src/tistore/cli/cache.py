"""Commands about cached scores: `project`, `cache ls`, `cache clear`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say

app = typer.Typer(help="Scores computed before: list them, or make room.", no_args_is_help=True)
_SECONDS_A_DAY = 86_400


def register(main: typer.Typer) -> None:
    """Add this module's commands."""
    main.command()(project)
    main.add_typer(app, name="cache")


def project(
    store: StorePath,
    trait: Annotated[
        list[str] | None, typer.Option("-t", "--trait", help="Vector references; all vectors.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to read; the vectors' own.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition on tokens.")] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Compute scores ahead of the questions, all vectors in one pass."""
    from tistore.query.warm import warm_vectors

    rows = warm_vectors(tistore.open(store), trait, layer=layer, where=where)
    print_rows(rows, choose(format, as_json))


@app.command("ls")
def list_scores(
    store: StorePath, format: FormatOption = Format.TABLE, as_json: JsonOption = False
) -> None:
    """List the vectors whose scores are cached, the last used first."""
    from tistore.query.cached import list_cached

    print_rows(list_cached(tistore.open(store)), choose(format, as_json))


@app.command()
def clear(
    store: StorePath,
    trait: Annotated[
        str | None, typer.Option("-t", "--trait", help="Only this vector's; a reference.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Only what was not used for so long.")
    ] = None,
) -> None:
    """Remove cached scores; the next question computes them again."""
    from tistore.query.cached import clear_cached

    before = None if older_than is None else time.time() - older_than * _SECONDS_A_DAY
    n_files, freed = clear_cached(tistore.open(store), trait, before)
    say(f"{n_files} files of scores removed, {freed / 1e6:.1f} MB")
