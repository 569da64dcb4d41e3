"""The command that says which traits go together: `correlate`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.audit_options import (
    ClusterColumn,
    Part,
    Resamples,
    Seed,
    Traits,
    Where,
    conclude,
    with_ends,
)
from tistore.cli.options import AnyPairing, AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows
from tistore.errors import ConfigError
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.audit.cells import PartOrOwn


class Level(StrEnum):
    """What is correlated."""

    TOKEN = "token"
    RESPONSE = "response"
    ORGANISM = "organism"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(correlate)


def correlate(
    store: StorePath,
    organism: Annotated[
        list[str] | None, typer.Option(help="Whose answers.", show_default="every organism's")
    ] = None,
    trait: Traits = None,
    by: Annotated[
        Level, typer.Option(help="Over what traits are to go together.")
    ] = Level.RESPONSE,
    part: Annotated[
        Part, typer.Option(help="The scores as they are, or a part of the difference.")
    ] = Part.OWN,
    lags: Annotated[
        int | None,
        typer.Option(min=0, help="Between tokens: so many apart, either way.", show_default="10"),
    ] = None,
    baseline: Annotated[str, typer.Option(help="What differences are from.")] = BASE_READER,
    where: Where = None,
    cluster: ClusterColumn = None,
    any_pairing: AnyPairing = False,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Correlate traits: over tokens (with lags), over responses, or over organisms."""
    from tistore.audit import correlate as correlations
    from tistore.audit.cells import read_cells

    if lags is not None and by is not Level.TOKEN:
        raise ConfigError(f"--lags says nothing of a {by.value}", mend="add --by token")
    opened = tistore.open(store, at)
    cells = read_cells(
        opened, trait, organisms=organism, baseline=baseline, where=where, any_pairing=any_pairing
    )
    cells = cells.with_clusters(cluster) if cluster else cells
    which: PartOrOwn = part.value
    if by is Level.TOKEN:
        lags = correlations.MOST_LAG if lags is None else lags
        found = correlations.correlate_tokens(
            opened, cells, which, lags=lags, where=where, any_pairing=any_pairing
        )
    elif by is Level.RESPONSE:
        found = correlations.correlate_responses(cells, which, resamples=resamples, seed=seed)
    else:
        found = correlations.correlate_organisms(cells, which)
    chosen = choose(format, as_json)
    print_rows(list(map(_shorten, found.rows)) if chosen is Format.TABLE else found.rows, chosen)
    question = {
        "organism": organism, "trait": trait, "by": by.value, "part": part.value, "lags": lags,
        "baseline": baseline, "where": where, "cluster": cluster, "any_pairing": any_pairing,
        "seed": seed,
    }  # fmt: skip
    conclude(
        opened,
        "correlate",
        question,
        [*cells.notes, *found.notes],
        vectors=cells.vectors,
        n_cells=len(found.rows),
        n_rows=len(found.rows),
        n_organisms=len(cells.organisms),
    )


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    ends = {"r": row["r"], "r_low": row["low"], "r_high": row["high"]}
    kept = ("trait", "other", "lag") if row["level"] == "token" else ("trait", "other")
    return {name: row[name] for name in kept} | {"r": with_ends(ends, "r"), "n": row["n"]}
