"""The spans of text that score highest, or lowest, along a vector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tistore.errors import QueryError, nearest

if TYPE_CHECKING:
    from tistore.query.store import Store

_CONTEXT_TOKENS = 30
_KEYS = ("organism", "reader", "baseline", "prompt_set", "prompt_id", "sample", "response_id")

# ≤2-token clauses are a quarter of all clauses and most of a raw top 20: short means vary most.
_MIN_CLAUSE_TOKENS = 3


@dataclass(frozen=True, slots=True)
class _Unit:
    """What a span is: the relation it is a row of, and how wide a window is."""

    relation: str
    width: int = 1

    @classmethod
    def parse(cls, by: str) -> _Unit:
        if by in ("clause", "response", "token"):
            return cls(f"{by}s")
        if (match := re.fullmatch(r"window:(\d+)", by)) and int(match[1]) > 0:
            return cls("tokens", int(match[1]))
        raise QueryError(
            f"spans cannot be taken by {by!r}", mend="write clause, response, token or window:8"
        )


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
    min_tokens: int | None = None,
    where: str | None = None,
) -> list[dict[str, Any]]:
    """
    Find the spans with the highest scores.

    Args:
        store: Where to look.
        trait: Vector reference.
        by: "clause", "response", "token", or "window:N": N response tokens in a row, the best of
            those that overlap.
        organism: Author of the texts; every one when None.
        reader: Whose readings; each organism's own when None.
        baseline: Rank by the reader's score minus this reader's, on the same tokens.
        n: How many at most.
        sign: 1 for the highest scores, -1 for the lowest.
        min_tokens: Shortest clause or response; 3 for clauses and 1 for responses when None.
        where: A further SQL condition on the relation's columns.

    Returns:
        The best first, each with `organism, reader, baseline, prompt_set, prompt_id, sample,
        response_id, token_start, token_end, text, score, context_before, context_after`.

    Raises:
        QueryError: An argument names nothing, or nothing is left; the message says what did it.
    """
    unit = _Unit.parse(by)
    if sign not in (1, -1) or n < 1:
        raise QueryError(f"sign is 1 or -1 and n at least 1, not {sign} and {n}")
    _check_names(store, organism, reader, baseline)
    relation = unit.relation if baseline is None else f"{unit.relation[:-1]}_diffs"
    names = {"organism": organism, "reader": reader, "baseline": baseline}
    filters = _list_filters(unit, names, min_tokens, where)
    parameters = {name: value for name, value in names.items() if value is not None}
    order = f"score {'DESC' if sign > 0 else 'ASC'}, response_id, reader, token_start"
    sql = _write_sql(unit, relation, [condition for _, condition in filters], baseline)
    # Each window taken rules out fewer than twice its width of others.
    limit = n * (2 * unit.width - 1)
    rows = store.sql(f"{sql} ORDER BY {order} LIMIT {limit}", {"trait": trait, **parameters})
    spans = _take_apart(rows, n)
    if not spans:
        raise QueryError(_explain_nothing(store, relation, filters, parameters))
    return _add_context(store, spans, unit)


def _list_filters(
    unit: _Unit, names: Mapping[str, str | None], min_tokens: int | None, where: str | None
) -> list[tuple[str, str]]:
    """Conditions on the relation, each with what people call it."""
    filters = [(f"{name} {value!r}", f"{name} = ${name}") for name, value in names.items() if value]
    if names["reader"] is None:
        filters.append(("texts read by their own author", "reader = organism"))
    if unit.relation == "tokens":
        filters.append(("response tokens", "is_response"))
    else:
        default = _MIN_CLAUSE_TOKENS if unit.relation == "clauses" else 1
        least = default if min_tokens is None else int(min_tokens)
        filters.append((f"at least {least} tokens", f"n_tokens >= {least}"))
    if where:
        filters.append((f"where {where}", f"({where})"))
    return filters


def _write_sql(unit: _Unit, relation: str, conditions: Sequence[str], baseline: str | None) -> str:
    keys = ", ".join(_KEYS if baseline else [key for key in _KEYS if key != "baseline"])
    columns = {
        "responses": "NULL AS token_start, NULL AS token_end, text",
        "clauses": "token_start, token_end, text",
        "tokens": f"position AS token_start, position + {unit.width} AS token_end, token AS text",
    }[unit.relation]
    score = "project($trait)"
    told = " AND ".join([*conditions, "project($trait) IS NOT NULL"])
    if unit.width == 1:
        return f"SELECT {keys}, {columns}, {score} AS score FROM {relation} WHERE {told}"
    last = unit.width - 1
    return (
        f"SELECT {keys}, {columns}, avg({score}) OVER stretch AS score FROM {relation} "
        f"WHERE {told} WINDOW stretch AS (PARTITION BY {keys} ORDER BY position "
        f"ROWS BETWEEN CURRENT ROW AND {last} FOLLOWING) "
        f"QUALIFY last_value(position) OVER stretch = position + {last}"
    )


def _take_apart(rows: Iterable[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Take spans best first, leaving out those that overlap one taken."""
    taken: list[dict[str, Any]] = []
    for row in rows:
        row.setdefault("baseline", None)
        same = (span for span in taken if all(span[key] == row[key] for key in _KEYS))
        if row["token_start"] is None or not any(
            span["token_start"] < row["token_end"] and row["token_start"] < span["token_end"]
            for span in same
        ):
            taken.append(row)
        if len(taken) == n:
            break
    return taken


def _add_context(
    store: Store, spans: Sequence[Mapping[str, Any]], unit: _Unit
) -> list[dict[str, Any]]:
    """Add the text around each span, and lay its keys out in order."""
    marks = {f"r{place}": span["response_id"] for place, span in enumerate(spans)}
    chosen = f"response_id IN ({', '.join(f'${mark}' for mark in marks)})"
    found = store.sql(f"SELECT response_id, text FROM responses WHERE {chosen}", marks)
    texts = dict(found.fetchall())
    tokens: dict[str, dict[int, tuple[Any, ...]]] = {}
    for response_id, position, *token in store.sql(
        "SELECT response_id, position, token, char_start, char_end FROM tokens "
        f"WHERE {chosen} AND is_response ORDER BY position",
        marks,
    ).fetchall():
        tokens.setdefault(response_id, {})[position] = tuple(token)
    ids = [span["response_id"] for span in spans]
    return [
        _lay_out(span, unit, texts.get(identity), tokens.get(identity, {}))
        for span, identity in zip(spans, ids, strict=True)
    ]


def _lay_out(
    span: Mapping[str, Any], unit: _Unit, text: str | None, tokens: Mapping[int, tuple[Any, ...]]
) -> dict[str, Any]:
    start, end = span["token_start"], span["token_end"]
    if unit.relation == "responses":
        start, end = min(tokens, default=0), max(tokens, default=-1) + 1
    return {
        **{key: span[key] for key in _KEYS},
        "token_start": start,
        "token_end": end,
        "text": _spell(text, tokens, range(start, end)) if unit.width > 1 else span["text"],
        "score": span["score"],
        "context_before": _spell(text, tokens, range(start - _CONTEXT_TOKENS, start)),
        "context_after": _spell(text, tokens, range(end, end + _CONTEXT_TOKENS)),
    }


def _spell(
    text: str | None, tokens: Mapping[int, tuple[Any, ...]], positions: Iterable[int]
) -> str:
    """Characters of some tokens of a response; the tokens' own strings where offsets lack."""
    found = [tokens[position] for position in positions if position in tokens]
    if text is not None and found and all(end is not None for _, _, end in found):
        return text[found[0][1] : found[-1][2]]
    return "".join(token or "" for token, _, _ in found)


def _check_names(
    store: Store, organism: str | None, reader: str | None, baseline: str | None
) -> None:
    for column, name, noun in (
        ("organism", organism, "organism"),
        ("reader", reader, "reader"),
        ("reader", baseline, "baseline"),
    ):
        if name is None:
            continue
        known = {row[0] for row in store.sql(f"SELECT DISTINCT {column} FROM responses").fetchall()}
        if name not in known:
            raise QueryError(f"no {noun} {name!r}; {nearest(name, known)}")


def _explain_nothing(
    store: Store,
    relation: str,
    filters: Sequence[tuple[str, str]],
    parameters: Mapping[str, str],
) -> str:
    """Say which filter left nothing."""
    told: list[str] = []
    conditions: list[str] = []
    for label, condition in filters:
        told.append(label)
        conditions.append(condition)
        used = {name: parameters[name] for name in parameters if f"${name}" in " ".join(conditions)}
        sql = f"SELECT count(*) FROM {relation} WHERE {' AND '.join(conditions)}"
        if store.sql(sql, used).fetchall()[0][0] == 0:
            after = f" among {', '.join(told[:-1])}" if told[:-1] else ""
            return f"nothing in {relation} is left by: {label}{after}"
    return f"none of the rows in {relation} has a score, or none is long enough"
