"""The command that tells the model from its words: `decompose`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import tistore
from tistore.cli.audit_options import (
    ClusterColumn,
    Resamples,
    Seed,
    Traits,
    Where,
    conclude,
    with_ends,
)
from tistore.cli.options import AnyPairing, AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows
from tistore.schemas.model import BASE_READER

_PARTS = ("total", "model_part", "text_part", "interaction")


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(decompose)


def decompose(
    store: StorePath,
    organism: Annotated[str, typer.Argument(help="Who departs.")],
    baseline: Annotated[str, typer.Argument(help="From whom.")] = BASE_READER,
    trait: Traits = None,
    covariates: Annotated[
        bool,
        typer.Option(
            "--covariates",
            help="What is left where both write as surprisingly, as long, as marked up.",
        ),
    ] = False,
    where: Where = None,
    cluster: ClusterColumn = None,
    any_pairing: AnyPairing = False,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Split an organism's difference from its base into the model's part and its text's."""
    from tistore.audit.cells import read_cells
    from tistore.audit.covariates import hold_covariates, read_covariates
    from tistore.audit.decompose import decompose as split
    from tistore.audit.decompose import decompose_notes

    opened = tistore.open(store, at)
    cells = read_cells(
        opened,
        trait,
        organisms=[organism],
        baseline=baseline,
        where=where,
        any_pairing=any_pairing,
    )
    cells = cells.with_clusters(cluster) if cluster else cells
    notes = [*cells.notes, *decompose_notes(cells)]
    if covariates:
        rows, more = hold_covariates(cells, read_covariates(opened, cells))
        notes += more
    else:
        rows = split(cells, resamples=resamples, seed=seed)
    chosen = choose(format, as_json)
    shorten = _shorten_term if covariates else _shorten
    print_rows(list(map(shorten, rows)) if chosen is Format.TABLE else rows, chosen)
    question = {
        "organism": organism, "baseline": baseline, "trait": trait, "covariates": covariates,
        "where": where, "cluster": cluster, "any_pairing": any_pairing, "seed": seed,
    }  # fmt: skip
    conclude(
        opened,
        "decompose",
        question,
        notes,
        vectors=cells.vectors,
        n_cells=len(rows),
        n_rows=len(rows),
        n_organisms=1,
    )


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("trait", "order", "n_prompts")}
    return kept | {part: with_ends(row, part) for part in _PARTS}


def _shorten_term(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"estimate": row["estimate"], "estimate_low": row["low"], "estimate_high": row["high"]}
    kept = {name: row[name] for name in ("trait", "part", "term")}
    return kept | {"estimate": with_ends(shown, "estimate"), "n_responses": row["n_responses"]}
