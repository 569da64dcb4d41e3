"""Commands that take data out: `tistore export FORMAT STORE DESTINATION`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tistore
from tistore.cli import export_stores
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_record, say

if TYPE_CHECKING:
    from tistore.exchange.files.export import FileFormat

app = typer.Typer(help="Write what other tools read.", no_args_is_help=True)
export_stores.register(app)

_TELL_SECONDS = 5.0

Destination = Annotated[
    Path, typer.Argument(metavar="DESTINATION", help="Folder: free, or this export's, unfinished.")
]
Where = Annotated[str | None, typer.Option(help="SQL condition on responses: which readings.")]
Layers = Annotated[str | None, typer.Option(help="Such as 26, 20,26 or 5-20; all.")]
Component = Annotated[
    str | None, typer.Option(help="Which, where readings hold several: residual, attn_out, …")
]


@app.command()
def npy(
    store: StorePath,
    destination: Destination,
    where: Where = None,
    layers: Layers = None,
    component: Component = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Write a .npy file a reading, [row, layer, hidden], and JSON beside it."""
    _export("npy", store, destination, where, layers, component, choose(format, as_json))


@app.command()
def safetensors(
    store: StorePath,
    destination: Destination,
    where: Where = None,
    layers: Layers = None,
    component: Component = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Write a .safetensors file a reading: hidden_states and token_ids."""
    _export("safetensors", store, destination, where, layers, component, choose(format, as_json))


@app.command()
def parquet(
    store: StorePath,
    destination: Destination,
    where: Where = None,
    layers: Layers = None,
    component: Component = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Write Parquet: a row a token, a column a layer."""
    _export("parquet", store, destination, where, layers, component, choose(format, as_json))


@app.command("hf-dataset")
def hf_dataset(
    store: StorePath,
    destination: Destination,
    where: Where = None,
    layers: Layers = None,
    component: Component = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Write a Hugging Face dataset, for datasets.load_from_disk: a row a reading."""
    _export("hf-dataset", store, destination, where, layers, component, choose(format, as_json))


@app.command("trait-interp")
def trait_interp(
    store: StorePath,
    destination: Destination,
    where: Where = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(help="Vector references; all, each trait scored on its best.", metavar="REF"),
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Write responses, scores and vectors as an experiment its dashboard reads."""
    from tistore.exchange.trait_interp_export.export import export_trait_interp

    report = export_trait_interp(
        tistore.open(store), destination, where=where, vectors=vector or (), tell=_count()
    )
    row = asdict(report)
    notes = row.pop("notes")
    print_record(row, choose(format, as_json))
    for note in notes:
        say(f"note: {note}")


def _export(
    kind: FileFormat,
    store: str,
    destination: Path,
    where: str | None,
    layers: str | None,
    component: str | None,
    format: Format,
) -> None:
    from tistore.exchange.files.export import export_files
    from tistore.exchange.selection import Selection

    selection = Selection.parse(where, layers, component)
    report = export_files(tistore.open(store), destination, kind, selection, tell=_count())
    print_record(asdict(report), format)
    if report.readings_without_sites:
        say(f"note: {report.readings_without_sites} readings hold none of it, and were left out")
    if report.second_readings:
        say(
            f"note: {report.second_readings} second readings, made by `tistore noise`, were left "
            "out; name their reader in --where to have them"
        )


def _count() -> Callable[[int], None]:
    """Tell on stderr how many readings are done, every few seconds."""
    n_done, told_at = 0, time.monotonic()

    def tell(n_readings: int) -> None:
        nonlocal n_done, told_at
        n_done += n_readings
        if time.monotonic() - told_at > _TELL_SECONDS:
            say(f"{n_done} readings")
            told_at = time.monotonic()

    return tell
