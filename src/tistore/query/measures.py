"""What `project()` and its kin are worth, row by row of a relation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.errors import SqlError, VectorMismatchError
from tistore.query.readings import Ids
from tistore.query.references import Direction
from tistore.query.relations import (
    Extent,
    Spans,
    audits_same_tokens,
    baseline_spans,
    clause_spans,
    compact_offsets,
    is_stretch,
    shared_positions,
    spans_at,
    token_spans,
)
from tistore.query.scores import TokenScores
from tistore.store.segment import Segment

Measure = Literal["project", "cosine", "scaled", "centered", "trajectory"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measurement:
    """
    A column of scores.

    Attributes:
        measure: `project` is activation · unit vector. `cosine` divides each token's by the norm
            of its activation. `scaled` divides it by the mean norm over the reading's response
            tokens at that layer. `centered` takes the vector's training midpoint off it.
            `trajectory` lists the tokens' scores in the order of their positions.
        direction: The vector, and the site it is applied to.
    """

    measure: Measure
    direction: Direction

    def needs_tokens(self, level: str) -> bool:
        """Whether token scores are needed; response means do for the mean of projections."""
        return level != "responses" or self.measure in ("cosine", "trajectory")

    @property
    def needs_norms(self) -> bool:
        """Whether the norms of the tokens' activations are needed."""
        return self.measure in ("cosine", "scaled")

    def check(self, level: str) -> None:
        """
        Check that the measure has a meaning for the vector, and for rows of a level.

        Raises:
            SqlError: A list of tokens' scores is asked of a single token.
            VectorMismatchError: The vector has no midpoint, or none at the layer it is applied to.
        """
        if self.measure == "trajectory" and level == "tokens":
            raise SqlError(
                "trajectory() lists the scores of a response or a clause; a token has one score",
                mend="write project('refusal'), or list(project('refusal') ORDER BY position)",
            )
        if self.measure == "centered":
            _check_midpoint(self.direction)


def _check_midpoint(direction: Direction) -> None:
    vector, site = direction.vector, direction.site
    if vector.midpoint is None:
        raise VectorMismatchError(
            f"centered(): {vector.reference} has no midpoint between its two training sides",
            mend="extract the vector here, add it with midpoint=…, or use project()",
        )
    if site != vector.site:
        raise VectorMismatchError(
            f"centered(): {vector.reference} is applied to layer {site.layer}, but its midpoint "
            f"was measured at layer {vector.layer}",
            mend="name no other layer, or use project()",
        )


def measure_extent(
    extent: Extent, measurement: Measurement, scores: Mapping[tuple[str, str], TokenScores]
) -> pa.Array:
    """
    Compute a column of scores, row-aligned with `build_relation` of the same extent.

    A clause's value is the mean over its tokens, a response's the mean over its response tokens;
    on differences, the reader's value minus the baseline's.

    Args:
        extent: The rows.
        measurement: What to compute.
        scores: Token scores by direction key and segment, for every segment that has the site.

    Returns:
        float32 on tokens, float64 elsewhere; NULL where there is nothing to measure: the layer
        was not captured, the response is empty, or the activation has no length. A trajectory is
        a list of float32: NULL where the layer was not captured, empty where there is no token.
    """
    segments = [extent.readings.segments[place] for place in extent.segments]
    source = _Source(extent, segments, measurement, scores)
    if measurement.measure == "trajectory":
        return source.list_tokens()
    values: NDArray[np.floating]
    if extent.level == "responses":
        values = source.measure_readings()
    elif extent.level == "clauses":
        values = source.measure_clauses()
    else:
        values = source.measure_tokens()
    if measurement.measure == "centered" and extent.baselines is None:
        # On differences it is in both terms.
        values = values - np.float64(measurement.direction.vector.midpoint or 0.0)
    kind = pa.float32() if extent.level == "tokens" else pa.float64()
    return pa.array(values.astype(kind.to_pandas_dtype()), from_pandas=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    extent: Extent
    segments: Sequence[Segment]
    measurement: Measurement
    scores: Mapping[tuple[str, str], TokenScores]

    def measure_tokens(self) -> NDArray[np.floating]:
        values = self._all_token_values()
        offsets = self._offsets([segment.n_rows for segment in self.segments])
        of_reader = _pick(values, token_spans(self.extent).rows(offsets))
        if self.extent.baselines is None:
            return of_reader
        of_baseline = _pick(values, baseline_spans(self.extent).rows(offsets))
        return np.asarray(of_reader.astype(np.float64) - of_baseline)

    def measure_readings(self) -> Values:
        values = np.full(len(self.extent.readings), np.nan)
        for place, segment in zip(self.extent.segments, self.segments, strict=True):
            values[self.extent.readings.ids_in(place)] = self._reading_values(segment)
        of_reader = values[self.extent.ids]
        if self.extent.baselines is None:
            return of_reader
        of_baseline = values[self.extent.baselines]
        return np.where(audits_same_tokens(self.extent), of_reader - of_baseline, np.nan)

    def measure_clauses(self) -> Values:
        values = self._all_token_values()
        offsets = self._offsets([segment.n_rows for segment in self.segments])
        of_reader = self._clause_means(values, offsets, self.extent.ids)
        if self.extent.baselines is None:
            return of_reader
        return of_reader - self._clause_means(values, offsets, self.extent.baselines)

    def list_tokens(self) -> pa.Array:
        """Lists of token scores: of each clause, or of each reading's response tokens."""
        readings = self.extent.readings
        first, stop = shared_positions(self.extent)
        is_clause = self.extent.level == "clauses"
        places = np.arange(len(self.extent.ids))
        if is_clause:
            spans = clause_spans(self.extent)
            places = np.repeat(places, spans.length)
            clause_first, clause_stop = self._clause_positions(spans)
            first = np.maximum(first[places], clause_first)
            stop = np.maximum(first, np.minimum(stop[places], clause_stop))
        ids = self.extent.ids[places]
        of_reader = spans_at(readings, ids, first, stop)
        offsets = self._offsets([segment.n_rows for segment in self.segments])
        rows = of_reader.rows(offsets)
        values = self._all_token_values()
        scores, is_measured = values[rows].astype(np.float64), self._has_site()[ids]
        if self.extent.baselines is not None:
            baselines = self.extent.baselines[places]
            scores -= values[spans_at(readings, baselines, first, stop).rows(offsets)]
            is_measured &= self._has_site()[baselines]
        row_of = np.repeat(np.arange(len(ids)), of_reader.length)
        is_listed = is_measured[row_of]
        if not is_clause:
            is_listed &= self._is_response()[rows]
        return _pack(scores[is_listed], row_of[is_listed], is_measured)

    def _has_site(self) -> NDArray[np.bool_]:
        """For each reading of the store, whether the site was captured for it."""
        readings = self.extent.readings
        site = self.measurement.direction.site
        return np.array([s.has(site) for s in readings.segments], dtype=bool)[readings.segment]

    def _is_response(self) -> NDArray[np.bool_]:
        flags = [segment.column("tokens", "is_response") for segment in self.segments]
        return np.concatenate([np.empty(0, bool), *flags])

    def _all_token_values(self) -> NDArray[np.floating]:
        pieces = [self._token_values(segment) for segment in self.segments]
        return np.concatenate([np.empty(0, np.float32), *pieces])

    def _clause_means(self, values: NDArray[np.floating], offsets: Ids, seen_by: Ids) -> Values:
        """Mean over the tokens of the extent's clauses, as the readings `seen_by` saw them."""
        readings = self.extent.readings
        spans = clause_spans(self.extent)
        first, stop = self._clause_positions(spans)
        seen_by = np.repeat(seen_by, spans.length)
        # Where one reading of a pair lacks the last token's row, neither's counts.
        shared_first, shared_stop = shared_positions(self.extent)
        shared_first = np.repeat(shared_first, spans.length)
        first = np.maximum(first, shared_first)
        stop = np.maximum(first, np.minimum(stop, np.repeat(shared_stop, spans.length)))
        base = offsets[readings.segment[seen_by]] + readings.row_start[seen_by]
        base -= readings.first_position[seen_by]
        return _span_means(values, base + first, base + stop)

    def _clause_positions(self, spans: Spans) -> tuple[Ids, Ids]:
        readings = self.extent.readings
        places = readings.segments_of(self.extent.ids)
        columns = ["token_start", "token_end"]
        tables = [readings.segments[place].table("clauses", columns) for place in places]
        offsets = compact_offsets(readings, places, [table.num_rows for table in tables])
        rows = spans.rows(offsets)
        first, stop = (
            np.concatenate([np.empty(0, np.int64), *(table[name].to_numpy() for table in tables)])
            for name in ("token_start", "token_end")
        )
        return first.astype(np.int64)[rows], stop.astype(np.int64)[rows]

    def _offsets(self, sizes: Sequence[int]) -> Ids:
        return compact_offsets(self.extent.readings, self.extent.segments, sizes)

    def _token_values(self, segment: Segment) -> NDArray[np.floating]:
        direction = self.measurement.direction
        if not segment.has(direction.site):
            return np.full(segment.n_rows, np.nan, dtype=np.float32)
        values = self.scores[direction.key, segment.uuid]
        if not self.measurement.needs_norms:
            return values
        norms = segment.norms(direction.site).astype(np.float64)
        if self.measurement.measure == "scaled":
            norms = _response_means(segment, norms)[segment.column("tokens", "reading")]
        return _divide(values, norms)

    def _reading_values(self, segment: Segment) -> Values:
        direction = self.measurement.direction
        if not segment.has(direction.site):
            return np.full(segment.n_readings, np.nan)
        if self.measurement.measure == "cosine":
            return _response_means(segment, self._token_values(segment))
        # One by one: in a product of all, a value would depend on the rows beside it.
        values = np.asarray(np.vecdot(segment.means(direction.site), direction.vector.unit))
        if not self.measurement.needs_norms:
            return values.astype(np.float64)
        return _divide(values, _response_means(segment, segment.norms(direction.site)))


def _response_means(segment: Segment, values: NDArray[np.floating]) -> Values:
    """Mean of the values there are over each reading's response tokens; NaN where none are."""
    is_counted = segment.column("tokens", "is_response") & ~np.isnan(values)
    reading = segment.column("tokens", "reading")[is_counted]
    total = np.bincount(reading, weights=values[is_counted], minlength=segment.n_readings)
    count = np.bincount(reading, minlength=segment.n_readings)
    return _divide(np.asarray(total, dtype=np.float64), count)


def _pack(values: Values, row_of: Ids, is_there: NDArray[np.bool_]) -> pa.Array:
    """Gather values into one list a row; NULL where the row is not there."""
    ends = np.cumsum(np.bincount(row_of, minlength=len(is_there)))
    return pa.LargeListArray.from_arrays(
        pa.array(np.concatenate([[0], ends]).astype(np.int64)),
        pa.array(values.astype(np.float32)),
        mask=pa.array(~is_there),
    )


def _pick(values: NDArray[np.floating], rows: Ids) -> NDArray[np.floating]:
    """Take rows; a view of them where they lie together."""
    if is_stretch(rows):
        return values[int(rows[0]) : int(rows[-1]) + 1]
    return np.asarray(values[rows])


def _span_means(values: NDArray[np.floating], start: Ids, stop: Ids) -> Values:
    """
    Average the values there are over each span; NaN where there are none.

    Each span is summed by itself: the difference of two running sums would depend, in its last
    digits, on what lies before.
    """
    is_there = ~np.isnan(values)
    known = np.where(is_there, values, 0).astype(np.float64)
    counted = np.concatenate([[0], np.cumsum(is_there)])
    # In order, so that what lies between the spans is passed over once.
    order = np.argsort(start, kind="stable")
    edges = np.stack([start[order], stop[order]], axis=1).ravel()
    total = np.empty(len(start))
    total[order] = np.add.reduceat(np.append(known, 0.0), edges)[::2] if len(edges) else 0.0
    return _divide(total, counted[stop] - counted[start])


def _divide(values: NDArray[np.floating], by: NDArray[Any]) -> Values:
    divisor = np.asarray(by, dtype=np.float64)
    quotient = np.full(len(divisor), np.nan)
    np.divide(values, divisor, out=quotient, where=divisor != 0)
    return quotient
