"""Rows as a table: on a narrow terminal in several blocks of columns, each below the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 3
"""Characters between two columns."""

_LEAST = 20
"""A wider text folds to this much before columns go to another block; numbers never fold."""

_MOST_KEYS = 2
"""Columns of texts, at the left, that are in every block."""


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of a table.

    Attributes:
        name: Its heading.
        cells: What stands below it.
        is_number: Whether cells are set to the right, and never folded.
    """

    name: str
    cells: Sequence[str]
    is_number: bool = False

    def measure(self) -> int:
        """Characters that it takes unfolded."""
        from rich.cells import cell_len

        return max(map(cell_len, (self.name, *self.cells)))

    def measure_least(self) -> int:
        """Characters that it takes at least: a heading, a number, a short text stay whole."""
        return self.measure() if self.is_number else min(self.measure(), _LEAST)


def print_columns(console: Console, columns: Sequence[Column]) -> None:
    """Print columns of equal length; those too many for a line go below, rows numbered."""
    for block in split(columns, console.width):
        _print_block(console, block)


def split(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Divide columns into blocks that fit a width, each beginning with what names its rows."""
    if _fits(columns, width) or len(columns) == 1:
        yield list(columns)
        return
    keys = [_number(len(columns[0].cells)), *_take_keys(columns)]
    if not _fits(keys, width // 2):
        keys = keys[:1]
    block = list(keys)
    for column in columns[len(keys) - 1 :]:
        if len(block) > len(keys) and not _fits([*block, column], width):
            yield block
            block = list(keys)
        block.append(column)
    yield block


def _fits(columns: Sequence[Column], width: int) -> bool:
    return sum(column.measure_least() + _GAP for column in columns) - 1 <= width


def _number(n_rows: int) -> Column:
    return Column("#", [str(row) for row in range(1, n_rows + 1)], is_number=True)


def _take_keys(columns: Sequence[Column]) -> Iterator[Column]:
    for column in columns[:_MOST_KEYS]:
        if column.is_number:
            return
        yield column


def _print_block(console: Console, columns: Sequence[Column]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    fits = _fits(columns, console.width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False)
    for column in columns:
        table.add_column(
            Text(column.name),
            justify="right" if column.is_number else "left",
            overflow="fold",
            # Where not even this fits, folded figures are better than figures cut off.
            no_wrap=fits and column.measure() == column.measure_least(),
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
