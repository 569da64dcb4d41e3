"""The rows of an unembedding: written and read a few at a time, since together they are large."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tistore.errors import IntegrityError, InvalidRecordError
from tistore.schemas.head import Head, VocabularyBlock
from tistore.schemas.tables import UNEMBEDDING
from tistore.store.files import FileRecord, Files, hash_file

TABLE = "unembedding"

_PIECE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class StreamedFile:
    """
    A file on its way into a store that is never whole in memory.

    Attributes:
        table: Table of the log it belongs to.
        n_rows: Its rows.
        size_bytes: Room it may take, at most about.
        pieces: Makes its bytes, from the start each time it is called.
    """

    table: str
    n_rows: int
    size_bytes: int
    pieces: Callable[[], Iterator[bytes]]


def stream_unembedding(
    head: Head, blocks: Callable[[], Iterable[VocabularyBlock]], weight_bytes: int = 4
) -> StreamedFile:
    """
    Prepare the file of a head's unembedding.

    Args:
        head: The head.
        blocks: Gives its rows in order, `head.block_rows` at a time.
        weight_bytes: Bytes of a weight in the model: two for bfloat16, whose lower half is zeros
            in float32 and takes nothing here.
    """
    size_bytes = head.n_vocabulary * head.hidden * weight_bytes
    return StreamedFile(TABLE, head.n_vocabulary, size_bytes, lambda: _encode(head, blocks()))


class Unembedding:
    """
    The committed unembedding of a head.

    Args:
        files: The store's files.
        record: Its file.
        head: The head.
    """

    def __init__(self, files: Files, record: FileRecord, head: Head) -> None:
        self._files = files
        self.record = record
        self.head = head
        self._is_intact = False

    def blocks(
        self, token_ids: NDArray[np.integer[Any]] | None = None
    ) -> Iterator[VocabularyBlock]:
        """
        Read the rows in order, one row group after the other.

        Args:
            token_ids: Only row groups that hold any of these; all when None.

        Raises:
            IntegrityError: The file is missing, or its bytes are not the committed ones.
        """
        columns = ["values", "bias"] if self.head.has_bias else ["values"]
        wanted = None if token_ids is None else np.unique(token_ids)
        with self._open() as file:
            for group, first, stop in _list_groups(file):
                if wanted is not None and not _any_between(wanted, first, stop):
                    continue
                table = self._decode(file, group, columns)
                values = table["values"].combine_chunks().flatten().to_numpy()
                if len(values) != (stop - first) * self.head.hidden:
                    raise IntegrityError(f"{self.record.path}: its rows are not of one width")
                bias = table["bias"].to_numpy() if self.head.has_bias else None
                yield VocabularyBlock(first, values.reshape(stop - first, -1), bias)

    @cached_property
    def tokens(self) -> list[str | None]:
        """
        The string of every token, None where the tokenizer has none.

        Raises:
            IntegrityError: The file is missing, or its bytes are not the committed ones.
        """
        with self._open() as file:
            n_groups = file.metadata.num_row_groups
            tables = [self._decode(file, group, ["token"]) for group in range(n_groups)]
        return [token for table in tables for token in table["token"].to_pylist()]

    def copied(self) -> StreamedFile:
        """
        Prepare a copy of the file, byte for byte.

        Raises:
            IntegrityError: The file is missing, or its bytes are not the committed ones.
        """
        self._require_intact()

        def pieces() -> Iterator[bytes]:
            for start in range(0, self.record.size_bytes, _PIECE_BYTES):
                yield self._files.read_range(self.record.path, start, _PIECE_BYTES)

        return StreamedFile(TABLE, self.head.n_vocabulary, self.record.size_bytes, pieces)

    def _open(self) -> pq.ParquetFile:
        self._require_intact()
        source = pa.PythonFile(_Ranges(self._files, self.record), mode="r")
        # What is changed after the file was hashed is found page by page.
        with self._translated():
            return pq.ParquetFile(source, page_checksum_verification=True)

    def _require_intact(self) -> None:
        """Check, once, that the bytes are the committed ones."""
        if self._is_intact:
            return
        if hash_file(self._files, self.record.path) != self.record.blake3:
            raise IntegrityError(
                f"{self.record.path} is damaged: its bytes are not the ones that were committed",
                mend="run `tistore verify` to see what else is; restore the file from a copy",
            )
        self._is_intact = True

    def _decode(self, file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
        with self._translated():
            return file.read_row_group(group, columns=list(columns), use_threads=False)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(
                f"{self.record.path} is damaged: {error}",
                mend="run `tistore verify` to see what else is; restore the file from a copy",
            ) from error


def _list_groups(file: pq.ParquetFile) -> Iterator[tuple[int, int, int]]:
    """Each row group, with its first token id and one past its last."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        stop = first + file.metadata.row_group(group).num_rows
        yield group, first, stop
        first = stop


def _any_between(ordered: NDArray[np.integer[Any]], first: int, stop: int) -> bool:
    place = int(np.searchsorted(ordered, first))
    return place < len(ordered) and bool(ordered[place] < stop)


def _encode(head: Head, blocks: Iterable[VocabularyBlock]) -> Iterator[bytes]:
    """
    Encode rows as one Parquet file, a row group for each block.

    Byte-stream-split puts the same byte of all weights together: the two that bfloat16 lacks are
    zeros in float32, and take next to nothing.
    """
    sink = _Drain()
    n_rows = 0
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"),
        UNEMBEDDING,
        compression="zstd",
        use_dictionary=["head_hash"],
        column_encoding={"values.list.element": "BYTE_STREAM_SPLIT"},
        write_statistics=False,
        write_page_checksum=True,
        store_schema=True,
    ) as writer:
        for block in blocks:
            if block.first != n_rows:
                raise InvalidRecordError(f"unembedding: row {n_rows} is missing")
            n_rows += len(block.values)
            writer.write_table(_build(head, block), row_group_size=len(block.values))
            yield sink.take()
    if n_rows != head.n_vocabulary:
        raise InvalidRecordError(
            f"unembedding: {n_rows} rows were given for a vocabulary of {head.n_vocabulary}"
        )
    yield sink.take()


def _build(head: Head, block: VocabularyBlock) -> pa.Table:
    n_rows, width = block.values.shape
    if width != head.hidden or not np.isfinite(block.values).all():
        raise InvalidRecordError(
            f"unembedding: rows from token {block.first} on are not {head.hidden} finite numbers"
        )
    ends = np.arange(n_rows + 1, dtype=np.int32) * width
    return pa.Table.from_arrays(
        [
            pa.array([head.head_hash] * n_rows, pa.string()),
            pa.array(np.arange(block.first, block.first + n_rows), pa.int32()),
            pa.array(block.tokens or [None] * n_rows, pa.string()),
            pa.nulls(n_rows, pa.float32())
            if block.bias is None
            else pa.array(block.bias, pa.float32()),
            pa.ListArray.from_arrays(
                ends,
                pa.array(block.values.ravel(), pa.float32()),
                type=UNEMBEDDING.field("values").type,
            ),
        ],
        schema=UNEMBEDDING,
    )


class _Drain(io.RawIOBase):
    """A file to write to, whose bytes are taken out as they come."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._taken = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting += data
        return len(data)

    def tell(self) -> int:
        return self._taken + len(self._waiting)

    def take(self) -> bytes:
        data = bytes(self._waiting)
        self._taken += len(data)
        self._waiting.clear()
        return data


class _Ranges(io.RawIOBase):
    """A committed file as Python reads files, wherever it lies."""

    def __init__(self, files: Files, record: FileRecord) -> None:
        self._files = files
        self._record = record
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._record.size_bytes}
        self._at = base[whence] + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = self._record.size_bytes - self._at
        length = left if size is None or size < 0 else min(size, left)
        data = self._files.read_range(self._record.path, self._at, length) if length > 0 else b""
        self._at += len(data)
        return data
