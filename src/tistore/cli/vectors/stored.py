"""Commands about stored vectors: `vectors ls`, `add`, `clean`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.cli.vectors.description import describe_vector
from tistore.errors import ConfigError
from tistore.schemas.site import COMPONENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tistore.query.store import Store
    from tistore.schemas.vector import Vector


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(ls)
    app.command()(add)
    app.command()(clean)


def ls(
    store: StorePath,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List the store's vectors."""
    vectors = tistore.open(store, at).snapshot.vectors()
    print_rows([describe_vector(vector) for vector in vectors], choose(format, as_json))


def add(
    store: StorePath,
    trait: Annotated[str, typer.Argument(help="category/name")],
    values: Annotated[
        Path | None,
        typer.Argument(
            help="A .npy, .pt, .safetensors or .gguf with one vector at that layer.",
            show_default=False,
        ),
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option(
            "--expression", "-e", help="Stored vectors: 'a - 0.5*b', 'a without 443, 1802'."
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Block it was fitted at.")] = None,
    component: Annotated[
        str | None, typer.Option(help=", ".join(COMPONENTS), show_default="residual")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How it was fitted.", show_default="unknown")
    ] = None,
    position: Annotated[
        str | None, typer.Option(help="Tokens it was fitted on.", show_default="unknown")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model it was fitted on.")] = None,
) -> None:
    """Add a vector from a file, or one made of stored vectors."""
    opened = tistore.open(store)
    told = {"component": component, "method": method, "position": position, "model": model}
    given = {name: value for name, value in told.items() if value is not None}
    if expression is not None:
        extra = [f"--{name}" for name in given] + (["a file"] if values else [])
        if extra:
            raise ConfigError(f"--expression stands alone, without {', '.join(extra)}")
        vector = _add_made(opened, trait, opened.vector(expression, layer))
    elif values is None or layer is None:
        raise ConfigError("a vector is a file and its --layer, or an --expression")
    else:
        vector = opened.add_vector(
            trait,
            _read_values(values, layer),
            layer=layer,
            **given,  # type: ignore[arg-type]  # checked by the record
        )
    say(f"added {vector.reference}, {vector.hidden} wide")


def _add_made(store: Store, trait: str, made: Vector) -> Vector:
    return store.add_vector(
        trait,
        made.values,
        layer=made.layer,
        component=made.component,
        method=made.method,
        position=made.position,
        model=made.model,
        separation=made.separation,
        midpoint=made.midpoint,
    )


def _read_values(path: Path, layer: int) -> NDArray[Any]:
    from tistore.exchange.vectors import read_one_vector

    return read_one_vector(path, layer)


def clean(
    store: StorePath,
    references: Annotated[
        list[str], typer.Argument(metavar="VECTOR...", help="Vector references.")
    ],
    without: Annotated[
        str, typer.Option(help="massive, sun, top5, top5-3layers, or numbers: '443, 1802'.")
    ] = "massive",
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Add vectors without their massive dimensions, which `tistore calibrate` finds."""
    from tistore.vectors.cleaning import clean_vectors

    done = clean_vectors(tistore.open(store), references, without)
    rows = [
        {
            "reference": one.vector.reference,
            "cleaned": one.cleaned and one.cleaned.reference,
            "dims": list(one.dims),
            "kept": one.kept,
        }
        for one in done
    ]
    print_rows(rows, choose(format, as_json))
    if unchanged := [one.vector.reference for one in done if one.cleaned is None]:
        say(f"nothing to take out of {', '.join(unchanged)}")
