"""Answer where an organism departs from a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tistore.audit.breakdown.groups import summarise_groups
from tistore.audit.breakdown.pieces import RESPONSES, read_pieces, require_pieces
from tistore.audit.breakdown.places import (
    summarise_positions,
    summarise_slopes,
    summarise_turns,
)
from tistore.audit.breakdown.question import Question
from tistore.audit.breakdown.spans import keep_largest, list_clauses, list_prompts, list_tokens
from tistore.audit.breakdown.summary import Row
from tistore.audit.breakdown.triggers import summarise_triggers
from tistore.audit.effects.intervals import FEWEST_CLUSTERS
from tistore.errors import QueryError

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Breakdown:
    """
    Where an organism departs from a baseline.

    Attributes:
        rows: A row a piece or group, trait and part.
        n_cells: Rows there were before the largest were picked.
        notes: What a reader of the numbers should know.
    """

    rows: polars.DataFrame
    n_cells: int
    notes: tuple[str, ...]


def break_down(store: Store, question: Question, largest: int | None = None) -> Breakdown:
    """
    Break the difference between an organism and a baseline down.

    Args:
        store: Where to look.
        question: By what.
        largest: Of tokens, clauses or prompts, only so many of each trait: those whose difference
            is largest in size, largest first.

    Returns:
        Rows that begin with `organism, baseline, trait, vector`. By token and clause
        `organism_score, baseline_score, difference`, on the same tokens; by prompt also
        `replay_score` and the three parts. By anything above, a row a part, with `n_prompts, mean,
        low, high, g`; see `summarise`.

    Raises:
        QueryError: There is no such organism, baseline, vector or group, or nothing to compare.
        PairingError: The two differ in more than their weights.
    """
    import polars as pl

    if question.by in ("token", "clause"):
        listing = list_tokens if question.by == "token" else list_clauses
        frame, cells = listing(store, question)
        notes = cells.notes
    elif question.by == "prompt":
        cells = require_pieces(read_pieces(store, question, RESPONSES), question)
        frame, notes = list_prompts(cells, question), cells.notes
    else:
        rows, notes = _summarise(store, question)
        if not rows:
            raise QueryError(
                f"{' and '.join(question.parts)}: no part of the difference is known",
                mend='capture replays: readers = ["self", "base"]',
            )
        if any(row["low"] is None for row in rows):
            notes += (f"fewer than {FEWEST_CLUSTERS} prompts, or clusters, have no interval",)
        frame = pl.DataFrame(_order(rows), infer_schema_length=None)
    n_cells = len(frame)
    if largest is not None:
        frame = keep_largest(frame, largest, question)
    names = {"organism": question.organism, "baseline": question.baseline}
    frame = frame.select(*(pl.lit(name).alias(key) for key, name in names.items()), pl.all())
    return Breakdown(frame, n_cells, tuple(dict.fromkeys(notes)))


def _order(rows: list[Row]) -> list[Row]:
    """Put the rows of a trait and part below each other; they stay in their order."""
    vectors = list(dict.fromkeys(row["vector"] for row in rows))
    parts = list(dict.fromkeys(row["part"] for row in rows))
    return sorted(rows, key=lambda row: (vectors.index(row["vector"]), parts.index(row["part"])))


def _summarise(store: Store, question: Question) -> tuple[list[Row], tuple[str, ...]]:
    if question.by == "turn":
        return summarise_turns(store, question)
    if question.by == "position":
        return summarise_positions(store, question)
    if question.by == "slope":
        return summarise_slopes(store, question)
    cells = require_pieces(read_pieces(store, question, RESPONSES), question)
    if question.by == "trigger":
        rows, notes = summarise_triggers(cells, question)
        return rows, (*cells.notes, *notes)
    return list(summarise_groups(cells, question)), cells.notes
