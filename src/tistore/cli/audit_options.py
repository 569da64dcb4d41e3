"""What commands of the audit share: which scores they look at, and how they say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tistore.cli.output import say

if TYPE_CHECKING:
    from tistore.query.store import Store
    from tistore.schemas.vector import Vector

Traits = Annotated[
    list[str] | None,
    typer.Option(
        "--trait", "-t", help="Vector reference; may be repeated.", show_default="all traits"
    ),
]
Where = Annotated[str | None, typer.Option(help="SQL condition on responses.")]
ClusterColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Prompts that share it are one: note, prompt_set."),
]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Resamples = Annotated[int, typer.Option(min=2, help="Prompts are drawn again so often.")]


class Part(StrEnum):
    """Which scores are looked at."""

    OWN = "own"
    TOTAL = "total"
    MODEL = "model"
    TEXT = "text"


def conclude(
    store: Store,
    command: str,
    question: Mapping[str, Any],
    notes: Sequence[str],
    *,
    vectors: Sequence[Vector],
    n_cells: int,
    n_rows: int,
    n_organisms: int,
) -> None:
    """Say what the reader of an answer should know, and log that it was given."""
    from tistore.audit.log import log_analysis

    logged = log_analysis(
        store,
        command,
        question,
        n_cells=n_cells,
        n_rows=n_rows,
        vectors=[vector.reference for vector in vectors],
        n_organisms=n_organisms,
        n_traits=len(vectors),
    )
    for note in dict.fromkeys([*notes, *logged]):
        say(f"note: {note}")


def with_ends(row: Mapping[str, Any], name: str) -> str | None:
    """Write a number with its interval, as a table shows it."""
    if row[name] is None:
        return None
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{row[name]:.3g}" + (f" [{low:.3g}, {high:.3g}]" if low is not None else "")
