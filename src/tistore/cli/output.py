"""Print rows: data on stdout, in the format asked for; talk on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

_UNLIMITED_WIDTH = 10_000
_RECORD_WIDTH = 100
"""Of an object's names and values, where long lists are folded."""


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    MD = "md"


def say(message: str) -> None:
    """Tell the user something that is not data."""
    print(message, file=sys.stderr, flush=True)


def print_rows(rows: Sequence[dict[str, Any]], format: Format) -> None:
    """
    Print flat rows on stdout.

    Args:
        rows: Every row has the same keys, in the order of the columns.
        format: See `Format`. Parquet goes out as bytes, to be redirected to a file.
    """
    if format is Format.JSON:
        print(json.dumps([_plain(row) for row in rows], indent=2, ensure_ascii=False))
    elif format is Format.JSONL:
        for row in rows:
            print(json.dumps(_plain(row), ensure_ascii=False))
    elif format is Format.MD:
        print(_markdown(rows))
    elif format is Format.TABLE:
        _print_table(rows)
    else:
        _print_columnar(rows, format)


def print_record(record: dict[str, Any], format: Format) -> None:
    """Print one object: as JSON, or as a table of names and values."""
    if format in (Format.JSON, Format.JSONL):
        print(json.dumps(_plain(record), indent=2 if format is Format.JSON else None))
    else:
        rows = [{"name": key, "value": _show(value)} for key, value in record.items()]
        if format is Format.TABLE:
            _print_table(rows, width=_RECORD_WIDTH)
        else:
            print_rows(rows, format)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Turn values into what JSON knows; NaN, which it does not, into null."""
    return {key: _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_show(item) for item in value)
    return str(value)


def _visible(text: str) -> str:
    """Keep a cell on one line, with nothing that a terminal would act on."""
    text = text.replace("\n", "↵").replace("\t", "⇥")
    return "".join(character if character.isprintable() else "�" for character in text)


def _print_table(rows: Sequence[dict[str, Any]], width: int = _UNLIMITED_WIDTH) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        say("no rows")
        return
    # Where nobody watches, a row is a line, however long: nothing is cut, and grep finds it.
    console = Console() if sys.stdout.isatty() else Console(width=width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False)
    for name, value in rows[0].items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_visible(_show(value))) for value in row.values()))
    console.print(table)


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "(no rows)"
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [_visible(_show(value)).replace("|", "\\|") for value in row.values()] for row in rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _print_columnar(rows: Sequence[dict[str, Any]], format: Format) -> None:
    import polars as pl

    frame = pl.DataFrame(list(rows), infer_schema_length=None)
    if format is Format.CSV:
        sys.stdout.write(frame.write_csv())
    else:
        frame.write_parquet(sys.stdout.buffer)
