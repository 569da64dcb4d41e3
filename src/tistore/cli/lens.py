"""The command `lens`: what a model would say from the middle of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tistore
from tistore.cli.options import (
    AtCommit,
    FormatOption,
    JsonOption,
    MultiplyAdds,
    StorePath,
    check_multiply_adds,
    choose,
)
from tistore.cli.output import Format, print_rows, say

if TYPE_CHECKING:
    from tistore.query.store import Store


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(lens)


def lens(
    store: StorePath,
    organism: Annotated[str | None, typer.Option(help="Author of the responses.")] = None,
    reader: Annotated[str | None, typer.Option(help="Whose states; the organism's own.")] = None,
    prompt_set: Annotated[str | None, typer.Option(help="Set of the prompts.")] = None,
    prompt_id: Annotated[str | None, typer.Option(help="The prompt.")] = None,
    sample: Annotated[int | None, typer.Option(help="Which generation.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layers: 2,4 or 5-20; all stored ones.")] = None,
    position: Annotated[
        str | None, typer.Option(help="Places in the sequence, from 0: 12 or 10-20; all.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="Likeliest tokens to list.")] = 5,
    where: Annotated[str | None, typer.Option(help="SQL condition on lens.")] = None,
    heads: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="First keep the heads of this run's models."),
    ] = None,
    max_multiply_adds: MultiplyAdds = None,
    at: AtCommit = None,
    format: FormatOption = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Put stored states to the model's head: likeliest tokens, and the true next token's rank."""
    from tistore.query.lens_question import LensQuestion, look

    opened = tistore.open(store, at)
    if max_multiply_adds is not None:
        budget = check_multiply_adds(max_multiply_adds)
        opened.limits = replace(opened.limits, max_multiply_adds=budget)
    if heads is not None:
        _keep_heads(opened, heads)
    question = LensQuestion(
        organism=organism,
        reader=reader,
        prompt_set=prompt_set,
        prompt_id=prompt_id,
        sample=sample,
        layers=layer,
        positions=position,
        k=k,
        where=where,
    )
    answer = look(opened, question)
    chosen = choose(format, as_json)
    is_for_people = chosen in (Format.TABLE, Format.MD)
    print_rows(list(map(_shorten, answer.rows)) if is_for_people else answer.rows, chosen)
    for note in answer.notes:
        say(f"note: {note}")


def _keep_heads(store: Store, config: Path) -> None:
    from tistore.capture.quiet import silence_libraries

    silence_libraries()
    from tistore.capture.config import read_config
    from tistore.capture.reading.later_heads import keep_heads

    for name, head_hash in keep_heads(store, read_config(config)).items():
        say(f"kept the head of {name}: {head_hash}")


def _shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a table has room for."""
    reading = row["organism"]
    if row["reader"] != row["organism"]:
        reading = f"{row['organism']} read by {row['reader']}"
    likeliest = zip(row["top_tokens"] or (), row["top_probabilities"] or (), strict=True)
    return {
        "reading": reading,
        "prompt": f"{row['prompt_set']}#{row['prompt_id']}",
        "position": row["position"],
        "token": _show(row["token"]),
        "layer": row["layer"],
        "next": _show(row["next_token"]),
        "rank": row["rank"],
        "probability": row["probability"],
        "likeliest": "  ".join(f"{_show(token)} {share:.2f}" for token, share in likeliest),
    }


def _show(token: str | None) -> str:
    """Write a token between quotes: most begin with a space."""
    return "" if token is None else repr(token)
