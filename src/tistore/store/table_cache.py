"""Columns of segments' tables that were read before, up to a limit."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import pyarrow as pa

DEFAULT_BYTES = 256 * 1024 * 1024

Key = tuple[str, str]
"""A table's path, and a column of it."""


class TableCache:
    """
    Decoded columns, the least recently used going first. Shared by all segments of a store.

    Attributes:
        limit_bytes: How much is kept.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._columns: OrderedDict[Key, pa.ChunkedArray] = OrderedDict()
        self._size_bytes = 0
        self._lock = Lock()

    def find(self, key: Key) -> pa.ChunkedArray | None:
        """Look a column up."""
        with self._lock:
            if key not in self._columns:
                return None
            self._columns.move_to_end(key)
            return self._columns[key]

    def keep(self, key: Key, column: pa.ChunkedArray) -> None:
        """Keep a column, and give up others where there is no room."""
        with self._lock:
            known = self._columns.pop(key, None)
            self._columns[key] = column
            self._size_bytes += column.nbytes - (0 if known is None else known.nbytes)
            while self._size_bytes > self.limit_bytes and len(self._columns) > 1:
                _, dropped = self._columns.popitem(last=False)
                self._size_bytes -= dropped.nbytes
