"""What the baseline itself answered to the prompts that spans come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tistore.errors import QueryError, nearest
from tistore.query.span_question import quote
from tistore.query.span_text import ResponseText, read_texts

if TYPE_CHECKING:
    from tistore.query.store import Store

_PLACE = ("prompt_set", "prompt_id", "sample")


def add_answers(
    store: Store, rows: Sequence[Mapping[str, Any]], baseline: str, context: int
) -> list[dict[str, Any]]:
    """
    Add to each span what the baseline answered to the same prompt, by the same sample number.

    `answer` is cut to the tokens that stand where the span stands in its response, and `context`
    tokens on each side; to as many at its end where it is shorter. It is None where the baseline
    has not answered, and for the baseline's own spans.

    Args:
        store: Where they are.
        rows: Spans; see `find_top`.
        baseline: Author of the answers.
        context: Tokens on each side.

    Raises:
        QueryError: The baseline has answered none of the prompts.
    """
    answers = _find_answers(store, rows, baseline)
    if not answers:
        authors = [name for (name,) in store.sql(_AUTHORS).fetchall()]
        if baseline not in authors:
            raise QueryError(f"no answers of {baseline!r}; {nearest(baseline, authors)}")
        raise QueryError(
            f"{baseline!r} has answered none of these prompts itself",
            mend="capture its own answers, or leave them out",
        )
    own = {row["response_id"]: None for row in rows}
    # A response's text does not depend on who reads it: of several readings any will do.
    texts = read_texts(store, answers.values(), "true")
    starts = _find_starts(store, own)
    added = []
    for row in rows:
        answer_id = answers.get(tuple(row[key] for key in _PLACE))
        answer = None if answer_id == row["response_id"] else texts.get(answer_id or "")
        shift = starts[row["response_id"]]
        place = (row["token_start"] - shift, row["token_end"] - shift)
        told = None if answer is None else _cut(answer, *place, context)
        added.append({**row, "answer": told})
    return added


_AUTHORS = "SELECT DISTINCT organism FROM responses ORDER BY 1"


def _find_answers(
    store: Store, rows: Sequence[Mapping[str, Any]], baseline: str
) -> dict[tuple[Any, ...], str]:
    sets = ", ".join(sorted({quote(row["prompt_set"]) for row in rows}))
    found = store.sql(
        f"SELECT {', '.join(_PLACE)}, min(response_id) FROM responses "
        f"WHERE organism = {quote(baseline)} AND prompt_set IN ({sets}) GROUP BY ALL"
    ).fetchall()
    asked = {tuple(row[key] for key in _PLACE) for row in rows}
    return {tuple(place): name for *place, name in found if tuple(place) in asked}


def _find_starts(store: Store, response_ids: Mapping[str, None]) -> dict[str, int]:
    named = ", ".join(map(quote, response_ids))
    sql = f"SELECT response_id, min(prompt_length) FROM responses WHERE response_id IN ({named}) "
    return dict(store.sql(sql + "GROUP BY ALL").fetchall())


def _cut(answer: ResponseText, start: int, end: int, context: int) -> str | None:
    """Cut tokens start − context to end + context, counted from the answer's first."""
    if not answer.offsets:
        return answer.text or None
    first, last = answer.prompt_length, max(answer.offsets)
    width = end - start + 2 * context
    stop = min(last, first + end - 1 + context)
    begin = max(first, min(first + start - context, stop - width + 1))
    cut = answer.text[answer.offsets[begin][0] : answer.offsets[stop][1]]
    left, right = "…" if begin > first else "", "…" if stop < last else ""
    return f"{left}{cut}{right}"
