"""The command `calibrate`: massive dimensions, measured in what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import ConfigError, nearest
from tistore.schemas.site import COMPONENTS

if TYPE_CHECKING:
    from tistore.schemas.calibration import Calibration

_SHOWN = (
    "reader", "layer", "massive_dims", "n_massive", "top_dims", "largest", "ratio", "prompt_ratio",
    "layer_norm", "consecutive_cosine",
)  # fmt: skip
"""What a table has room for; --json has everything."""


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(calibrate)


def calibrate(
    store: StorePath,
    reader: Annotated[
        list[str] | None, typer.Option(help="Whose activations; every reader's.")
    ] = None,
    prompt_set: Annotated[str | None, typer.Option(help="Only readings of this set.")] = None,
    component: Annotated[str, typer.Option(help=", ".join(COMPONENTS))] = "residual",
    where: Annotated[str | None, typer.Option(help="SQL condition on responses.")] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Find massive dimensions, for vectors to be cleaned of; kept in the store."""
    if component not in COMPONENTS:
        raise ConfigError(f"no component {component!r}; {nearest(component, COMPONENTS)}")
    from tistore.vectors.calibrate import calibrate as measure

    found = measure(
        tistore.open(store),
        readers=reader,
        prompt_set=prompt_set,
        component=component,
        where=where,
    )
    rows = [row for one in found for row in one.rows()]
    chosen = choose(format, as_json)
    if chosen is Format.TABLE:
        rows = [{name: row[name] for name in _SHOWN} for row in rows]
    print_rows(rows, chosen)
    for one in found:
        say(_sum_up(one))


def _sum_up(found: Calibration) -> str:
    done = "measured" if found.is_new else "was measured before"
    layers = len(found.layers)
    massive = _count(found.massive, layers, "nothing")
    persistent = _count(found.persistent, layers, "none")
    return (
        f"{found.reader} {done} on {found.layers[0].n_readings} readings; massive: {massive}; "
        f"top 5 at 3 layers or more: {persistent}"
    )


def _count(dims: Mapping[int, int], n_layers: int, none: str) -> str:
    listed = sorted(dims.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{dim} (at {n} of {n_layers})" for dim, n in listed) or none
