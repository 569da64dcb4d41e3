"""What a query answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """
    The rows of an answer.

    Attributes:
        table: The rows, as Arrow. Column names are unique: a second `text` is `text_1`.
        notes: What a reader of the numbers should know, such as how many readings lack a layer.
    """

    table: pa.Table
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Column names, in order."""
        return list(self.table.column_names)

    def to_arrow(self) -> pa.Table:
        """Give the rows as an Arrow table."""
        return self.table

    def to_polars(self) -> polars.DataFrame:
        """Give the rows as a polars data frame."""
        import polars

        frame = polars.from_arrow(self.table)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pandas(self) -> Any:
        """Give the rows as a pandas data frame."""
        return self.table.to_pandas()

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Give the rows as tuples."""
        return list(zip(*(column.to_pylist() for column in self.table.columns), strict=True))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the rows one by one, as dicts."""
        for batch in self.table.to_batches():
            yield from batch.to_pylist()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Walk the rows as dicts."""
        return self.rows()

    def __len__(self) -> int:
        """Count the rows."""
        return int(self.table.num_rows)


def make_unique(names: list[str]) -> list[str]:
    """Number repeated names, so that every column can be asked for: `text`, `text_1`."""
    seen: Counter[str] = Counter()
    taken = set(names)
    unique = []
    for name in names:
        chosen = name
        while seen[name] and chosen in taken:
            chosen = f"{name}_{seen[name]}"
            seen[name] += 1
        seen[name] += 1
        taken.add(chosen)
        unique.append(chosen)
    return unique
