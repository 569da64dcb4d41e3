"""What waits for a writer's next commit, held against what is committed already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tistore.errors import KeyConflictError, NotStoredError
from tistore.schemas.model import Model
from tistore.schemas.response import ResponseSlot
from tistore.schemas.tables import LOG_TABLES, TABLE_KEYS
from tistore.schemas.vector import Vector
from tistore.store.files import Files
from tistore.store.keys import row_content, row_key, slot_key
from tistore.store.layout import segment_folder
from tistore.store.log import Keys
from tistore.store.reading import Reading
from tistore.store.segment_writer import write_segment, write_streamed, write_table
from tistore.store.snapshot import Snapshot
from tistore.store.unembedding import StreamedFile

Row = Mapping[str, Any]


class Batch:
    """
    Readings, rows and removals that wait for a commit.

    What is committed, or waits already, is not taken again; what contradicts it is refused.

    Attributes:
        known: The state of the store that it is held against.
        size_bytes: Bytes of float16 of its readings.
        streamed: A file too large for memory, written with the commit; None for none.

    Args:
        known: The store's newest state.
    """

    def __init__(self, known: Snapshot) -> None:
        self.known = known
        self.size_bytes = 0
        self.streamed: StreamedFile | None = None
        self._readings: dict[str, Reading] = {}
        self._responses: dict[ResponseSlot, str] = {}
        self._rows: dict[str, dict[str, Row]] = {table: {} for table in LOG_TABLES}
        self._removed: Keys = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self._readings and not any(self._rows.values())

    @property
    def n_readings(self) -> int:
        """How many readings wait."""
        return len(self._readings)

    @property
    def models(self) -> dict[str, Model]:
        """Every model by name, committed or waiting."""
        waiting = {row["name"]: Model.from_row(row) for row in self._rows["models"].values()}
        return waiting | self.known.models

    @property
    def reader_heads(self) -> dict[str, str]:
        """The head of each reader, committed or waiting."""
        waiting = self._rows["reader_heads"].values()
        return self.known.reader_heads | {row["reader"]: row["head_hash"] for row in waiting}

    def add_reading(self, reading: Reading) -> bool:
        """
        Take a reading in; False when it is committed, or waits already.

        Raises:
            KeyConflictError: Its slot holds another response, or its key another reading.
        """
        if not self._is_new(reading, self._readings):
            return False
        self._readings[reading.key] = reading
        self.size_bytes += reading.size_bytes
        self._responses[reading.slot] = reading.response_id
        return True

    def pick_new(self, table: str, rows: Iterable[Row]) -> dict[str, Row]:
        """
        Pick the rows that are neither committed nor waiting, by key; `put_rows` takes them in.

        Raises:
            KeyConflictError: The key of one of them is there with other content.
        """
        return self._new_rows(table, rows, waiting=self._rows[table])

    def put_rows(self, table: str, new: Mapping[str, Row]) -> None:
        """Take in rows that `pick_new` has picked."""
        self._rows[table].update(new)

    def drop_rows(self, table: str) -> None:
        """Forget the rows of a table."""
        self._rows[table].clear()

    def remove_vectors(self, vectors: Sequence[Vector], reason: str | None) -> None:
        """
        Take in that vectors go.

        Raises:
            NotStoredError: One of them is not in the store; none is taken in then.
        """
        committed = self.known.keys.get("vectors", {})
        for vector in vectors:
            if committed.get(vector.key) != vector.content_hash:
                raise NotStoredError(f"{vector.reference} is not in this store")
        now = datetime.now(UTC)
        for vector in vectors:
            if vector.key not in self._removed.setdefault("vectors", {}):
                self._removed["vectors"][vector.key] = vector.content_hash
                row = {
                    "table": "vectors",
                    "name": f"{vector.reference} {vector.component} {vector.position}",
                    "content": vector.content_hash,
                    "reason": reason,
                    "removed_at": now,
                }
                # Under the removed vector's own key: should another writer be first, it goes too.
                self._rows["removals"][vector.key] = row

    def count_folders(self) -> int:
        """Count the folders that `write` needs: one a shape, and one where there is no reading."""
        return len(self._group_by_shape()) or 1

    def write(self, files: Files, folders: Sequence[str]) -> dict[str, Any]:
        """
        Write it all; returns what a commit says of it.

        Args:
            files: The store's files.
            folders: New ones, one a shape; what is no reading lies in the first.
        """
        filled = {name: rows for name, rows in self._rows.items() if rows}
        segments = [
            write_segment(files, folder, group)
            for folder, group in zip(folders, self._group_by_shape(), strict=False)
        ]
        first = folders[0]
        tables = [
            {"table": name, **write_table(files, first, name, list(rows.values()))}
            for name, rows in filled.items()
        ]
        if "heads" in filled and self.streamed is not None:
            tables.append(write_streamed(files, first, self.streamed))
        if tables:
            files.sync_folders([segment_folder(first)])
        readings = self._readings.values()
        keys = {
            "readings": {reading.key: reading.content_hash for reading in readings},
            "slots": {slot_key(reading.slot): reading.response_id for reading in readings},
        }
        for name, rows in filled.items():
            if name in TABLE_KEYS:
                keys[name] = {key: row_content(name, row) for key, row in rows.items()}
        additions = {"segments": segments, "tables": tables, "keys": keys}
        return additions | ({"removed": self._removed} if self._removed else {})

    def clear(self, known: Snapshot) -> None:
        """Forget it all: it is committed, in the state given."""
        self.known = known
        self._readings.clear()
        self.size_bytes = 0
        self._responses.clear()
        self._removed = {}
        for rows in self._rows.values():
            rows.clear()

    def drop_committed(self, newer: Snapshot) -> list[KeyConflictError]:
        """Forget what another writer has committed in the meantime; tell what contradicts it."""
        self.known = newer
        conflicts: list[KeyConflictError] = []
        readings = {}
        for key, reading in self._readings.items():
            try:
                if self._is_new(reading, {}):
                    readings[key] = reading
            except KeyConflictError as error:
                conflicts.append(error)
        self._readings = readings
        self.size_bytes = sum(reading.size_bytes for reading in readings.values())
        self._drop_removed()
        for table, rows in self._rows.items():
            if table == "removals":
                continue
            new: dict[str, Row] = {}
            for row in rows.values():
                try:
                    new |= self._new_rows(table, [row], waiting={})
                except KeyConflictError as error:
                    conflicts.append(error)
            self._rows[table] = new
        return conflicts

    def _drop_removed(self) -> None:
        """Forget to remove what another writer has removed or replaced in the meantime."""
        committed = self.known.keys.get("vectors", {})
        still = {
            key: content
            for key, content in self._removed.get("vectors", {}).items()
            if committed.get(key) == content
        }
        self._removed = {"vectors": still} if still else {}
        rows = self._rows["removals"]
        self._rows["removals"] = {key: row for key, row in rows.items() if key in still}

    def _is_new(self, reading: Reading, waiting: Mapping[str, Reading]) -> bool:
        """Whether the reading is neither committed nor among those that wait."""
        committed = self.known.keys
        held = committed.get("slots", {}).get(slot_key(reading.slot))
        if held is None and waiting:
            held = self._responses.get(reading.slot)
        if held not in (None, reading.response_id):
            raise KeyConflictError(
                f"{reading.slot} is in the store with other tokens",
                mend="readings of one response share its token ids exactly; give a new text "
                "another sample number",
            )
        content = committed.get("readings", {}).get(reading.key)
        if content is None and reading.key in waiting:
            content = waiting[reading.key].content_hash
        if content not in (None, reading.content_hash):
            raise KeyConflictError(
                f"{reading} is in the store with other activations",
                mend="a reading is committed once; read with another reader name or other layers",
            )
        return content is None

    def _new_rows(
        self, table: str, rows: Iterable[Row], waiting: Mapping[str, Row]
    ) -> dict[str, Row]:
        """Pick the rows that are neither committed nor waiting, by key."""
        new: dict[str, Row] = {}
        committed = self.known.keys.get(table, {})
        removed = self._removed.get(table, {})
        for row in rows:
            key = row_key(table, row)
            held = None if key in removed else committed.get(key)
            if held is None and (same := waiting.get(key) or new.get(key)):
                held = row_content(table, same)
            if held not in (None, row_content(table, row)):
                named = ", ".join(str(row.get(column)) for column in TABLE_KEYS[table])
                raise KeyConflictError(
                    f"{table}: {named} is in the store with other content",
                    mend="give the new one another name; what is stored never changes",
                )
            if held is None:
                new[key] = row
        return new

    def _group_by_shape(self) -> list[list[Reading]]:
        """Put readings together that can share a segment, in the order they came."""
        groups: dict[tuple[Any, ...], list[Reading]] = {}
        for reading in self._readings.values():
            groups.setdefault(reading.shape, []).append(reading)
        return list(groups.values())
