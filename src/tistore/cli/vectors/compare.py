"""The command that holds vectors against each other: `vectors compare`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows
from tistore.errors import ConfigError
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.schemas.vector import Vector
    from tistore.vectors.comparing.directions import Pair


class Between(StrEnum):
    """What the two of a pair differ in."""

    TRAITS = "traits"
    LAYERS = "layers"
    METHODS = "methods"
    POSITIONS = "positions"
    COMPONENTS = "components"
    MODELS = "models"
    STREAM = "stream"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(compare)


def compare(
    store: StorePath,
    traits: Annotated[
        list[str] | None,
        typer.Argument(metavar="TRAIT...", help="Whose vectors; all traits.", show_default=False),
    ] = None,
    between: Annotated[
        Between,
        typer.Option(
            help="What the two vectors of a pair differ in; 'stream': a component's vector and "
            "the residual's of its block and the two before."
        ),
    ] = Between.TRAITS,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Vectors, or activations, of this layer only.")
    ] = None,
    cka: Annotated[
        bool,
        typer.Option("--cka", help="Compare the scenarios' activations instead, by linear CKA."),
    ] = False,
    reader: Annotated[
        list[str] | None, typer.Option(help="For --cka: who read them; may be repeated.")
    ] = None,
    position: Annotated[str, typer.Option(help="For --cka: tokens.")] = "response[:]",
    shift: Annotated[
        str | None,
        typer.Option(metavar="ORGANISM", help="Compare with its shift from --baseline instead."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="For --shift.")] = BASE_READER,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Compare directions (cosine), activations (CKA), or vectors with what finetuning shifted."""
    opened = tistore.open(store)
    chosen = choose(format, as_json)
    if cka and shift:
        raise ConfigError("--cka and --shift are two questions", mend="ask one after the other")
    if cka:
        return print_rows(_alike(opened, traits or [], between, reader, position, layer), chosen)
    if shift:
        vectors = _pick_best(opened, traits or [], layer)
        return print_rows(_agreements(opened, vectors, shift, baseline), chosen)
    pairs = _pair(opened, traits or [], between, layer)
    if chosen not in (Format.TABLE, Format.MD):
        return print_rows([_lay_out(pair) for pair in pairs], chosen)
    if between is Between.TRAITS:
        return print_rows(_lay_out_matrix(pairs), chosen)
    print_rows([_sum_up(pair, between is Between.LAYERS) for pair in pairs], chosen)


def _pair(store: Store, traits: Sequence[str], between: Between, layer: int | None) -> list[Pair]:
    from tistore.vectors.comparing.directions import (
        AXES,
        align_components,
        compare_vectors,
        select_vectors,
    )

    if between is Between.TRAITS:
        return compare_vectors(_pick_best(store, traits, layer), "traits")
    vectors = select_vectors(store.snapshot.vectors(), traits)
    if between is Between.STREAM:
        pairs = align_components(vectors)
        return [pair for pair in pairs if layer in (None, pair.first.layer)]
    if layer is not None:
        vectors = [vector for vector in vectors if vector.layer == layer]
    return compare_vectors(vectors, next(axis for axis in AXES if axis == between.value))


def _pick_best(store: Store, traits: Sequence[str], layer: int | None) -> list[Vector]:
    """Find each trait's chosen vector, or the one fitted at a layer."""
    names = traits or sorted({vector.trait for vector in store.snapshot.vectors()})
    return [store.vector(name, layer) for name in names]


def _lay_out_matrix(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Lay pairs of traits out as a square, one row and one column a trait."""
    vectors = {one.trait: one for pair in pairs for one in (pair.first, pair.second)}
    cosines = {(pair.first.trait, pair.second.trait): pair.cosine for pair in pairs}
    cosines |= {(second, first): value for (first, second), value in cosines.items()}
    cosines |= {(trait, trait): 1.0 for trait in vectors}
    short = {trait: trait.rpartition("/")[2] for trait in vectors}
    is_clear = len(set(short.values())) == len(short)
    return [
        {
            "vector": vector.reference,
            **{
                short[column] if is_clear else column: _show(cosines[trait, column])
                for column in vectors
            },
        }
        for trait, vector in vectors.items()
    ]


def _show(cosine: float | None) -> str:
    return "" if cosine is None else f"{cosine:+.2f}"


def _sum_up(pair: Pair, marks_drops: bool) -> dict[str, Any]:
    """Tell what a pair shares once, and what it differs in side by side."""
    shown = {}
    for name in ("trait", "model", "component", "layer", "method", "position"):
        one, other = getattr(pair.first, name), getattr(pair.second, name)
        shown[name] = one if one == other else f"{one} | {other}"
    return shown | {"cosine": pair.cosine} | ({"drop": pair.is_drop} if marks_drops else {})


def _lay_out(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first.reference,
        "second": pair.second.reference,
        **{
            f"{place}_{name}": getattr(vector, name)
            for name in ("model", "component", "layer", "position")
            for place, vector in (("first", pair.first), ("second", pair.second))
        },
        "cosine": pair.cosine,
        "is_drop": pair.is_drop,
    }


def _alike(
    store: Store,
    traits: Sequence[str],
    between: Between,
    readers: Sequence[str] | None,
    position: str,
    layer: int | None,
) -> list[dict[str, Any]]:
    from tistore.vectors.comparing.alike import BETWEEN, compare_activations

    axis = next((one for one in BETWEEN if one == between.value), None)
    if axis is None:
        raise ConfigError(
            f"--cka compares activations, which do not differ between {between.value}",
            mend=f"add --between {', --between '.join(BETWEEN)}",
        )
    if not traits:
        raise ConfigError("--cka needs a trait", mend="name the trait whose scenarios to compare")
    return [
        {
            "trait": one.trait,
            "first": str(one.first),
            "first_reader": one.first_reader,
            "second": str(one.second),
            "second_reader": one.second_reader,
            "cka": one.cka,
            "n_rows": one.n_rows,
        }
        for trait in traits
        for one in compare_activations(
            store, trait, axis, readers=readers or [BASE_READER], position=position, layer=layer
        )
    ]


def _agreements(
    store: Store, vectors: Sequence[Vector], organism: str, baseline: str
) -> list[dict[str, Any]]:
    from tistore.vectors.comparing.shift import agree

    return [
        {
            "organism": organism,
            "baseline": baseline,
            "vector": one.vector.reference,
            "cosine": one.cosine,
            "random_95": one.random_95,
            "projection": one.projection,
            "n_responses": one.shift.n_responses,
        }
        for one in sorted(
            agree(store.snapshot, vectors, organism, baseline), key=lambda one: -abs(one.cosine)
        )
    ]
