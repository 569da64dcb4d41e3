"""Commands that make stores of a store: `export store`, `export scores`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say

Where = Annotated[str | None, typer.Option(help="SQL condition on responses: which readings.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("store")(copy_store)
    app.command("scores")(bundle_scores)


def copy_store(
    store: StorePath,
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="Folder of the new store; or go on there.")
    ],
    where: Where = None,
    layers: Annotated[str | None, typer.Option(help="Such as 26, 20,26 or 5-20; all.")] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Copy readings into a store of their own, value for value."""
    from tistore.exchange.selection import Selection
    from tistore.exchange.stores.sub_store import export_store

    selection = Selection.parse(where, layers)
    report = export_store(tistore.open(store), destination, selection, _count())
    print_record(asdict(report), choose(format, as_json))
    if report.without_layers:
        say(f"note: {report.without_layers} readings hold none of the layers, and were left out")


def bundle_scores(
    store: StorePath,
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="Folder of the bundle; nothing is there.")
    ],
    vector: Annotated[
        list[str] | None,
        typer.Option("--vector", metavar="REF", help="Vector reference; all that fit."),
    ] = None,
    where: Where = None,
    layer: Annotated[int | None, typer.Option(help="Layer to read; the vectors' own.")] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Write token scores as a store without activations, which sql and top can ask."""
    from tistore.exchange.stores.score_bundle import export_scores

    report = export_scores(
        tistore.open(store), destination, vector, where=where, layer=layer, progress=_count()
    )
    print_record(asdict(report), choose(format, as_json))


def _count() -> Callable[[int], None]:
    """Tell on stderr how many readings are done, commit by commit."""
    n_done = 0

    def tell(n_readings: int) -> None:
        nonlocal n_done
        n_done += n_readings
        say(f"{n_done} readings")

    return tell
