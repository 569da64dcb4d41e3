"""All the spans there are, to choose a list from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tistore.audit.spans.length_scale import LengthScale, measure_scale, standardise
from tistore.audit.spans.prose import is_prose
from tistore.errors import QueryError
from tistore.query.pairing import offer_any_pairing
from tistore.query.span_checks import check_names, explain_nothing, is_read_twice
from tistore.query.span_question import SpanQuestion

if TYPE_CHECKING:
    from tistore.query.store import Store

Values = NDArray[np.float64]
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pool:
    """
    Spans with their scores.

    Attributes:
        question: What they answer.
        sql: The SQL they were asked for in.
        table: A row a span, Arrow, with the columns of `SpanQuestion.to_pool_sql`.
        notes: What a reader of the scores should know.
    """

    question: SpanQuestion
    sql: str
    table: pa.Table
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the spans."""
        return int(self.table.num_rows)

    @cached_property
    def scores(self) -> Values:
        """Score of each span, (span,)."""
        return self._numbers("score", np.float64)

    @cached_property
    def n_tokens(self) -> Places:
        """Tokens of each span, (span,)."""
        return self._numbers("n_tokens", np.int64)

    @cached_property
    def organisms(self) -> tuple[list[str], Places]:
        """Names of the organisms, and the place of each span's among them."""
        return self._encode("organism")

    @cached_property
    def responses(self) -> tuple[list[str], Places]:
        """Ids of the responses, ascending, and the place of each span's among them."""
        return self._encode("response_id")

    @cached_property
    def prompts(self) -> Places:
        """A number for each span's prompt, (span,)."""
        sets, of_set = self._encode("prompt_set")
        ids, of_id = self._encode("prompt_id")
        return of_set * len(ids) + of_id

    @cached_property
    def starts(self) -> Places:
        """First token of each span, (span,); 0 for whole responses."""
        if "token_start" not in self.table.column_names:
            return np.zeros(len(self), np.int64)
        return self._numbers("token_start", np.int64)

    @cached_property
    def ends(self) -> Places:
        """One past the last token of each span, (span,); 1 for whole responses."""
        if "token_end" not in self.table.column_names:
            return np.ones(len(self), np.int64)
        return self._numbers("token_end", np.int64)

    @property
    def wordings(self) -> pa.ChunkedArray:
        """What each span says; NULL where the store holds no text."""
        return self.table["wording" if "wording" in self.table.column_names else "text"]

    def row(self, place: int) -> dict[str, Any]:
        """Give a span as `SpanQuestion.to_sql` does."""
        drop = {"wording", "n_tokens"}
        if self.question.unit.name != "clause":
            drop |= {"char_start", "char_end"}
        (row,) = self.table.slice(place, 1).to_pylist()
        return {name: value for name, value in row.items() if name not in drop}

    def take(self, mask: Mask) -> Pool:
        """Keep some spans: (span,) bool."""
        return replace(self, table=self.table.filter(pa.array(mask)))

    def standardise(self, scales: Mapping[str, LengthScale]) -> Values:
        """Tell how many deviations of its length each span lies off, (span,)."""
        return standardise(scales, *self.organisms, self.scores, self.n_tokens)

    def _numbers(self, name: str, kind: type) -> NDArray[Any]:
        return np.asarray(self.table[name].to_numpy().astype(kind))

    def _encode(self, name: str) -> tuple[list[str], Places]:
        column = self.table[name].combine_chunks()
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        order = pc.sort_indices(column.dictionary).to_numpy().astype(np.int64)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        names = column.dictionary.take(pa.array(order)).to_pylist()
        return names, places[column.indices.to_numpy().astype(np.int64)]


def read_pool(
    store: Store,
    question: SpanQuestion,
    *,
    traits: Sequence[str] = (),
    with_wording: bool = False,
    needs_text: bool = False,
) -> Pool:
    """
    Read all spans a question is about.

    Args:
        store: Where they are.
        question: What a span is, and which are looked at.
        traits: Vector references, in the place of the question's own.
        with_wording: Whether what they say is wanted, too, where the store knows it.
        needs_text: Whether it must be known of some.

    Raises:
        QueryError: The question names what is not there, there is no span, or no text.
    """
    check_names(store, question)
    sql = question.to_pool_sql(
        traits=traits,
        is_read_twice=is_read_twice(store, question),
        with_wording=with_wording and _is_put_together(question),
    )
    with offer_any_pairing():
        result = store.sql(sql)
    pool = Pool(question, sql, result.table, result.notes)
    if not len(pool):
        raise QueryError(explain_nothing(store, question))
    if needs_text and pool.wordings.null_count == len(pool):
        raise QueryError(
            "the store holds no text, and what the spans say was to be looked at",
            mend="leave out what depends on the text: near-duplicates, prose",
        )
    return pool


def _is_put_together(question: SpanQuestion) -> bool:
    """Whether spans are made of token rows, which have a text each."""
    unit = question.unit.name
    return unit in ("window", "turn") or (unit == "response" and question.rank_by != "mean")


def read_scales(
    store: Store, question: SpanQuestion, organisms: Sequence[str], longest: int
) -> dict[str, LengthScale]:
    """
    Measure how far means of n tokens stray, by organism; see `measure_scale`.

    The tokens are those of the responses the question looks at, by the same reader, less the same
    baseline.

    Args:
        store: Where they are.
        question: Whose scores.
        organisms: For which.
        longest: Longest span to come, in tokens.
    """
    with offer_any_pairing():
        table = store.sql(question.to_token_sql()).table
    trajectories: dict[str, dict[str, Values]] = {name: {} for name in organisms}
    lists = table["scores"].combine_chunks()
    values = lists.values.to_numpy(zero_copy_only=False).astype(np.float64)
    bounds = lists.offsets.to_numpy()
    # Several settings of one reader hold the same scores of a response, or none.
    for place, (organism, response) in enumerate(
        zip(table["organism"].to_pylist(), table["response_id"].to_pylist(), strict=True)
    ):
        own = values[bounds[place] : bounds[place + 1]]
        if organism in trajectories and len(own):
            trajectories[organism][response] = own
    return {name: measure_scale(list(own.values()), longest) for name, own in trajectories.items()}


def keep_prose(store: Store, pool: Pool) -> Pool:
    """
    Drop spans that are mostly headings, code, list markers or what chat templates add.

    Where the store does not know which characters of its response a span is, what it says is
    judged by itself.

    Raises:
        QueryError: No span is prose.
    """
    mask = _judge(store, pool)
    if not mask.any():
        raise QueryError("no span is prose", mend="leave --prose out")
    return pool.take(mask)


def _judge(store: Store, pool: Pool) -> Mask:
    starts, ends = pool.table["char_start"], pool.table["char_end"]
    names, codes = pool.responses
    filters = " AND ".join(kept.condition for kept in pool.question.list_reading_filters())
    texts = store.sql(
        f"SELECT response_id, text FROM {pool.question.readings} WHERE {filters}"
    ).fetchall()
    known = {name: text for name, text in texts if text is not None}
    is_placed = np.asarray(starts.is_valid()) & np.asarray(ends.is_valid())
    is_placed &= np.array([name in known for name in names])[codes]
    mask = np.zeros(len(pool), dtype=bool)
    if is_placed.any():
        place = [
            np.asarray(pc.fill_null(column, 0).to_numpy()).astype(np.int64)[is_placed]
            for column in (starts, ends)
        ]
        mask[is_placed] = is_prose(known, names, codes[is_placed], *place)
    rest = np.flatnonzero(~is_placed)
    said = {
        str(one): text or ""
        for one, text in zip(
            rest.tolist(), pool.wordings.take(pa.array(rest)).to_pylist(), strict=True
        )
    }
    sizes = np.array([len(text) for text in said.values()], np.int64)
    mask[rest] = is_prose(said, list(said), np.arange(len(rest)), np.zeros_like(rest), sizes)
    return mask
