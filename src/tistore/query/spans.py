"""The spans of text that score highest, or lowest, along a vector."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tistore.errors import QueryError
from tistore.query.pairing import offer_any_pairing
from tistore.query.span_checks import check_names, explain_nothing, is_read_twice, list_silent
from tistore.query.span_question import Order, SpanQuestion, Statistic, quote
from tistore.query.span_text import ResponseText, read_texts

if TYPE_CHECKING:
    from tistore.query.store import Store

CONTEXT_TOKENS = 30
"""Tokens of context on each side of a span."""

_NO_TEXT = ResponseText("", 0, {}, {}, ())


@dataclass(frozen=True, slots=True)
class FoundSpans:
    """
    The answer to a question about spans.

    Attributes:
        question: What was asked.
        sql: The SQL it was asked in.
        rows: The spans, best first; see `top_spans`.
        notes: What a reader of them should know.
    """

    question: SpanQuestion
    sql: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def top_spans(
    store: Store,
    trait: str,
    *,
    by: str = "clause",
    organism: str | None = None,
    reader: str | None = None,
    baseline: str | None = None,
    n: int = 20,
    sign: int = 1,
    order: Order | None = None,
    per_organism: bool = False,
    rank_by: Statistic = "mean",
    min_tokens: int | None = None,
    where: str | None = None,
    any_pairing: bool = False,
    context: int = CONTEXT_TOKENS,
) -> list[dict[str, Any]]:
    """
    Find the spans with the highest scores.

    Args:
        store: Where to look.
        trait: Vector reference.
        by: "clause", "response", "token", "turn", or "window:N": N tokens under audit in a row,
            the best of those that overlap.
        organism: Author of the texts; every one when None.
        reader: Whose readings; each organism's own when None.
        baseline: Rank by the reader's score minus this reader's, on the same tokens.
        n: How many at most; of each organism with `per_organism`.
        sign: 1 for the highest scores, -1 for the lowest; `order` says more.
        order: "highest", "lowest", or "absolute" for the largest in size; by `sign` when None.
        per_organism: The best of each organism, grouped, in place of the best of all.
        rank_by: For responses, "mean", "max", "top3", "top5" or "std"; see `SpanQuestion`.
        min_tokens: Shortest span; 3 for clauses and 1 for the rest when None.
        where: A further SQL condition on the relation's columns; see `SpanQuestion`.
        any_pairing: With a baseline, keep readings that differ from it in precision, template or
            tokenizer.
        context: Tokens of context on each side.

    Returns:
        The best first, each with `rank, organism, reader, baseline, prompt_set, prompt_id, sample,
        response_id, token_start, token_end, text, score, context_before, context_after, n_tokens`.
        `rank` is the place in its list, from 1. The context is the response's own text; the prompt
        is not in it. `text` is None where the store holds no strings. With `any_pairing`,
        `pairing` says how reader and baseline differ.

    Raises:
        QueryError: An argument names nothing, or nothing is left; the message says what did it.
        PairingError: Readings would be compared that differ in more than their models' weights.
    """
    if sign not in (1, -1):
        raise QueryError(f"sign is 1 or -1, not {sign}")
    question = SpanQuestion(
        trait,
        by=by,
        organism=organism,
        reader=reader,
        baseline=baseline,
        n=n,
        order=order or ("highest" if sign > 0 else "lowest"),
        per_organism=per_organism,
        rank_by=rank_by,
        min_tokens=min_tokens,
        where=where,
        any_pairing=any_pairing,
    )
    return find_spans(store, question, context=context).rows


def find_spans(
    store: Store, question: SpanQuestion, *, context: int = CONTEXT_TOKENS
) -> FoundSpans:
    """
    Answer a question about spans.

    Args:
        store: Where to look.
        question: What is asked.
        context: Tokens of context on each side.

    Raises:
        QueryError: The question names what is not there, or nothing is left; the message says
            what did it.
    """
    if context < 0:
        raise QueryError(f"a context has 0 tokens or more, not {context}")
    check_names(store, question)
    sql = question.to_sql(is_read_twice=is_read_twice(store, question))
    with offer_any_pairing():
        result = store.sql(sql)
    spans = list(_take_apart(result.rows(), question))
    if not spans:
        raise QueryError(explain_nothing(store, question))
    rows = lay_out_spans(store, spans, question, context)
    return FoundSpans(question, sql, rows, (*result.notes, *list_silent(store, question)))


def _take_apart(rows: Iterable[dict[str, Any]], question: SpanQuestion) -> Iterator[dict[str, Any]]:
    """Take spans best first, leaving out those that overlap one taken, and number them."""
    taken: defaultdict[str, list[range]] = defaultdict(list)
    ranks: Counter[str | None] = Counter()
    for row in rows:
        group = row["organism"] if question.per_organism else None
        place = range(row.get("token_start") or 0, row.get("token_end") or 0)
        others = taken[row["response_id"]]
        if ranks[group] == question.n or any(_overlap(place, other) for other in others):
            continue
        others.append(place)
        ranks[group] += 1
        yield {"rank": ranks[group], **row}


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def lay_out_spans(
    store: Store,
    spans: Sequence[Mapping[str, Any]],
    question: SpanQuestion,
    context: int = CONTEXT_TOKENS,
) -> list[dict[str, Any]]:
    """
    Add to spans their text, and the text around them.

    Args:
        store: Where they are.
        spans: Each with `rank`, the question's `keys`, its place and `score`, as `to_sql` has them.
        question: What they answer.
        context: Tokens of context on each side.

    Returns:
        Rows as `top_spans` describes them.
    """
    reading = (
        "reader = organism" if question.reader is None else f"reader = {quote(question.reader)}"
    )
    texts = read_texts(store, (span["response_id"] for span in spans), reading)
    lay_out = _lay_out_response if question.unit.name == "response" else _lay_out_part
    return [
        {"rank": span["rank"], **{key: span[key] for key in question.keys}}
        | lay_out(span, texts.get(span["response_id"], _NO_TEXT), context)
        for span in spans
    ]


def _lay_out_response(
    span: Mapping[str, Any], response: ResponseText, context: int
) -> dict[str, Any]:
    start, end = min(response.audited, default=0), max(response.audited, default=-1) + 1
    return _lay_out(span, start, end, response.audited, response.text or None, ("", ""))


def _lay_out_part(span: Mapping[str, Any], response: ResponseText, context: int) -> dict[str, Any]:
    start, end = span["token_start"], span["token_end"]
    text = span["text"] if "text" in span else response.spell(start, end) or None
    characters = (span["char_start"], span["char_end"]) if "char_start" in span else None
    around = response.surround(start, end, context, characters)
    return _lay_out(span, start, end, response.audited, text, around)


def _lay_out(
    span: Mapping[str, Any],
    start: int,
    end: int,
    audited: Sequence[int],
    text: str | None,
    around: tuple[str, str],
) -> dict[str, Any]:
    return {
        "token_start": start,
        "token_end": end,
        "text": text,
        "score": span["score"],
        "context_before": around[0],
        "context_after": around[1],
        "n_tokens": sum(start <= at < end for at in audited) or end - start,
    }
