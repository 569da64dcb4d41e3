"""`tistore compare`: effect sizes of an organism against its base, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import tistore
from tistore.cli.diff import ClusterOption, Parts, Seed
from tistore.cli.options import AnyPairing, AtCommit, FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(compare)


def compare(
    store: StorePath,
    organism: Annotated[str, typer.Argument(help="Who departs.")],
    baseline: Annotated[str, typer.Argument(help="From whom.")] = "instruct",
    trait: Annotated[
        list[str] | None, typer.Option("--trait", "-t", help="Vector references; all traits.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Layers, or all; each vector's own.")
    ] = None,
    part: Parts = None,
    definition: Annotated[
        str, typer.Option(help="Of the effect sizes: tistore or trait-interp.")
    ] = "tistore",
    where: Annotated[str | None, typer.Option(help="SQL condition on responses.")] = None,
    any_pairing: AnyPairing = False,
    cluster: ClusterOption = "prompt",
    directions: Annotated[
        int, typer.Option(min=1, help="Random directions effects are compared with.")
    ] = 10_000,
    seed: Seed = 0,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Compare an organism with its base along vectors, layer by layer, with intervals."""
    from tistore.audit.log import log_analysis
    from tistore.audit.shifts.compare import CompareOptions
    from tistore.audit.shifts.compare import compare as compare_with_base

    opened = tistore.open(store, at)
    options = CompareOptions(
        parts=tuple(part or ("total", "model")),  # type: ignore[arg-type]
        definition=definition,
        cluster=cluster,  # type: ignore[arg-type]
        directions=directions,
        seed=seed,
    )
    layers = _read_layers(layer)
    found = compare_with_base(
        opened,
        organism,
        baseline,
        trait,
        layers=layers,
        where=where,
        any_pairing=any_pairing,
        options=options,
    )
    chosen = choose(format, as_json)
    is_for_people = chosen in (Format.TABLE, Format.MD)
    print_rows(list(map(_shorten, found.rows)) if is_for_people else found.rows, chosen)
    vectors = list(dict.fromkeys(row["vector"] for row in found.rows))
    asked = {
        "organism": organism, "baseline": baseline, "traits": trait, "layers": layers,
        "parts": options.parts, "definition": definition, "where": where, "cluster": cluster,
        "seed": seed,
    }  # fmt: skip
    notes = log_analysis(
        opened, "compare", asked, n_cells=len(found.rows), n_rows=len(found.rows),
        vectors=vectors, n_organisms=1, n_traits=len({row["trait"] for row in found.rows}),
    )  # fmt: skip
    for note in (*found.notes, *notes):
        say(f"note: {note}")


def _read_layers(given: list[str] | None) -> Any:
    if not given:
        return None
    if given == ["all"]:
        return "all"
    if unfit := [one for one in given if not one.isdecimal()]:
        raise ConfigError(
            f"{unfit[0]!r} is no layer", mend="write --layer 5 --layer 6, or --layer all"
        )
    return [int(one) for one in given]


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a table has room for: effects with their intervals, the largest marked."""
    return {
        "trait": row["trait"],
        "layer": row["layer"],
        "part": row["part"],
        "prompts": row["n_prompts"],
        "mean difference": _show(row, "mean_difference"),
        "paired": _show(row, "paired"),
        "unpaired": _show(row, "unpaired"),
        "": "largest" if row["is_largest"] else "",
        "random": row["unpaired_random"],
        "cosine": row["cosine"],
    }


def _show(row: Mapping[str, Any], name: str) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return ""
    return f"{value:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
