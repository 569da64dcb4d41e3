"""The command that compares precisions: `vectors quantise`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows, say
from tistore.cli.vectors.extract import Manner
from tistore.schemas.model import PRECISIONS
from tistore.schemas.site import COMPONENTS

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.vectors.comparing.precisions import PrecisionComparison


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(quantise)


def quantise(
    store: StorePath,
    traits: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAIT...", help="Traits that were read; trait folders, or traits that ship."
        ),
    ],
    config: Annotated[Path, typer.Option(help="TOML of the run: its base.")],
    arms: Annotated[str, typer.Option(help=f"Of {', '.join(PRECISIONS)}.")] = "bf16,int8,nf4",
    reference: Annotated[str, typer.Option(help="What the others are compared with.")] = "bf16",
    method: Annotated[str, typer.Option(help="How vectors are fitted.")] = "mean_diff",
    position: Annotated[str, typer.Option(help="Tokens to average over.")] = "response[:]",
    layers: Annotated[
        str | None, typer.Option(help="'all', '5-20', '30%-60%'.", show_default="those read")
    ] = None,
    component: Annotated[str, typer.Option(help=", ".join(COMPONENTS))] = "residual",
    generate: Annotated[
        Manner, typer.Option(help="How scenarios without a response go on, if not read before.")
    ] = Manner.AUTO,
    seed: Annotated[int, typer.Option(help="Of what methods and evaluation draw.")] = 0,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Fit the same vectors with the base in other precisions, and say what that changes."""
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.precision.quantise import Quantisation
    from tistore.capture.precision.quantise import quantise as compare
    from tistore.capture.running.progress import show_progress

    wanted = Quantisation(
        arms=tuple(name.strip() for name in arms.split(",")),
        reference=reference,
        method=method,
        position=position,
        component=component,  # type: ignore[arg-type]  # checked by the comparison
        layers=layers,
        manner=generate.value,
        seed=seed,
    )
    opened = tistore.open(store)
    found = compare(
        opened, read_config(config), _find(opened, traits), wanted, progress=show_progress()
    )
    chosen = choose(format, as_json)
    is_for_people = chosen in (Format.TABLE, Format.MD)
    print_rows([(_shorten if is_for_people else _describe)(one) for one in found], chosen)
    for (trait, arm), group in groupby(found, key=lambda one: (one.trait, one.arm)):
        say(f"{trait}, {arm}: {_conclude(list(group))}")


def _find(store: Store, traits: list[str]) -> list[str | Path]:
    """Find folders, shipped ones included; what is none is the name of a trait that was read."""
    from tistore.datasets.scenarios import list_traits
    from tistore.datasets.shipped import list_shipped_traits, resolve_trait
    from tistore.errors import DatasetError, NotStoredError, nearest
    from tistore.vectors.scenario_readings import find_stored_trait, list_stored_traits

    known = list_stored_traits(store.snapshot)
    found: list[str | Path] = []
    for trait in traits:
        try:
            folder = resolve_trait(trait)
        except DatasetError as error:
            name = find_stored_trait(store.snapshot, trait)
            if name not in known:
                raise NotStoredError(
                    f"no scenarios of {trait!r} have been read, and no folder or shipped trait is "
                    "called so",
                    mend=nearest(trait, [*known, *list_shipped_traits()]),
                ) from error
            found.append(name)
        else:
            found += list_traits(folder) or [folder]
    return list(dict.fromkeys(found))


def _describe(one: PrecisionComparison) -> dict[str, Any]:
    found = one.found
    return {
        "trait": one.trait,
        "component": one.site.component,
        "layer": one.site.layer,
        "arm": one.arm,
        "reference": one.reference,
        "reader": one.reader,
        "reference_reader": one.reference_reader,
        "cosine": found.cosine,
        "row_error": found.row_error,
        "score_correlation": found.score_correlation,
        "score_shift": found.score_shift,
        "transfer_auroc": found.transfer_auroc,
        **{
            f"{prefix}{name}": getattr(evaluation, name)
            for prefix, evaluation in (("", found.evaluation), ("reference_", found.reference))
            for name in ("auroc", "auroc_low", "auroc_high", "g", "g_low", "g_high")
        },
        "layer_rank": one.rank,
        "reference_layer_rank": one.reference_rank,
        "agrees": found.agrees,
    }


def _shorten(one: PrecisionComparison) -> dict[str, Any]:
    """Lay a comparison out for people: intervals beside their figures, a name for the arm."""
    row = _describe(one)
    names = ("trait", "layer", "arm", "cosine", "row_error", "score_correlation", "score_shift")
    return {
        **{name: row[name] for name in (*names, "transfer_auroc")},
        **{
            f"{prefix}{name}": _span(row, f"{prefix}{name}")
            for prefix in ("", "reference_")
            for name in ("auroc", "g")
        },
        "layer_rank": row["layer_rank"],
        "reference_layer_rank": row["reference_layer_rank"],
        "agrees": row["agrees"],
    }


def _span(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    return f"{value:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]")


def _conclude(group: Sequence[PrecisionComparison]) -> str:
    """Say of one trait and arm whether its layers lead to the same conclusions."""
    from tistore.vectors.comparing.precisions import correlate_ranks

    agreeing = sum(one.found.agrees for one in group)
    words = [f"agrees with {group[0].reference} at {agreeing} of {len(group)} layers"]
    best = [one.site.layer for one in group if one.rank == 1]
    before = [one.site.layer for one in group if one.reference_rank == 1]
    if best and before and len(group) > 1:
        is_same = "as before" if best[0] == before[0] else f"instead of {before[0]}"
        words.append(f"best layer {best[0]}, {is_same}")
    if (order := correlate_ranks(group)) is not None:
        words.append(f"layers in the same order by {order:.2f} (Spearman)")
    return "; ".join(words)
