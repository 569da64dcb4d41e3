"""The rows of `lens`, put to their heads and laid out as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.errors import QueryError
from tistore.query.lens import NO_TOKEN, TOP, Floats, Seen, Wanted, rows_at_once, see
from tistore.query.lens_rows import LISTS, LensRows
from tistore.query.readings import Ids, Readings
from tistore.query.relations import LENS_COLUMNS
from tistore.schemas.head import Head
from tistore.schemas.site import Site
from tistore.store.segment import Segment
from tistore.store.snapshot import Snapshot
from tistore.store.unembedding import Unembedding

_GAP_ROWS = 64
"""Rows between two wanted ones up to which they are read together."""


def build_lens(
    rows: LensRows,
    snapshot: Snapshot,
    make_progress: Callable[[int], Callable[[int], None]],
) -> pa.Table:
    """
    Build the table of a use of `lens`, with the columns its query looks at.

    Args:
        rows: The rows.
        snapshot: Where heads are.
        make_progress: Given the bytes of unembeddings to be passed over, decoded; what it gives is
            called with those of each block.

    Returns:
        One row for each token and layer that was picked. What needs a head is NULL where the
        reader has none, and what speaks of the next token where the text ends.

    Raises:
        QueryError: A text has a token that its reader's head does not know.
        IntegrityError: States, or an unembedding, are damaged.
    """
    next_ids = _find_next(rows)
    columns = _Columns(rows, next_ids)
    of_heads = dict(_split_by_head(rows))
    passed_bytes = sum(
        4 * head.n_vocabulary * head.hidden * -(-len(places) // rows_at_once(head))
        for head, places in of_heads.items()
    )
    progress = make_progress(passed_bytes)
    for head, places in of_heads.items():
        columns.fill(snapshot.unembedding(head.head_hash), places, progress)
    wanted = [name for name in LENS_COLUMNS if name in rows.columns]
    if not wanted and not rows.table.num_columns:
        wanted = ["layer"]  # a table must have a column for its rows to be counted
    known = {name: rows.table[name] for name in rows.table.column_names}
    return pa.table(known | {name: columns.build(name) for name in wanted})


class _Columns:
    """The columns that `lens` has beyond `tokens`, filled head by head."""

    def __init__(self, rows: LensRows, next_ids: Ids) -> None:
        n_rows = len(rows.reading)
        self._rows = rows
        self._next_ids = next_ids
        wanted = set(rows.columns)
        self._wanted = Wanted(
            rank="rank" in wanted, entropy="entropy" in wanted, top=bool(LISTS & wanted)
        )
        self._next_token = np.full(n_rows, None, dtype=object)
        self._rank = np.zeros(n_rows, dtype=np.int64)
        self._logprob = np.full(n_rows, np.nan)
        self._entropy = np.full(n_rows, np.nan)
        n_top = TOP if self._wanted.top else 0
        self._n_top = np.zeros(n_rows, dtype=np.int64)
        self._top_ids = np.zeros((n_rows, n_top), dtype=np.int64)
        self._top_tokens = np.full((n_rows, n_top), None, dtype=object)
        self._top_logprobs = np.zeros((n_rows, n_top))
        self._has_head = np.zeros(n_rows, dtype=bool)

    def fill(self, unembedding: Unembedding, places: Ids, progress: Callable[[int], None]) -> None:
        """Fill the rows of one head."""
        _require_known(self._next_ids[places], unembedding.head)
        tokens: NDArray[Any] = np.zeros(0)
        if self._wanted.top or "next_token" in self._rows.columns:
            tokens = np.array([*unembedding.tokens, None], dtype=object)
        if "next_token" in self._rows.columns:
            self._next_token[places] = tokens[self._next_ids[places]]  # NO_TOKEN is the last: None
        if not self._rows.takes_products:
            return
        self._has_head[places] = True
        for some in _cut(self._rows, places, rows_at_once(unembedding.head)):
            states = _read_states(self._rows, some, unembedding.head)
            seen = see(unembedding, states, self._next_ids[some], self._wanted, progress)
            self._take(some, seen, tokens)

    def _take(self, places: Ids, seen: Seen, tokens: NDArray[Any]) -> None:
        self._rank[places] = seen.rank
        self._logprob[places] = seen.logprob
        self._entropy[places] = seen.entropy
        if self._wanted.top:
            n_top = seen.top_ids.shape[1]
            self._n_top[places] = n_top
            self._top_ids[places, :n_top] = seen.top_ids
            self._top_tokens[places, :n_top] = tokens[seen.top_ids]
            self._top_logprobs[places, :n_top] = seen.top_logprobs

    def build(self, name: str) -> pa.Array:
        """Build a column, by its name in the relation."""
        if name == "layer":
            return pa.array(self._rows.layer, pa.int32())
        if name == "next_token_id":
            return pa.array(self._next_ids, pa.int32(), mask=self._next_ids == NO_TOKEN)
        if name == "next_token":
            return pa.array(self._next_token, pa.string())
        if name == "rank":
            return pa.array(self._rank, pa.int32(), mask=self._rank == 0)
        if name == "lens_logprob":
            return pa.array(self._logprob, pa.float32(), from_pandas=True)
        if name == "probability":
            return pa.array(np.exp(self._logprob), pa.float32(), from_pandas=True)
        if name == "entropy":
            return pa.array(self._entropy, pa.float32(), from_pandas=True)
        if name == "top_token_ids":
            return self._pack(self._top_ids, pa.int32())
        if name == "top_tokens":
            return self._pack(self._top_tokens, pa.string())
        assert name == "top_probabilities", name
        return self._pack(np.exp(self._top_logprobs), pa.float32())

    def _pack(self, values: NDArray[Any], kind: pa.DataType) -> pa.Array:
        is_there = np.arange(values.shape[1]) < self._n_top[:, None]
        ends = np.concatenate([[0], np.cumsum(self._n_top)]).astype(np.int64)
        return pa.LargeListArray.from_arrays(
            pa.array(ends), pa.array(values[is_there], kind), mask=pa.array(~self._has_head)
        )


def _require_known(token_ids: Ids, head: Head) -> None:
    """Refuse tokens that a head has no row for."""
    if (largest := int(token_ids.max(initial=NO_TOKEN))) >= head.n_vocabulary:
        raise QueryError(
            f"lens: a text has the token {largest}, and its reader's head a vocabulary of "
            f"{head.n_vocabulary}",
            mend="the head of that reader is another model's: leave the reader out",
        )


def _split_by_head(rows: LensRows) -> Iterator[tuple[Head, Ids]]:
    """Give each head, with the rows that are put to it."""
    heads = list(dict.fromkeys(rows.heads))
    number = {head: place for place, head in enumerate(heads)}
    of_reading = np.array([number[head] for head in rows.heads], dtype=np.int64)
    of_row = of_reading[rows.reading]
    for head in heads:
        places = np.flatnonzero(of_row == number[head])
        if head is not None and len(places):
            yield head, places


def _find_next(rows: LensRows) -> Ids:
    """Find the token after each row's, in the whole sequence; NO_TOKEN behind the last."""
    readings = rows.extent.readings
    after = readings.first_position[rows.reading] + rows.row - readings.row_start[rows.reading] + 1
    found = np.full(len(rows.reading), NO_TOKEN, dtype=np.int64)
    segment_of = readings.segment[rows.reading]
    for place in np.unique(segment_of):
        here = np.flatnonzero(segment_of == place)
        flat, starts = _token_ids(readings.segments[place])
        local = rows.reading[here] - readings.offsets[place]
        at = starts[local] + after[here]
        is_inside = at < starts[local + 1]
        found[here[is_inside]] = flat[at[is_inside]]
    return found


def _token_ids(segment: Segment) -> tuple[Ids, Ids]:
    """Every reading's token ids, one after the other, and where each begins."""
    column = segment.table("responses", ["token_ids"])["token_ids"].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return (
        column.flatten().to_numpy(zero_copy_only=False).astype(np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def _cut(rows: LensRows, places: Ids, n_rows: int) -> Iterator[Ids]:
    """
    Cut some rows into groups, those that lie together on disk together.

    Layer by layer: which rows share a group, and with it a product, must not depend on how the
    readings are spread over segments.
    """
    segment = rows.extent.readings.segment[rows.reading[places]]
    order = np.lexsort((rows.row[places], segment, rows.layer[places]))
    for start in range(0, len(places), n_rows):
        yield places[order[start : start + n_rows]]


def _read_states(rows: LensRows, places: Ids, head: Head) -> Floats:
    """Read states in their true units: (row, hidden) float32."""
    states = np.empty((len(places), head.hidden), dtype=np.float32)
    for stretch in _list_stretches(rows.extent.readings, rows, places):
        some = rows.row[places[stretch.start : stretch.stop]]
        values = stretch.segment.read(stretch.site, int(some[0]), int(some[-1]) + 1)
        exponent = stretch.segment.exponent(stretch.site)
        states[stretch.start : stretch.stop] = np.ldexp(
            values[some - some[0]].astype(np.float32), exponent
        )
    return states


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Places whose states lie close together at one site."""

    segment: Segment
    site: Site
    start: int
    stop: int


def _list_stretches(readings: Readings, rows: LensRows, places: Ids) -> Iterator[_Stretch]:
    segment = readings.segment[rows.reading[places]]
    layer, row = rows.layer[places], rows.row[places]
    is_new = (np.diff(segment) != 0) | (np.diff(layer) != 0) | (np.diff(row) > _GAP_ROWS)
    starts = [0, *(np.flatnonzero(is_new) + 1)]
    for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
        site = Site("residual", int(layer[start]))
        yield _Stretch(readings.segments[int(segment[start])], site, int(start), int(stop))
