"""The command that looks at every layer: `layers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import tistore
from tistore.cli.audit_options import (
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


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(layers)


def layers(
    store: StorePath,
    organism: Annotated[str, typer.Argument(help="Who departs.")],
    baseline: Annotated[str, typer.Argument(help="From whom.")] = BASE_READER,
    trait: Traits = None,
    part: Annotated[str, typer.Option(help="total, model or text.")] = "total",
    pairs: Annotated[
        bool, typer.Option("--pairs", help="How prompts agree between each two layers.")
    ] = False,
    where: Where = None,
    cluster: Annotated[
        str, typer.Option(help="What prompts share that are one: prompt, note, topic, prompt_set.")
    ] = "prompt",
    any_pairing: AnyPairing = False,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a difference shows at every stored layer, and at the same prompts."""
    from tistore.audit.shifts.layers import compare_layers

    opened = tistore.open(store, at)
    found = compare_layers(
        opened,
        organism,
        baseline,
        trait,
        which=part,  # type: ignore[arg-type]  # checked there
        where=where,
        cluster=cluster,  # type: ignore[arg-type]  # checked there
        any_pairing=any_pairing,
        resamples=resamples,
        seed=seed,
    )
    rows = found.pairs if pairs else found.layers
    chosen = choose(format, as_json)
    shorten = _shorten_pair if pairs else _shorten
    print_rows(list(map(shorten, rows)) if chosen is Format.TABLE else rows, chosen)
    question = {
        "organism": organism, "baseline": baseline, "trait": trait, "part": part, "pairs": pairs,
        "where": where, "cluster": cluster, "any_pairing": any_pairing, "seed": seed,
    }  # fmt: skip
    conclude(
        opened,
        "layers",
        question,
        found.notes,
        vectors=found.vectors,
        n_cells=len(rows),
        n_rows=len(rows),
        n_organisms=1,
    )


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    mean = {"mean": row["mean_difference"], "mean_low": row["low"], "mean_high": row["high"]}
    return {
        "trait": row["trait"],
        "layer": row["layer"],
        "own": "*" if row["is_own"] else "",
        "n_prompts": row["n_prompts"],
        "mean_difference": with_ends(mean, "mean"),
        "g": row["g"],
        "r_own": row["r_own"],
    }


def _shorten_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("trait", "layer", "other_layer", "r", "n_prompts")}
