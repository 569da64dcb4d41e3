"""Commands about vectors: `tistore vectors …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import DatasetError
from tistore.schemas.site import COMPONENTS

if TYPE_CHECKING:
    from tistore.schemas.vector import Vector

app = typer.Typer(help="List, add and extract vectors.", no_args_is_help=True)

TraitFolders = Annotated[
    list[Path],
    typer.Argument(metavar="TRAIT...", help="Trait folders, or folders of them."),
]


@app.command()
def ls(store: StorePath, format: FormatOption = Format.TABLE, as_json: JsonOption = False) -> None:
    """List the store's vectors."""
    vectors = tistore.open(store).snapshot.vectors()
    print_rows([_describe(vector) for vector in vectors], choose(format, as_json))


@app.command()
def add(
    store: StorePath,
    trait: Annotated[str, typer.Argument(help="category/name")],
    values: Annotated[Path, typer.Argument(help="A .npy file of shape [hidden].")],
    layer: Annotated[int, typer.Option(min=0, help="Block it was fitted at.")],
    component: Annotated[str, typer.Option(help=", ".join(COMPONENTS))] = "residual",
    method: Annotated[str, typer.Option(help="How it was fitted.")] = "unknown",
    position: Annotated[str, typer.Option(help="Tokens it was fitted on.")] = "unknown",
    model: Annotated[str | None, typer.Option(help="Model it was fitted on.")] = None,
) -> None:
    """Add a vector from a file."""
    import numpy as np

    try:
        loaded = np.load(values, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{values} is no .npy file of numbers: {error}") from error
    vector = tistore.open(store).add_vector(
        trait,
        loaded,
        layer=layer,
        component=component,  # type: ignore[arg-type]  # checked by the record
        method=method,
        position=position,
        model=model,
    )
    say(f"added {vector.reference}, {vector.hidden} wide")


@app.command()
def extract(
    store: StorePath,
    traits: TraitFolders,
    config: Annotated[Path, typer.Option(help="TOML of the run: its base, layers and rows.")],
    position: Annotated[str, typer.Option(help="Tokens to average over.")] = "response[:]",
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Read contrast scenarios with the clean base, and fit mean differences at every layer."""
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.scenarios import read_scenarios
    from tistore.datasets.scenarios import list_traits, read_trait
    from tistore.vectors.extract import extract_vectors
    from tistore.vectors.position import Position

    Position.parse(position)
    run = read_config(config)
    folders = [found for folder in traits for found in list_traits(folder) or [folder]]
    read = [read_trait(folder) for folder in folders]
    opened = tistore.open(store)
    say(f"read {read_scenarios(opened, run, read)} new scenarios")
    fitted = [
        vector
        for trait in read
        for vector in extract_vectors(opened, trait.trait, reader=run.base.name, position=position)
    ]
    print_rows([_describe(vector) for vector in fitted], choose(format, as_json))


def _describe(vector: Vector) -> dict[str, Any]:
    row = vector.to_row()
    del row["values"]
    return {"reference": vector.reference, **row}
