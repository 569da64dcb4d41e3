"""Every reading of a snapshot, and the pairs of readings of the same response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.schemas.model import Difference, Model, compare_models
from tistore.schemas.tables import RESPONSES
from tistore.store.segment import Segment

_PLACES = ("row_start", "n_rows", "first_position")
_COLUMNS = [name for name in RESPONSES.names if name not in ("token_ids", "n_underflow")]

Ids = NDArray[np.int64]

SAME = "same"
"""The pairing of readers that differ in their weights only."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """
    Readings of the same response by two readers, in both orders.

    Attributes:
        reader: Reading whose values count.
        baseline: Reading whose values are taken off.
    """

    reader: Ids
    baseline: Ids

    def take(self, places: Ids) -> Pairs:
        """Keep some of the pairs."""
        return Pairs(self.reader[places], self.baseline[places])


class Readings:
    """
    The readings of some segments, numbered through in the segments' order.

    Args:
        segments: The snapshot's segments.
        find_models: Gives the store's models by name; called when readers are compared.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        find_models: Callable[[], Mapping[str, Model]] = dict,
    ) -> None:
        self.segments = tuple(segments)
        self._find_models = find_models
        tables = [segment.table("responses", _COLUMNS) for segment in segments]
        whole = pa.concat_tables([_EMPTY, *tables]).combine_chunks()
        self.table = pa.table(
            {name: _compress(whole[name]) for name in whole.column_names if name not in _PLACES}
        )
        self.segment: Ids = np.repeat(
            np.arange(len(tables)), [table.num_rows for table in tables]
        ).astype(np.int64)
        self.row_start: Ids = whole["row_start"].to_numpy().astype(np.int64)
        self.n_rows: Ids = whole["n_rows"].to_numpy().astype(np.int64)
        self.first_position: Ids = whole["first_position"].to_numpy().astype(np.int64)
        self.n_tokens: Ids = whole["n_tokens"].to_numpy().astype(np.int64)
        sizes = [table.num_rows for table in tables]
        self.offsets: Ids = np.cumsum([0, *sizes]).astype(np.int64)

    def __len__(self) -> int:
        """Count the readings."""
        return len(self.segment)

    def segments_of(self, ids: Ids) -> list[int]:
        """List the segments some readings lie in, in order."""
        return [int(place) for place in np.unique(self.segment[ids])]

    def ids_in(self, segment: int) -> Ids:
        """List the readings of one segment."""
        return np.arange(self.offsets[segment], self.offsets[segment + 1])

    def codes(self, column: str) -> NDArray[np.int64]:
        """Number the values of a text column: equal values, equal numbers."""
        indices = self.table[column].combine_chunks().indices
        return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)

    def describe(self, reading: int) -> str:
        """Name a reading as error messages do."""
        row: dict[str, Any] = self.table.slice(reading, 1).to_pylist()[0]
        return (
            f"{row['organism']} on {row['prompt_set']}#{row['prompt_id']}, "
            f"sample {row['sample']}, read by {row['reader']}"
        )

    def compare(self, reader: str, baseline: str) -> tuple[Difference, ...]:
        """List what two readers differ in besides their weights, as far as it is known."""
        models = self._find_models()
        return compare_models(
            models.get(reader) or Model(reader), models.get(baseline) or Model(baseline)
        )

    def name_pairs(self, pairs: Pairs) -> tuple[list[tuple[str, str]], Ids]:
        """Name the readers and baselines of some pairs, each two once, and each pair's place."""
        reader = self.codes("reader")
        names = self.table["reader"].combine_chunks().dictionary.to_pylist()
        both = reader[pairs.reader] * len(names) + reader[pairs.baseline]
        distinct, places = np.unique(both, return_inverse=True)
        named = [(names[code // len(names)], names[code % len(names)]) for code in distinct]
        return named, places

    def pairing(self, pairs: Pairs) -> pa.Array:
        """For each pair, "same", or the names of what its readers differ in."""
        names, places = self.name_pairs(pairs)
        told = pa.array([name_pairing(self.compare(*both)) for both in names], pa.string())
        return told.take(pa.array(places)).dictionary_encode()

    @cached_property
    def pairs(self) -> Pairs:
        """
        Pair each reading with those of the same response by other readers.

        Where a reader has read a response under several capture settings, readings of equal
        settings are paired, and the others only where there is no such pair.
        """
        response, reader = self.codes("response_id"), self.codes("reader")
        order = np.argsort(response, kind="stable")
        ends = np.flatnonzero(np.diff(response[order], append=-1)) + 1
        left: list[Ids] = []
        right: list[Ids] = []
        for group in np.split(order, ends[:-1]):
            if len(group) > 1:
                first, second = (side.ravel() for side in np.meshgrid(group, group, indexing="ij"))
                is_pair = reader[first] != reader[second]
                left.append(first[is_pair])
                right.append(second[is_pair])
        if not left:
            return Pairs(np.empty(0, np.int64), np.empty(0, np.int64))
        return self._prefer_equal_settings(Pairs(np.concatenate(left), np.concatenate(right)))

    def _prefer_equal_settings(self, pairs: Pairs) -> Pairs:
        settings, reader = self.codes("settings_hash"), self.codes("reader")
        response = self.codes("response_id")
        is_equal = settings[pairs.reader] == settings[pairs.baseline]
        if is_equal.all():
            return pairs
        names = np.stack([response[pairs.reader], reader[pairs.reader], reader[pairs.baseline]])
        _, name = np.unique(names, axis=1, return_inverse=True)
        name = name.reshape(-1)
        has_equal = np.bincount(name, weights=is_equal) > 0
        return pairs.take(np.flatnonzero(is_equal | ~has_equal[name]))


def name_pairing(differences: Sequence[Difference]) -> str:
    """Name what the readers of a pair differ in, as the column `pairing` does."""
    return ", ".join(found.aspect for found in differences) or SAME


_EMPTY = pa.schema([RESPONSES.field(name) for name in _COLUMNS]).empty_table()


def _compress(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.dictionary_encode() if pa.types.is_string(column.type) else column
