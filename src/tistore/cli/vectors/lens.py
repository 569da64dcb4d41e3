"""The command that puts vectors into words: `vectors lens`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import FormatOption, JsonOption, StorePath, choose
from tistore.cli.output import Format, print_rows

if TYPE_CHECKING:
    from tistore.schemas.vector import Vector
    from tistore.vectors.comparing.vocabulary import NearToken


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(lens)


def lens(
    store: StorePath,
    references: Annotated[
        list[str], typer.Argument(metavar="VECTOR...", help="Vector references.")
    ],
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="Tokens to each side.")] = 10,
    common: Annotated[
        int | None,
        typer.Option(min=1, help="Only tokens with ids below this: the common ones come first."),
    ] = None,
    reader: Annotated[
        str | None, typer.Option(help="Whose head.", show_default="the vector's model's")
    ] = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Name the tokens whose logits vectors raise and lower most."""
    from tistore.vectors.comparing.vocabulary import find_head, nearest_tokens

    opened = tistore.open(store)
    vectors = [opened.vector(reference) for reference in references]
    found = [
        (vector, nearest_tokens(opened.snapshot, vector, head, k=k, common=common))
        for vector in vectors
        for head in [find_head(opened.snapshot, vector, reader)]
    ]
    chosen = choose(format, as_json)
    if chosen in (Format.TABLE, Format.MD):
        print_rows([_sum_up(vector, tokens) for vector, tokens in found], chosen)
    else:
        print_rows([_lay_out(vector, one) for vector, tokens in found for one in tokens], chosen)


def _sum_up(vector: Vector, tokens: list[NearToken]) -> dict[str, Any]:
    return {
        "vector": vector.reference,
        "raises": _spell(one for one in tokens if one.is_promoted),
        "lowers": _spell(one for one in tokens if not one.is_promoted),
    }


def _spell(tokens: Any) -> str:
    return "  ".join(f"{one.token!r} {one.logit:+.2f}" for one in tokens)


def _lay_out(vector: Vector, one: NearToken) -> dict[str, Any]:
    return {
        "vector": vector.reference,
        "layer": vector.layer,
        "raised": one.is_promoted,
        "rank": one.rank,
        "token_id": one.token_id,
        "token": one.token,
        "logit": one.logit,
        "cosine": one.cosine,
    }
