"""A question to the logit lens: which tokens of which readings, at which layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tistore.errors import QueryError, nearest
from tistore.query.lens import TOP
from tistore.query.span_question import Filter, check_condition, quote

if TYPE_CHECKING:
    from tistore.query.store import Store

_SPAN = re.compile(r"(\d+)(?:-(\d+))?")

KEYS = ("organism", "reader", "prompt_set", "prompt_id", "sample", "response_id")
"""What every row says of its reading."""


@dataclass(frozen=True, slots=True)
class LensQuestion:
    """
    What would the model say from these tokens, at these layers?

    Attributes:
        organism: Author of the texts; every one when None.
        reader: Whose states; each organism's own when None.
        prompt_set: Set of the prompts; every one when None.
        prompt_id: The prompt; every one when None.
        sample: Which generation; every one when None.
        layers: As people write them: "2,4", "5-20"; every stored layer when None.
        positions: Places in the whole sequence, written the same way; every captured one when None.
        k: How many of the likeliest tokens to list.
        where: A further SQL condition on the columns of `lens`.

    Raises:
        QueryError: The question makes no sense.
    """

    organism: str | None = None
    reader: str | None = None
    prompt_set: str | None = None
    prompt_id: str | None = None
    sample: int | None = None
    layers: str | None = None
    positions: str | None = None
    k: int = 5
    where: str | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 1 <= self.k <= TOP:
            raise QueryError(f"k is 1 to {TOP}, not {self.k}")
        for column, written in (("layer", self.layers), ("position", self.positions)):
            if written is not None:
                _read_spans(column, written)
        if self.where is not None:
            check_condition(self.where)

    def list_filters(self) -> Iterator[Filter]:
        """List the conditions on rows, those on whole readings first."""
        for column in ("organism", "prompt_set", "prompt_id"):
            value = getattr(self, column)
            if value is not None:
                yield Filter(f"{column} {value!r}", f"{column} = {quote(value)}")
        if self.sample is not None:
            yield Filter(f"sample {self.sample}", f"sample = {int(self.sample)}")
        if self.reader is None:
            yield Filter("texts read by their own author", "reader = organism")
        else:
            yield Filter(f"reader {self.reader!r}", f"reader = {quote(self.reader)}")
        for column, written in (("layer", self.layers), ("position", self.positions)):
            if written is not None:
                yield Filter(f"{column} {written}", _write_spans(column, written))
        if self.where is not None:
            # The line break ends a comment the condition may end with.
            line = self.where.strip()
            yield Filter(f"where {line}", f"({line}\n)" if "--" in line else f"({line})")

    def to_sql(self) -> str:
        """Write the question in SQL."""
        conditions = "\n  AND ".join(kept.condition for kept in self.list_filters())
        lists = ", ".join(
            f"{name}[1:{self.k}] AS {name}"
            for name in ("top_tokens", "top_token_ids", "top_probabilities")
        )
        return (
            f"SELECT {', '.join(KEYS)}, position, token, layer, next_token, next_token_id,\n"
            f"  rank, probability, entropy,\n  {lists}\n"
            f"FROM lens\nWHERE {conditions}\n"
            "ORDER BY organism, prompt_set, prompt_id, sample, reader, response_id, position, layer"
        )


@dataclass(frozen=True, slots=True)
class LensAnswer:
    """
    The answer to a question to the lens.

    Attributes:
        sql: The SQL it was asked in.
        rows: One for each token and layer, in the order of the text, each with `KEYS`, `position`,
            `token`, `layer`, `next_token`, `next_token_id`, `rank`, `probability`, `entropy`,
            `top_tokens`, `top_token_ids`, `top_probabilities`.
        notes: What a reader of them should know.
    """

    sql: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...]


def look(store: Store, question: LensQuestion) -> LensAnswer:
    """
    Answer a question to the lens.

    Raises:
        QueryError: The question names what is not there, or nothing is left; the message says what
            did it.
        ReadBudgetError: It would take more multiplications than it may.
    """
    _check_names(store, question)
    _check_layers(store, question)
    sql = question.to_sql()
    result = store.sql(sql)
    rows = list(result.rows())
    if not rows:
        raise QueryError(_explain_nothing(store, question))
    return LensAnswer(sql, rows, result.notes)


def _check_names(store: Store, question: LensQuestion) -> None:
    for column in ("organism", "reader", "prompt_set", "prompt_id"):
        value = getattr(question, column)
        if value is not None:
            found = store.sql(f"SELECT DISTINCT {column} FROM responses").fetchall()
            known = [str(row[0]) for row in found]
            if value not in known:
                raise QueryError(f"no {column} {value!r}; {nearest(value, known)}")


def _check_layers(store: Store, question: LensQuestion) -> None:
    """Refuse layers no reading has."""
    if question.layers is None:
        return
    stored = sorted({layer for segment in store.snapshot.segments for layer in segment.layers})
    for first, last in _read_spans("layer", question.layers):
        if not any(first <= layer <= last for layer in stored):
            named = str(first) if first == last else f"{first}-{last}"
            raise QueryError(
                f"no layer {named} in this store; it has {', '.join(map(str, stored))}"
            )


def _explain_nothing(store: Store, question: LensQuestion) -> str:
    """Say which condition left nothing."""
    told: list[str] = []
    conditions: list[str] = []
    for kept in question.list_filters():
        conditions.append(kept.condition)
        count = f"SELECT count(*) FROM lens WHERE {' AND '.join(conditions)}"
        if not store.sql(count).fetchall()[0][0]:
            among = f" among {', '.join(told)}" if told else ""
            return f"there is no row of {kept.label}{among}"
        told.append(kept.label)
    return "there are no rows"


def _read_spans(column: str, written: str) -> Sequence[tuple[int, int]]:
    spans = []
    for item in written.split(","):
        match = _SPAN.fullmatch(item.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise QueryError(
                f"{item.strip()!r} is no {column}", mend='write numbers and spans: "2,4" or "5-20"'
            )
        spans.append((int(match[1]), int(match[2] or match[1])))
    return spans


def _write_spans(column: str, written: str) -> str:
    conditions = [
        f"{column} = {first}" if first == last else f"{column} BETWEEN {first} AND {last}"
        for first, last in _read_spans(column, written)
    ]
    return conditions[0] if len(conditions) == 1 else f"({' OR '.join(conditions)})"
