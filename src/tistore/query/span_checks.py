"""What is said about a question of spans: names that are not there, rows that nothing leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tistore.errors import QueryError, nearest
from tistore.query.span_question import SpanQuestion, quote

if TYPE_CHECKING:
    from tistore.query.store import Store


def check_names(store: Store, question: SpanQuestion) -> None:
    """
    Check that a question's organism, reader and baseline are there, and have read what it needs.

    Raises:
        QueryError: One is not; the message names the nearest, or who has been read.
    """
    for column, name, noun in (
        ("organism", question.organism, "organism"),
        ("reader", question.reader, "reader"),
        ("reader", question.baseline, "baseline"),
    ):
        known = [] if name is None else _list_distinct(store, column, "responses")
        if name is not None and name not in known:
            raise QueryError(f"no {noun} {name!r}; {nearest(name, known)}")
    if question.organism is not None and question.baseline is not None:
        _check_replay(store, question)


def _check_replay(store: Store, question: SpanQuestion) -> None:
    reader = (
        "reader = organism" if question.reader is None else f"reader = {quote(question.reader)}"
    )
    condition = f"baseline = {quote(str(question.baseline))} AND {reader}"
    replayed = _list_distinct(store, "organism", "response_diffs", condition)
    if question.organism in replayed:
        return
    by = question.reader or "its author"
    raise QueryError(
        f"no response of {question.organism!r} was read by both {by} and {question.baseline!r}; "
        + (f"those of {', '.join(replayed)} were" if replayed else "no organism's were"),
        mend="capture the replay, or leave the baseline out",
    )


def _list_distinct(store: Store, column: str, relation: str, condition: str = "true") -> list[str]:
    rows = store.sql(f"SELECT DISTINCT {column} FROM {relation} WHERE {condition} ORDER BY 1")
    return [row[0] for row in rows.fetchall()]


def is_read_twice(store: Store, question: SpanQuestion) -> bool:
    """Whether a reader has read a response under several capture settings."""
    conditions = " AND ".join(kept.condition for kept in question.list_reading_filters())
    sql = (
        f"SELECT count(*) > count(DISTINCT response_id) FROM {question.readings} WHERE {conditions}"
    )
    return bool(store.sql(sql).fetchall()[0][0])


def list_silent(store: Store, question: SpanQuestion) -> Iterator[str]:
    """Name the organisms that a baseline leaves out, when nobody asked for one of them."""
    if question.baseline is None or question.organism is not None:
        return
    conditions = [kept.condition for kept in question.list_reading_filters()]
    replayed = _list_distinct(store, "organism", "response_diffs", " AND ".join(conditions))
    known = _list_distinct(store, "organism", "responses", conditions[0])
    if left_out := sorted(set(known) - set(replayed) - {question.baseline}):
        yield f"{question.baseline} has read no response of {', '.join(left_out)}: left out"


def explain_nothing(store: Store, question: SpanQuestion) -> str:
    """Say which condition left nothing."""
    if question.relation.startswith("clause") and not _list_distinct(store, "1", "clauses"):
        return (
            "the store holds no text of any response, and there are no clauses without: ask by "
            "response, token or window:10"
        )
    told: list[str] = []
    conditions: list[str] = []
    for kept in question.list_filters():
        told.append(kept.label)
        conditions.append(kept.condition)
        sql = f"SELECT count(*) FROM {question.relation} WHERE {' AND '.join(conditions)}"
        if store.sql(sql).fetchall()[0][0] == 0:
            after = f" among {', '.join(told[:-1])}" if told[:-1] else ""
            return f"nothing in {question.relation} is left by: {kept.label}{after}"
    return f"none of the rows in {question.relation} has a score, or none is long enough"
