"""The spans an auditor reads: chosen fairly, standardised, beside what the baseline answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tistore.audit.spans.answers import add_answers
from tistore.audit.spans.choice import SpanChoice
from tistore.audit.spans.length_scale import LEAST_STRETCHES, LengthScale
from tistore.audit.spans.listing import list_spans
from tistore.audit.spans.pool import Pool, keep_prose, read_pool, read_scales
from tistore.errors import QueryError
from tistore.query.span_checks import list_silent
from tistore.query.span_question import SpanQuestion
from tistore.query.spans import CONTEXT_TOKENS, find_spans, lay_out_spans
from tistore.schemas.model import BASE_READER

if TYPE_CHECKING:
    from tistore.query.store import Store

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TopSpans:
    """
    The answer to a question about spans.

    Attributes:
        question: What was asked.
        choice: How the list was chosen.
        sql: The SQL of the spans; all there are, unless the choice is plain.
        rows: The spans; see `find_top`.
        n_spans: How many were looked at.
        notes: What a reader of them should know.
    """

    question: SpanQuestion
    choice: SpanChoice
    sql: str
    rows: list[Row]
    n_spans: int
    notes: tuple[str, ...] = ()


def find_top(
    store: Store,
    question: SpanQuestion,
    choice: SpanChoice | None = None,
    *,
    context: int = CONTEXT_TOKENS,
) -> TopSpans:
    """
    Find the spans at an end of a trait's scores, and tell how unusual each is for its length.

    Means of few tokens vary more than means of many, so that short spans lead any list by score.
    z = (score − μ) / σ_n does not have that fault: μ is the mean of all tokens of the organism's
    responses, and σ_n the standard deviation of the means of n tokens in a row in them, measured,
    so that what neighbouring tokens have in common is in it.

    Args:
        store: Where to look.
        question: What is asked.
        choice: How the list is chosen; as the question ranks spans when None. Ranked by z, the
            shortest clause has 1 token unless the question says otherwise.
        context: Tokens of context on each side.

    Returns:
        Rows as `tistore.query.spans.top_spans` has them, and `z`, `band`, `n_alike`, `answer`. `z`
        is None where nothing varies, and for statistics other than the mean. `band` is "top",
        "bottom", "middle" or "random". `n_alike` counts the spans left out because they read
        nearly the same; None unless duplicates were dropped. `answer` is what the baseline itself
        answered; None unless asked for.

    Raises:
        QueryError: An argument names nothing, or nothing is left; the message says what did it.
        PairingError: Readings would be compared that differ in more than their models' weights.
    """
    choice = choice or SpanChoice()
    choice.check(question)
    question = choice.adapt(question)
    if choice.is_plain:
        found = _ask(store, question, choice, context)
    else:
        found = _choose(store, question, choice, context)
    if not choice.with_answer:
        return found
    baseline = question.baseline or BASE_READER
    rows = add_answers(store, found.rows, baseline, context)
    return TopSpans(question, choice, found.sql, rows, found.n_spans, found.notes)


def _ask(store: Store, question: SpanQuestion, choice: SpanChoice, context: int) -> TopSpans:
    """Take the query's own list."""
    found = find_spans(store, question, context=context)
    z: list[float | None] = [None] * len(found.rows)
    if question.rank_by == "mean":
        z = _tell(_standardise_rows(store, question, found.rows))
    rows = [_finish(row, one) for row, one in zip(found.rows, z, strict=True)]
    return TopSpans(question, choice, found.sql, rows, count_spans(store, question), found.notes)


def _choose(store: Store, question: SpanQuestion, choice: SpanChoice, context: int) -> TopSpans:
    """Choose a list among all spans."""
    is_worded = choice.is_worded
    pool = read_pool(store, question, with_wording=is_worded, needs_text=is_worded)
    n_spans = len(pool)
    if choice.prose:
        pool = keep_prose(store, pool)
    values, z = pool.scores, np.full(len(pool), np.nan)
    if question.rank_by == "mean":
        names, _ = pool.organisms
        z = pool.standardise(read_scales(store, question, names, int(pool.n_tokens.max())))
    if choice.standardise:
        values = z
        if not np.isfinite(z).any():
            raise QueryError(
                f"nothing can be standardised: no organism has {LEAST_STRETCHES} tokens whose "
                "scores vary",
                mend="rank by score",
            )
    listed = list_spans(pool, values, choice)
    spans = [{"rank": one.rank, **pool.row(one.place)} for one in listed]
    rows = [
        _finish(row, told, one.band, one.n_alike)
        for row, told, one in zip(
            lay_out_spans(store, spans, question, context),
            _tell(z[[one.place for one in listed]]),
            listed,
            strict=True,
        )
    ]
    notes = (*pool.notes, *list_silent(store, question), *_note_dropped(pool, n_spans, values))
    return TopSpans(question, choice, pool.sql, rows, n_spans, notes)


def _note_dropped(pool: Pool, n_spans: int, values: NDArray[np.float64]) -> Sequence[str]:
    notes = []
    if n_spans > len(pool):
        notes.append(f"{n_spans - len(pool)} of {n_spans} spans are no prose: left out")
    if n_unknown := int((~np.isfinite(values)).sum()):
        notes.append(f"{n_unknown} spans have no z, since too little is there of them: left out")
    return notes


def _finish(row: Row, z: float | None, band: str = "top", n_alike: int | None = None) -> Row:
    return {**row, "z": z, "band": band, "n_alike": n_alike, "answer": None}


def _tell(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _standardise_rows(
    store: Store, question: SpanQuestion, rows: Sequence[Row]
) -> NDArray[np.float64]:
    names = sorted({row["organism"] for row in rows})
    longest = max(row["n_tokens"] for row in rows)
    scales: dict[str, LengthScale] = read_scales(store, question, names, longest)
    return np.array(
        [
            scales[row["organism"]].standardise(
                np.array([row["score"]]), np.array([row["n_tokens"]])
            )[0]
            for row in rows
        ]
    )


def count_spans(store: Store, question: SpanQuestion) -> int:
    """Count the spans a question looks at; for windows, the tokens one may begin with."""
    conditions = " AND ".join(kept.condition for kept in question.list_filters())
    counted = "count(DISTINCT (response_id, turn))" if question.unit.name == "turn" else "count(*)"
    sql = f"SELECT {counted} FROM {question.relation} WHERE {conditions}"
    return int(store.sql(sql).fetchall()[0][0])
