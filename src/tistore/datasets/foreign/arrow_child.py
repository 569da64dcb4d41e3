"""The process that reads Arrow and Parquet files: limited first, then frame after frame."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MEMORY_BYTES = 1536 << 20
"""Of memory that is written to; a mapped file is not."""

FRAME_BYTES = 8 << 20
"""About what is sent at once; more where a single row is larger."""

_FILE_SIGNATURE = b"ARROW1\0\0"
_PARQUET_SIGNATURE = b"PAR1"


class Refused(Exception):
    """The file is not read; the reason is the rest of the sentence "cannot read <file>: …"."""


def answer() -> None:
    """
    Read what stdin asks for, and write frames to stdout: a letter, a length, so many bytes.

    Asked for: a JSON object of `paths`, the `columns` that are wanted where they are there, and
    `limit_bytes`, the most a row may take. For each file come: `S`, its schema, once; `B`, a
    record batch, any number of times; and `E`, its end, or `R`, the reason why no more comes.
    """
    _limit()
    asked = json.loads(sys.stdin.buffer.read())
    for path in asked["paths"]:
        try:
            for tag, content in _frames(path, set(asked["columns"]), asked["limit_bytes"]):
                _send(tag, content)
            _send(b"E", b"")
        except (Refused, pa.ArrowException, OSError, MemoryError, OverflowError) as error:
            # pyarrow's MemoryError says how much it was asked for.
            reason = str(error).partition("\n")[0][:500] or type(error).__name__
            _send(b"R", reason.encode("utf-8", "replace"))
    os._exit(0)


def _frames(path: str, wanted: set[str], limit_bytes: int) -> Iterator[tuple[bytes, memoryview]]:
    schema: pa.Schema | None = None
    for batch in _batches(Path(path), wanted):
        columns = [name for name in batch.schema.names if name in wanted]
        if len(set(columns)) < len(columns):
            raise Refused("it has two columns of one name")
        batch = batch.select(columns)
        if schema is None:
            schema = batch.slice(0, 0)
            schema = _decode(schema).schema
            yield b"S", memoryview(schema.serialize())
        # Offsets, lengths and text of a file are claims, until they are checked.
        batch.validate(full=True)
        if batch.num_rows > batch.nbytes:
            raise Refused(f"it claims {batch.num_rows:,} rows in {batch.nbytes:,} bytes")
        if not batch.num_rows:
            continue
        at_once = max(1, FRAME_BYTES * batch.num_rows // batch.nbytes)
        for start in range(0, batch.num_rows, at_once):
            part = _decode(batch.slice(start, at_once))
            if part.nbytes > max(limit_bytes, 2 * FRAME_BYTES):
                raise Refused(f"a row takes {part.nbytes:,} bytes, more than the {limit_bytes:,}")
            yield b"B", memoryview(part.serialize())
    if schema is None:
        raise Refused("it holds no rows")


def _decode(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Write dictionaries out: a frame stands for itself."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            values = batch.column(place).dictionary_decode()
            batch = batch.set_column(place, field.name, values)
    return batch


def _batches(path: Path, wanted: set[str]) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as mapped:
        head = mapped.read_at(min(len(_FILE_SIGNATURE), mapped.size()), 0)
        if head.startswith(_PARQUET_SIGNATURE):
            yield from _read_parquet(mapped, wanted)
            return
        # The file format is the stream format between a signature and a table of contents.
        mapped.seek(len(_FILE_SIGNATURE) if head == _FILE_SIGNATURE else 0)
        with pa.ipc.open_stream(mapped) as stream:
            yield from stream


def _read_parquet(mapped: pa.MemoryMappedFile, wanted: set[str]) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(mapped, pre_buffer=False)
    metadata = file.metadata
    claimed = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    rows = max(1, metadata.num_rows)
    at_once = min(65536, max(1, FRAME_BYTES * rows // max(1, claimed)))
    columns = [name for name in file.schema_arrow.names if name in wanted]
    yield from file.iter_batches(at_once, columns=columns, use_threads=False)


def _send(tag: bytes, content: bytes | memoryview) -> None:
    frame = memoryview(tag + len(content).to_bytes(8, "little"))
    for piece in (frame, memoryview(content)):
        while piece:
            piece = piece[os.write(1, piece) :]


def _limit() -> None:
    for kind, most in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
