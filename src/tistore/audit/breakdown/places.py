"""Places in responses: stretches of tokens, turns, and slopes along either."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tistore.audit.breakdown.pieces import (
    FEWEST_TOKENS,
    POSITION_SLOPES,
    POSITION_STEP,
    TURN_SLOPES,
    TURNS,
    cut_stretches,
    read_pieces,
    require_pieces,
)
from tistore.audit.breakdown.question import Question
from tistore.audit.breakdown.summary import Row, summarise_prompts
from tistore.audit.cells import Cells
from tistore.errors import QueryError

if TYPE_CHECKING:
    from tistore.query.store import Store

Found = tuple[list[Row], tuple[str, ...]]
Lengths = NDArray[np.float64]


def summarise_turns(store: Store, question: Question) -> Found:
    """Sum up the nth answers of conversations: a turn counts once, however long it is."""
    cells = require_pieces(read_pieces(store, question, TURNS), question)
    turns = cells.rows["assistant_turn"].to_numpy()
    rows = [
        row
        for turn in np.unique(turns).tolist()
        for row in summarise_prompts(cells.take(turns == turn), question, {"assistant_turn": turn})
    ]
    note = "no response has a second turn under audit"
    return rows, (*cells.notes, *([note] if turns.max() == 1 else []))


def summarise_positions(store: Store, question: Question) -> Found:
    """
    Sum up stretches of tokens, counted from the first token under audit.

    All stretches rest on the same responses, those that come as far as the last stretch ends; for
    a part that two texts have a share in, both must. Else later stretches would tell of other
    prompts than earlier ones, and a trend would only say which prompts get long answers.

    Raises:
        QueryError: No response comes so far.
    """
    cells = read_pieces(store, question, cut_stretches(question.bin_tokens))
    require_pieces(cells, question)
    rows: list[Row] = []
    notes = list(cells.notes)
    for part in question.parts:
        lengths = _measure_lengths(cells, part)
        until = question.until or _choose_end(lengths, cells, question.bin_tokens)
        until -= until % question.bin_tokens
        kept = lengths >= until
        responses = cells.rows["response_id"].to_numpy()
        n_kept, n_all = (len(np.unique(responses[mask])) for mask in (kept, lengths > 0))
        if not until or not n_kept:
            notes.append(_tell_short(part, until or question.bin_tokens, n_all))
            continue
        notes.append(f"{part}: {n_kept} of {n_all} responses have {until} tokens under audit")
        one = replace(question, parts=(part,))
        for stretch in range(until // question.bin_tokens):
            start = stretch * question.bin_tokens
            mask = kept & (cells.rows["stretch"].to_numpy() == stretch)
            group = {
                "first_token": start,
                "end_token": start + question.bin_tokens,
                "n_responses": n_kept,
                "share_of_responses": n_kept / n_all,
            }
            rows += summarise_prompts(cells.take(mask), one, group)
    if not rows:
        raise QueryError(
            "; ".join(notes), mend="take shorter stretches, or do not go so far: --until"
        )
    return rows, tuple(notes)


def _measure_lengths(cells: Cells, part: str) -> Lengths:
    """Of each piece's response, how far the texts of a part reach; 0 where one is not there."""
    own = cells.rows["n_in_all"].to_numpy().astype(np.float64)
    has = np.isfinite(cells.own).any(axis=1) if part != "text" else np.ones(len(own), np.bool_)
    if part != "total":
        has &= np.isfinite(cells.replay).any(axis=1)
    if part == "model":
        return np.where(has, own, 0.0)
    # An answer of the baseline's that ends before a stretch is NULL there, and reaches less far.
    base = cells.rows["base_n_in_all"].cast(float).fill_null(0.0).to_numpy()
    return np.where(has, np.minimum(own, base), 0.0)


def _choose_end(lengths: Lengths, cells: Cells, bin_tokens: int) -> int:
    """Choose the last whole stretch that half of the responses come to the end of."""
    responses = cells.rows["response_id"].to_numpy()
    reached = [lengths[responses == one].max() for one in np.unique(responses[lengths > 0])]
    if not reached:
        return 0
    return int(np.sort(reached)[len(reached) // 2]) // bin_tokens * bin_tokens


def _tell_short(part: str, until: int, n_all: int) -> str:
    if not n_all:
        return f"no response has a {part} part"
    return f"{part}: too few of {n_all} responses have {until} tokens under audit"


def summarise_slopes(store: Store, question: Question) -> Found:
    """
    Sum up slopes: a straight line is fitted to each response by itself, then prompts are averaged.

    Along positions in score units per 100 tokens under audit, of responses of at least 10; along
    turns, per answer, of conversations with at least two.

    Raises:
        QueryError: No response is long enough for either.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for along, unit, cut in (
        ("position", f"{POSITION_STEP} tokens", POSITION_SLOPES),
        ("turn", "turn", TURN_SLOPES),
    ):
        cells = read_pieces(store, question, cut)
        if not len(cells.rows):
            what = f"{FEWEST_TOKENS} tokens" if along == "position" else "two turns"
            notes.append(f"no response has {what} under audit: no slope along {along}s")
            continue
        notes += cells.notes
        group = {"along": along, "per": unit}
        rows += summarise_prompts(cells, question, group)
    if not rows:
        raise QueryError("; ".join(notes))
    return rows, tuple(dict.fromkeys(notes))
