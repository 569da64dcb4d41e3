"""Reading the rows of a plan, chunk by chunk, and keeping some at hand to be shuffled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.exchange.row_plan import RowPlan, Unit
from tistore.query.readings import Ids
from tistore.schemas.site import Site
from tistore.store.chunks import Chunk
from tistore.store.segment import Segment, SiteStream

_KEPT_CHUNKS = 4
"""Of partners: two chunks of a shard are often asked for the rows of one chunk of another."""


@dataclass(frozen=True, slots=True, eq=False)
class HalfRows:
    """
    Stored activations.

    Attributes:
        values: (row, hidden) float16; the true value is `values * 2.0**exponents`.
        exponents: (row,) int16.
    """

    values: NDArray[np.float16]
    exponents: NDArray[np.int16]

    @classmethod
    def empty(cls, n_rows: int, hidden: int) -> HalfRows:
        """Make room."""
        return cls(np.empty((n_rows, hidden), np.float16), np.empty(n_rows, np.int16))

    def put(self, start: int, other: HalfRows) -> None:
        """Copy other rows in, from `start` on."""
        self.values[start : start + len(other.values)] = other.values
        self.exponents[start : start + len(other.values)] = other.exponents

    def take(self, rows: Ids) -> HalfRows:
        """Copy some rows."""
        return HalfRows(self.values[rows], self.exponents[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """
    Rows of a plan.

    Attributes:
        states: Their activations.
        partners: Those of their partners, where the plan has pairs.
        segment: For each row, the place of its segment among the plan's.
        row: Its row there.
    """

    states: HalfRows
    partners: HalfRows | None
    segment: NDArray[np.int32]
    row: Ids

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.row)

    @classmethod
    def empty(cls, n_rows: int, plan: RowPlan) -> Drawn:
        """Make room."""
        return cls(
            HalfRows.empty(n_rows, plan.hidden),
            HalfRows.empty(n_rows, plan.hidden) if plan.is_paired else None,
            np.empty(n_rows, np.int32),
            np.empty(n_rows, np.int64),
        )

    def put(self, start: int, other: Drawn) -> None:
        """Copy other rows in, from `start` on."""
        self.states.put(start, other.states)
        if self.partners is not None and other.partners is not None:
            self.partners.put(start, other.partners)
        self.segment[start : start + len(other)] = other.segment
        self.row[start : start + len(other)] = other.row

    def take(self, rows: Ids) -> Drawn:
        """Copy some rows."""
        partners = None if self.partners is None else self.partners.take(rows)
        return Drawn(self.states.take(rows), partners, self.segment[rows], self.row[rows])


class RowReader:
    """
    Reads the units of a plan.

    Args:
        segments: The snapshot's segments.
        plan: What to read.
    """

    def __init__(self, segments: Sequence[Segment], plan: RowPlan) -> None:
        self._segments = segments
        self._plan = plan
        self._buffers: dict[tuple[int, ...], NDArray[Any]] = {}
        self._streams: dict[int, tuple[SiteStream, dict[int, Chunk]]] = {}
        self._partners = _ScatteredReader(segments, plan.site)

    def read(self, unit: Unit) -> Drawn:
        """
        Read the wanted rows of a chunk, and their partners.

        Raises:
            IntegrityError: A chunk is damaged.
        """
        rows_of = self._plan.segments[unit.rows_of]
        rows = rows_of.rows(unit.start, unit.stop)
        segment = self._segments[rows_of.segment]
        if rows_of.segment not in self._streams:
            opened = segment.stream(self._plan.site)
            chunks = {chunk.start: chunk for chunk in opened.blocks()}
            self._streams[rows_of.segment] = opened, chunks
        stream, chunks = self._streams[rows_of.segment]
        values = stream.read(chunks[unit.start], self._buffers)[rows - unit.start]
        exponents = np.full(len(rows), segment.exponent(self._plan.site), np.int16)
        places = np.full(len(rows), unit.rows_of, np.int32)
        return Drawn(HalfRows(values, exponents), self._read_partners(unit, rows), places, rows)

    def _read_partners(self, unit: Unit, rows: Ids) -> HalfRows | None:
        if not self._plan.is_paired:
            return None
        rows_of = self._plan.segments[unit.rows_of]
        reading = np.searchsorted(rows_of.reading_start, rows, side="right") - 1
        there = rows + rows_of.partner_offset[reading]
        segment = rows_of.partner_segment[reading]
        partners = HalfRows.empty(len(rows), self._plan.hidden)
        for place in np.unique(segment):
            mine = np.flatnonzero(segment == place)
            self._partners.read(int(place), there[mine], partners.values, mine)
            partners.exponents[mine] = self._segments[place].exponent(self._plan.site)
        return partners


class _ScatteredReader:
    """Reads rows wherever they lie, keeping the chunks it decoded last."""

    def __init__(self, segments: Sequence[Segment], site: Site) -> None:
        self._segments = segments
        self._site = site
        self._streams: dict[int, tuple[SiteStream, list[Chunk], Ids]] = {}
        self._kept: OrderedDict[tuple[int, int], NDArray[np.float16]] = OrderedDict()

    def read(self, place: int, rows: Ids, out: NDArray[np.float16], targets: Ids) -> None:
        """Read rows of a segment into rows `targets` of `out`."""
        if place not in self._streams:
            stream = self._segments[place].stream(self._site)
            chunks = stream.blocks()
            starts = np.array([chunk.start for chunk in chunks], dtype=np.int64)
            self._streams[place] = stream, chunks, starts
        stream, chunks, starts = self._streams[place]
        chunk_of = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(chunk_of):
            here = np.flatnonzero(chunk_of == number)
            values = self._decode(place, int(number), stream, chunks[number])
            out[targets[here]] = values[rows[here] - chunks[number].start]

    def _decode(
        self, place: int, number: int, stream: SiteStream, chunk: Chunk
    ) -> NDArray[np.float16]:
        key = (place, number)
        if key not in self._kept:
            self._kept[key] = stream.read(chunk, {})  # a buffer of its own, since it is kept
            if len(self._kept) > _KEPT_CHUNKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def draw(
    reader: RowReader,
    plan: RowPlan,
    units: Sequence[Unit],
    *,
    batch_rows: int,
    buffer_chunks: int,
    shuffle: np.random.Generator | None,
) -> Iterator[Drawn]:
    """
    Walk through units, batch by batch.

    Only the rows of `buffer_chunks` units, and what is left of those before, are in memory.

    Args:
        reader: Reads them.
        plan: The plan they are of.
        units: What to read, in this order.
        batch_rows: Rows of each batch; the last may have fewer.
        buffer_chunks: How many units to read before rows are given out.
        shuffle: Mixes the rows at hand; they come in order when None.
    """
    groups = [units[at : at + buffer_chunks] for at in range(0, len(units), buffer_chunks)]
    largest = max((sum(unit.n_wanted for unit in group) for group in groups), default=0)
    # One buffer for all of them: touching new memory takes longer than filling it.
    buffer = Drawn.empty(largest + batch_rows - 1, plan)
    n_rest = 0
    for group in groups:
        n_rows = _fill(reader, group, buffer, n_rest)
        order = np.arange(n_rows) if shuffle is None else shuffle.permutation(n_rows)
        n_rest = n_rows % batch_rows
        for start in range(0, n_rows - n_rest, batch_rows):
            yield buffer.take(order[start : start + batch_rows])
        buffer.put(0, buffer.take(order[n_rows - n_rest :]))
    if n_rest:
        yield buffer.take(np.arange(n_rest))


def _fill(reader: RowReader, units: Sequence[Unit], buffer: Drawn, start: int) -> int:
    """Read units into a buffer, from row `start` on; gives the row after the last."""
    for unit in units:
        buffer.put(start, reader.read(unit))
        start += unit.n_wanted
    return start
