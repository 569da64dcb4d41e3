"""The relations SQL can name, as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.query.readings import Ids, Pairs, Readings
from tistore.schemas.tables import LOG_TABLES, SEGMENT_TABLES

READING_COLUMNS = ("response_id", "organism", "reader", "prompt_set", "prompt_id", "sample")
"""What every projectable relation says of the reading a row is of."""

_RESPONSE_COLUMNS = (
    "text", "finish_reason", "prompt_length", "n_tokens", "rows", "run_id", "reading_key",
)  # fmt: skip
_CLAUSE_COLUMNS = (
    "clause", "token_start", "token_end", "n_tokens", "char_start", "char_end", "text",
)  # fmt: skip
_TOKEN_COLUMNS = (
    "position", "token_id", "token", "role", "turn", "is_response", "clause", "logprob",
    "char_start", "char_end",
)  # fmt: skip

PLAIN_COLUMNS: dict[str, tuple[str, ...]] = {
    "responses": (*READING_COLUMNS, *_RESPONSE_COLUMNS),
    "clauses": (*READING_COLUMNS, *_CLAUSE_COLUMNS),
    "tokens": (*READING_COLUMNS, *_TOKEN_COLUMNS),
}
DIFF_OF = {"response_diffs": "responses", "clause_diffs": "clauses", "token_diffs": "tokens"}
"""Each relation of differences, and the relation whose values it takes the difference of."""

PAIR_COLUMNS = ("baseline", "pairing")
"""What a relation of differences says of the other reading: its reader, and what sets it apart."""

LONG = "scores"
"""The relation with a row for each vector and token."""

LONG_COLUMNS = ("vector", "layer", "score")
"""What it says beyond `tokens`."""

LENS = "lens"
"""The relation with a row for each token and layer: what the model would say from there."""

LENS_COLUMNS = (
    "layer", "next_token_id", "next_token", "rank", "probability", "lens_logprob", "entropy",
    "top_token_ids", "top_tokens", "top_probabilities",
)  # fmt: skip
"""What it says beyond `tokens`."""


def _with_baseline(columns: Sequence[str]) -> tuple[str, ...]:
    place = columns.index("reader") + 1
    return (*columns[:place], *PAIR_COLUMNS, *columns[place:])


PROJECTABLE: dict[str, tuple[str, ...]] = (
    PLAIN_COLUMNS
    | {diff: _with_baseline(PLAIN_COLUMNS[plain]) for diff, plain in DIFF_OF.items()}
    | {LONG: (*PLAIN_COLUMNS["tokens"], *LONG_COLUMNS)}
)
"""Columns of each relation on which `project()` works."""

OF_READINGS = PROJECTABLE | {LENS: (*PLAIN_COLUMNS["tokens"], *LENS_COLUMNS)}
"""Columns of each relation whose rows are parts of readings."""

RELATIONS: dict[str, tuple[str, ...]] = OF_READINGS | {
    name: tuple(field.name for field in schema if field.name != "values")
    for name, schema in LOG_TABLES.items()
}
"""Columns of every relation."""

READING_LEVEL: dict[str, tuple[str, ...]] = {
    name: columns
    if name in ("responses", "response_diffs")
    else tuple(column for column in columns if column in (*READING_COLUMNS, *PAIR_COLUMNS))
    for name, columns in OF_READINGS.items()
}
"""Columns that have one value for a whole reading, or pair of readings."""


def level_of(relation: str) -> str:
    """Tell what a row of a relation is a part of: one of `responses`, `clauses`, `tokens`."""
    return "tokens" if relation in (LONG, LENS) else DIFF_OF.get(relation, relation)


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """
    Token rows of readings, laid out one stretch after the other.

    A stretch lies at `start` in the rows of segment `segment`, and is `length` rows long.
    """

    segment: Ids
    start: Ids
    length: Ids

    def rows(self, offsets: NDArray[np.int64]) -> Ids:
        """Number every row, segment s beginning at offsets[s]."""
        starts = offsets[self.segment] + self.start
        if len(starts) and np.array_equal(starts[1:], (starts + self.length)[:-1]):
            # Stretches that follow on each other, as whole segments do, are one.
            return np.arange(starts[0], starts[-1] + self.length[-1])
        before = np.cumsum(self.length) - self.length
        within = np.arange(int(self.length.sum())) - np.repeat(before, self.length)
        return np.repeat(starts, self.length) + within


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """
    The rows of one relation that a query needs.

    Attributes:
        relation: Name of a projectable relation.
        readings: The snapshot's readings.
        ids: The needed readings; for differences those that count.
        baselines: For differences, the readings taken off, one for each of `ids`.
        segments: Segments that hold any of them, in order.
    """

    relation: str
    readings: Readings
    ids: Ids
    baselines: Ids | None = None

    @property
    def level(self) -> str:
        """What a row is: one of `responses`, `clauses`, `tokens`."""
        return level_of(self.relation)

    @property
    def segments(self) -> list[int]:
        """Segments that hold any of the needed readings, in order."""
        return self.readings.segments_of(self.all_ids)

    @property
    def all_ids(self) -> Ids:
        """The needed readings, baselines included."""
        return self.ids if self.baselines is None else np.concatenate([self.ids, self.baselines])

    @property
    def pairs(self) -> Pairs:
        """The needed pairs of a relation of differences."""
        assert self.baselines is not None
        return Pairs(self.ids, self.baselines)


def build_relation(extent: Extent, columns: Iterable[str]) -> pa.Table:
    """Build the table of an extent, with the given columns of the relation only."""
    wanted = [name for name in PROJECTABLE[extent.relation] if name in set(columns)]
    # A table must have a column for its rows to be counted.
    wanted = wanted or ["sample"]
    rows_of, detail = _lay_out(extent, wanted)
    readings = extent.readings.table
    arrays = {}
    for name in wanted:
        if name == "baseline":
            assert extent.baselines is not None
            arrays[name] = readings["reader"].take(pa.array(extent.baselines[rows_of]))
        elif name == "pairing":
            arrays[name] = extent.readings.pairing(extent.pairs).take(pa.array(rows_of))
        elif name in READING_COLUMNS or extent.level == "responses":
            arrays[name] = readings[name].take(pa.array(extent.ids[rows_of]))
        else:
            arrays[name] = detail[name]
    return pa.table(arrays)


def _lay_out(extent: Extent, columns: Sequence[str]) -> tuple[Ids, pa.Table]:
    """For each row, its place in the extent's ids; and the columns that only the row has."""
    if extent.level == "responses":
        return np.arange(len(extent.ids)), pa.table({})
    spans = token_spans(extent) if extent.level == "tokens" else clause_spans(extent)
    places = np.repeat(np.arange(len(extent.ids)), spans.length)
    names = [name for name in columns if name not in (*READING_COLUMNS, *PAIR_COLUMNS)]
    segments = extent.readings.segments_of(extent.ids)
    tables = [extent.readings.segments[s].table(extent.level, names) for s in segments]  # type: ignore[arg-type]
    if not tables or not names:
        return places, _EMPTY[extent.level].select(names)
    offsets = compact_offsets(extent.readings, segments, [table.num_rows for table in tables])
    encoded = pa.concat_tables(tables)
    for name in _REPETITIVE:
        if name in names:
            place = encoded.column_names.index(name)
            # One dictionary for all chunks, so that rows can be taken across them.
            unified = encoded[name].combine_chunks().dictionary_encode()
            encoded = encoded.set_column(place, name, unified)
    rows = spans.rows(offsets)
    if is_stretch(rows):
        return places, encoded.slice(int(rows[0]), len(rows))
    return places, encoded.take(pa.array(rows))


_REPETITIVE = ("token", "role")
"""Text columns of few values, which are numbered through."""

_EMPTY = {
    name: pa.table(
        {
            field.name: pa.array([], field.type).dictionary_encode()
            if field.name in _REPETITIVE
            else pa.array([], field.type)
            for field in SEGMENT_TABLES[name]
        }
    )
    for name in ("tokens", "clauses")
}


def is_stretch(rows: Ids) -> bool:
    """Whether rows follow on each other, so that they need not be picked one by one."""
    if not len(rows) or rows[-1] - rows[0] != len(rows) - 1:
        return False
    return bool((np.diff(rows) == 1).all())


def compact_offsets(
    readings: Readings, segments: Sequence[int], sizes: Sequence[int]
) -> NDArray[np.int64]:
    """For each segment, where its rows begin when only `segments` are laid end to end."""
    offsets = np.full(len(readings.segments), -1, dtype=np.int64)
    offsets[list(segments)] = np.cumsum([0, *sizes])[:-1]
    return offsets


def token_spans(extent: Extent) -> Spans:
    """Rows of the tokens of an extent's readings; of those both readings have for differences."""
    return spans_at(extent.readings, extent.ids, *shared_positions(extent))


def baseline_spans(extent: Extent) -> Spans:
    """Rows of the same tokens in the baselines."""
    return spans_at(extent.readings, extent.pairs.baseline, *shared_positions(extent))


def spans_at(readings: Readings, ids: Ids, first: Ids, stop: Ids) -> Spans:
    """Rows of stretches of positions, one stretch for each of some readings."""
    start = readings.row_start[ids] + first - readings.first_position[ids]
    return Spans(readings.segment[ids], start, stop - first)


def shared_positions(extent: Extent) -> tuple[Ids, Ids]:
    """First captured position of each reading, or pair, and one past the last."""
    readings = extent.readings
    first = readings.first_position[extent.ids]
    stop = first + readings.n_rows[extent.ids]
    if extent.baselines is not None:
        other = readings.first_position[extent.baselines]
        stop = np.minimum(stop, other + readings.n_rows[extent.baselines])
        first = np.maximum(first, other)
    return first, np.maximum(first, stop)


def audits_same_tokens(extent: Extent) -> NDArray[np.bool_]:
    """For each pair of an extent, whether both readings have as many tokens under audit."""
    n_tokens = extent.readings.n_tokens
    return np.asarray(n_tokens[extent.pairs.reader] == n_tokens[extent.pairs.baseline])


def count_rows(extent: Extent) -> int:
    """Count an extent's rows; for clauses, which are not counted without reading, too many."""
    if extent.level == "responses":
        return len(extent.ids)
    first, stop = shared_positions(extent)
    return int((stop - first).sum())


def count_unmatched(extent: Extent) -> int:
    """Token rows of either side of an extent's pairs that the other side lacks."""
    first, stop = shared_positions(extent)
    rows = extent.readings.n_rows
    return int((rows[extent.ids] + rows[extent.pairs.baseline] - 2 * (stop - first)).sum())


def clause_spans(extent: Extent) -> Spans:
    """Rows of the readings' clauses in the segments' clause tables."""
    start = np.zeros(len(extent.ids), dtype=np.int64)
    length = np.zeros(len(extent.ids), dtype=np.int64)
    segment_of = extent.readings.segment[extent.ids]
    for segment in extent.readings.segments_of(extent.ids):
        # Clauses lie in the order of their readings.
        reading = extent.readings.segments[segment].column("clauses", "reading")
        here = np.flatnonzero(segment_of == segment)
        index = extent.ids[here] - extent.readings.offsets[segment]
        start[here] = np.searchsorted(reading, index, side="left")
        length[here] = np.searchsorted(reading, index, side="right") - start[here]
    return Spans(segment_of, start, length)
