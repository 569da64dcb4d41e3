"""Tables on a narrow terminal: whole numbers, nothing lost, every row named."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tistore.cli.table import Column, print_columns, split

NAMES = ("organism", "trait", "flags", "g", "q", "percentile", "worst_prompt", "spike_q", "mde")
ROW = ("flattery", "social/flattery", "mean, slope, subset:note:health", "7.446", "3.395e-10",
       "100", "demo/audit#19", "0.0008612", "0.7247")  # fmt: skip
NUMBERS = {"g", "q", "percentile", "spike_q", "mde"}


def make_columns() -> list[Column]:
    return [
        Column(name, [cell, cell], name in NUMBERS) for name, cell in zip(NAMES, ROW, strict=True)
    ]


def write(columns: list[Column], width: int) -> list[str]:
    told = StringIO()
    print_columns(Console(file=told, width=width), columns)
    return [line.rstrip() for line in told.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_number_heading_or_short_text_is_folded(width: int) -> None:
    lines = write(make_columns(), width)
    assert max(map(cell_len, lines)) <= width
    for whole in (*NAMES, *(cell for cell in ROW if len(cell) <= 20)):
        assert any(whole in line for line in lines), whole


def test_columns_that_fit_stay_in_one_table_without_row_numbers() -> None:
    lines = write(make_columns(), 200)
    assert len(lines) == 4
    assert lines[0].split() == list(NAMES)


def test_every_block_begins_with_the_row_s_number_and_what_names_it() -> None:
    blocks = list(split(make_columns(), 80))
    assert len(blocks) > 1
    assert {tuple(column.name for column in block[:3]) for block in blocks} == {
        ("#", "organism", "trait")
    }
    assert [column.name for block in blocks for column in block[3:]] == list(NAMES[2:])
    assert blocks[0][0].cells == ["1", "2"]


@given(
    st.lists(st.tuples(st.text("abc 名", min_size=1, max_size=40), st.booleans()), min_size=1),
    st.integers(1, 130),
)
def test_any_table_fits_any_width_and_keeps_every_column(
    cells: list[tuple[str, bool]], width: int
) -> None:
    columns = [Column(f"c{at}", [text], number) for at, (text, number) in enumerate(cells)]
    blocks = list(split(columns, width))
    kept = [column.name for block in blocks for column in block if column.name != "#"]
    assert set(kept) == {column.name for column in columns}
    for block in blocks:
        n_keys = 3 if len(blocks) > 1 else 0
        least = sum(column.measure_least() + 3 for column in block) - 1
        assert least <= width or len(block) <= n_keys + 1
