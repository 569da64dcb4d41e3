"""Print rows: data on stdout, in the format asked for; talk on stderr."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from tistore.markdown import escape, visible

if TYPE_CHECKING:
    import pyarrow as pa

    Rows: TypeAlias = "Sequence[dict[str, Any]] | pa.Table"

_HALF = re.compile(r"[\ud800-\udfff]")
_ROWS_AT_ONCE = 4096
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


def print_rows(rows: Rows, format: Format) -> None:
    """
    Print rows on stdout.

    Args:
        rows: Dicts that all have the same keys, in the order of the columns; or an Arrow table,
            which goes out as CSV and Parquet as it is, and as anything else a few rows at a time.
        format: See `Format`. Parquet goes out as bytes, to be redirected to a file.
    """
    if format is Format.JSON:
        _print_json(_walk(rows))
    elif format is Format.JSONL:
        for row in _walk(rows):
            print(json.dumps(_plain(row), ensure_ascii=False))
    elif format is Format.MD:
        print(_markdown(rows))
    elif format is Format.TABLE:
        _print_table(rows)
    else:
        _print_columnar(rows, format)


def _walk(rows: Rows) -> Iterator[dict[str, Any]]:
    if isinstance(rows, Sequence):
        yield from rows
        return
    for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
        yield from batch.to_pylist(maps_as_pydicts="lossy")


def _columns(rows: Rows) -> list[str]:
    if isinstance(rows, Sequence):
        return list(rows[0]) if rows else []
    return list(rows.column_names)


def _print_json(rows: Iterator[dict[str, Any]]) -> None:
    opening = "["
    for row in rows:
        text = json.dumps(_plain(row), indent=2, ensure_ascii=False).replace("\n", "\n  ")
        sys.stdout.write(f"{opening}\n  {text}")
        opening = ","
    print("[]" if opening == "[" else "\n]")


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
    return {_whole(str(key)): _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        # DuckDB's sums of whole numbers are decimals without places.
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list | tuple) and not hasattr(value, "nanoseconds"):
        return [_plain_value(item) for item in value]
    if isinstance(value, str):
        return _whole(value)
    if value is None or isinstance(value, int | bool):
        return value
    return _spell(value)


def _whole(text: str) -> str:
    """Put U+FFFD for half a character: JSON and names of files may hold one, no output can."""
    return _HALF.sub("\ufffd", text)


def _spell(value: Any) -> str:
    """Write what has no notation of its own in JSON: bytes in hex, times as ISO 8601 has them."""
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "nanoseconds"):  # Arrow's interval, a named tuple
        return f"{value.months} months {value.days} days {value.nanoseconds / 1e9:g} seconds"
    return str(value)


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(item)}" for key, item in value.items())
    if isinstance(value, list | tuple) and not hasattr(value, "nanoseconds"):
        return ", ".join(_show(item) for item in value)
    return _spell(value)


def _print_table(rows: Rows, width: int = _UNLIMITED_WIDTH) -> None:
    from rich.console import Console

    from tistore.cli.table import Column, print_columns

    if not len(rows):
        say("no rows")
        return
    # Where nobody watches, a row is a line, however long: nothing is cut, and grep finds it.
    console = Console() if sys.stdout.isatty() else Console(width=width)
    names = _columns(rows)
    cells: list[list[str]] = [[] for _ in names]
    firsts: list[Any] = [None] * len(names)
    for row in _walk(rows):
        for place, value in enumerate(row.values()):
            cells[place].append(visible(_show(value)))
            firsts[place] = value if firsts[place] is None else firsts[place]
    columns = zip(names, cells, firsts, strict=True)
    print_columns(
        console,
        [Column(visible(name), texts, _is_number(first)) for name, texts, first in columns],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _markdown(rows: Rows) -> str:
    if not len(rows):
        return "(no rows)"
    names = _columns(rows)
    lines = [[escape(name) for name in names], ["---"] * len(names)]
    lines += [[escape(_show(value)) for value in row.values()] for row in _walk(rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _print_columnar(rows: Rows, format: Format) -> None:
    import pyarrow as pa

    if isinstance(rows, Sequence):
        table = pa.Table.from_pylist([_encodable(row) for row in rows])
    else:
        table = rows
    if format is Format.CSV:
        if not table.num_columns:  # rows that are none have no header either
            return
        import polars as pl

        frame = pl.from_arrow(_write_out(table, _has_no_csv))
        assert isinstance(frame, pl.DataFrame)
        try:
            frame.write_csv(sys.stdout.buffer)
        except OSError as error:
            # Polars names a reader that went away, such as `head`, in words only.
            if "Broken pipe" in str(error):
                raise BrokenPipeError from None
            raise
    else:
        import pyarrow.parquet as pq

        pq.write_table(_write_out(table, pa.types.is_interval), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _encodable(row: dict[str, Any]) -> dict[str, Any]:
    return {key: _whole(value) if isinstance(value, str) else value for key, value in row.items()}


def _has_no_csv(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_nested(kind)
        or pa.types.is_interval(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _write_out(table: pa.Table, needs_words: Callable[[pa.DataType], bool]) -> pa.Table:
    """Write columns that a format has no notation for as text: lists and structs as JSON."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if needs_words(field.type):
            values = (_plain_value(value) for value in _values(table.column(place)))
            words = (
                value if value is None or isinstance(value, str)
                else json.dumps(value, ensure_ascii=False)
                for value in values
            )  # fmt: skip
            table = table.set_column(place, field.name, pa.array(words, pa.large_string()))
    return table


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    for chunk in column.chunks:
        yield from chunk.to_pylist(maps_as_pydicts="lossy")
