"""Tables as Parquet bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tistore.errors import InvalidRecordError


def build_table(schema: pa.Schema, rows: Sequence[Mapping[str, Any]], name: str) -> pa.Table:
    """
    Lay rows out as a table of the given schema.

    Raises:
        InvalidRecordError: A row has an unknown column, lacks a required one, or holds a value
            of another type.
    """
    known = set(schema.names)
    for row in rows:
        if unknown := sorted(set(row) - known):
            raise InvalidRecordError(
                f"table {name} has no column {unknown[0]!r}; it has {', '.join(schema.names)}"
            )
        for field in schema:
            if not field.nullable and row.get(field.name) is None:
                raise InvalidRecordError(f"table {name}: a row lacks {field.name!r}")
    try:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    except UnicodeEncodeError as error:
        raise InvalidRecordError(
            f"table {name}: {error.object[:40]!a} holds {error.object[error.start]!a}, half of a "
            "character",
            mend="write U+FFFD in its place, which is what a decoder makes of it",
        ) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InvalidRecordError(f"table {name}: {error}") from error


def encode_table(table: pa.Table) -> bytes:
    """Encode a table as one Parquet file: zstd, page checksums, large row groups."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=122_880,
        write_page_checksum=True,
        store_schema=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode what `encode_table` made; some of the columns, or all."""
    # The general `read_table` sets up a dataset first, which takes longer than a small file.
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(columns=columns)
