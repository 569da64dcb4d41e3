"""
A relation too large for memory, given to DuckDB piece by piece.

DuckDB asks a dataset for the columns and the filter it has need of; a few readings at a time are
laid out, filtered and handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tistore.query.relations import Extent

BuildTable = Callable[[Extent, Sequence[str]], pa.Table]
"""Lays out some columns of a part of the relation."""


class StreamedRelation(ds.Dataset):  # type: ignore[misc]  # pyarrow ships no types
    """
    A relation as DuckDB can scan it, any number of times.

    Args:
        extent: Its rows.
        columns: Its columns.
        build: Lays out a part of it.
        piece_rows: About how many rows are laid out at a time.
    """

    def __init__(
        self, extent: Extent, columns: Sequence[str], build: BuildTable, piece_rows: int
    ) -> None:
        # pyarrow's own initialiser makes a dataset of files; DuckDB needs `schema` and `scanner`.
        self._extent = extent
        self._build = build
        self._piece_rows = piece_rows
        self._columns = list(columns)
        self._schema = spell_out(build(_take(extent, slice(0, 0)), self._columns)).schema

    @property
    def schema(self) -> pa.Schema:
        """Every column."""
        return self._schema

    def scanner(
        self, columns: Sequence[str] | None = None, filter: Any = None, **options: Any
    ) -> ds.Scanner:
        """
        Scan some columns of the rows that meet a filter.

        Args:
            columns: Those wanted, in order; all when None.
            filter: pyarrow expression, which nobody applies again.
            options: Of batch size and threads; they do not change what is given.
        """
        wanted = set(self._columns if columns is None else columns)
        # An expression does not say which columns it is about, but it spells their names.
        spelled = "" if filter is None else str(filter)
        needed = [name for name in self._columns if name in wanted or name in spelled]
        schema = pa.schema([self._schema.field(name) for name in needed or self._columns[:1]])
        return ds.Scanner.from_batches(
            self._batches(schema), schema=schema, columns=columns, filter=filter
        )

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for piece in cut_extent(self._extent, self._piece_rows):
            table = spell_out(self._build(piece, schema.names))
            yield from table.select(schema.names).cast(schema).to_batches()


def cut_extent(extent: Extent, piece_rows: int) -> Iterator[Extent]:
    """Cut an extent between readings, so that the pieces have about as many rows as wanted."""
    sizes = extent.readings.n_rows[extent.ids]
    place_of = np.cumsum(sizes) // max(1, piece_rows)
    starts = np.flatnonzero(np.diff(place_of, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(extent.ids)], strict=True):
        yield _take(extent, slice(int(start), int(stop)))


def _take(extent: Extent, part: slice) -> Extent:
    baselines = None if extent.baselines is None else extent.baselines[part]
    return replace(extent, ids=extent.ids[part], baselines=baselines)


def spell_out(table: pa.Table) -> pa.Table:
    """Spell text out: pieces with dictionaries of their own cannot follow on each other."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = table[place].cast(field.type.value_type)
            table = table.set_column(place, field.name, plain)
    return table
