"""Committing copies: segments and rows that another store has committed already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import pyarrow as pa

from tistore.errors import KeyConflictError, NoRoomError, StoreError
from tistore.schemas.digest import digest
from tistore.schemas.response import ResponseSlot
from tistore.schemas.tables import TABLE_KEYS
from tistore.store.base import BaseStore
from tistore.store.committing import is_disjoint
from tistore.store.copies import SegmentCopy, write_copy
from tistore.store.keys import row_content, row_key, slot_key
from tistore.store.layout import segment_folder, table_path
from tistore.store.segment_writer import write_streamed
from tistore.store.tables import encode_table
from tistore.store.unembedding import StreamedFile
from tistore.store.writer import SPARE_BYTES

Keys = dict[str, dict[str, str]]

_SLOT = ["organism", "prompt_set", "prompt_id", "sample"]


class CopyLog:
    """
    Takes copies into a store, a commit at a time, until its block ends.

    Args:
        store: Where to.
    """

    def __init__(self, store: BaseStore) -> None:
        self._store = store
        self._files = store._files
        self._committer = store.committer()

    def __enter__(self) -> Self:
        """Start a block at whose end the writer's lease is given up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease up."""
        self._committer.close()

    def commit(
        self,
        copies: Sequence[SegmentCopy] = (),
        tables: Mapping[str, pa.Table] | None = None,
        known: Mapping[str, Mapping[str, str]] | None = None,
        streamed: StreamedFile | None = None,
        gone: Collection[tuple[str, str]] = (),
    ) -> None:
        """
        Write copies and name them in the log, durably.

        Rows that are committed here already are left out; readings must not be.

        Args:
            copies: Segments to write.
            tables: Rows of tables of the log.
            known: Keys of the store that the rows are from: under each, what their content is.
            streamed: The unembedding of the one row of `heads`; left out when that is.
            gone: Keys and contents of vectors that the store the rows are from has removed. Those
                that an earlier copy brought here are removed with this commit.

        Raises:
            KeyConflictError: A key is committed here with other content; nothing was written.
            NoRoomError: The disk is too full.
            StoreError: Another process has committed some of the same in the meantime.
        """
        self._store.refresh()
        keys = collect_keys(copies)
        self._check_new(keys)
        removed = self._pick_removed(gone)
        picked = {
            name: self._pick_new(name, table, (known or {}).get(name, {}), keys, removed)
            for name, table in (tables or {}).items()
        }
        filled = {name: table for name, table in picked.items() if table.num_rows}
        if not copies and not filled and not removed:
            return
        self._check_room(copies)
        if streamed is not None:
            self._require_free(streamed.size_bytes + SPARE_BYTES)
        folders = [self._committer.new_segment()]
        is_committed = False
        try:
            segments = []
            for copy in copies:
                folders.append(self._committer.new_segment())
                segments.append(write_copy(self._files, folders[-1], copy))
            rows = [self._write_table(folders[0], name, table) for name, table in filled.items()]
            if streamed is not None and "heads" in filled:
                rows.append(write_streamed(self._files, folders[0], streamed))
            if rows:
                self._files.sync_folders([segment_folder(folders[0])])
            additions = {"segments": segments, "tables": rows, "keys": keys}
            additions |= {"removed": removed} if removed else {}
            start = self._store.snapshot
            _, is_committed = self._committer.append(
                start, additions, lambda newer: is_disjoint(additions, start, newer)
            )
        finally:
            if not is_committed:
                self._committer.abandon(folders)
        if not is_committed:
            raise StoreError(
                f"another process has committed some of the same to {self._store.path}",
                mend="run the same command again: what is there is left out",
            )
        self._store.refresh()

    def _check_new(self, keys: Keys) -> None:
        """Check that slots hold no other response, and that no reading is there yet."""
        committed = self._store.snapshot.keys
        for key, response_id in keys["slots"].items():
            if committed.get("slots", {}).get(key, response_id) != response_id:
                raise KeyConflictError(
                    f"{self._store.path} holds another response in the place of {response_id}",
                    mend="choose another destination",
                )
        if there := keys["readings"].keys() & committed.get("readings", {}).keys():
            raise KeyConflictError(f"{len(there)} readings are in {self._store.path} already")

    def _pick_removed(self, gone: Collection[tuple[str, str]]) -> Keys:
        """Keep what is still here of what was removed elsewhere."""
        committed = self._store.snapshot.keys.get("vectors", {})
        here = {key: content for key, content in gone if committed.get(key) == content}
        return {"vectors": here} if here else {}

    def _pick_new(
        self,
        name: str,
        table: pa.Table,
        known: Mapping[str, str],
        keys: Keys,
        removed: Keys,
    ) -> pa.Table:
        """Keep the rows that are not committed yet, and note the keys of those that have one."""
        if name not in TABLE_KEYS:
            return _subtract(table, self._store.snapshot.table(name))
        going = removed.get(name, {})
        committed = {
            key: content
            for key, content in self._store.snapshot.keys.get(name, {}).items()
            if key not in going
        }
        is_new = []
        for row in _without_values(table).to_pylist():
            key = row_key(name, row)
            content = known.get(key) or row_content(name, row)
            if committed.get(key, content) != content:
                named = ", ".join(str(row.get(column)) for column in TABLE_KEYS[name])
                raise KeyConflictError(
                    f"{name}: {named} is in {self._store.path} with other content",
                    mend="choose another destination",
                )
            is_new.append(key not in committed)
            if is_new[-1]:
                keys.setdefault(name, {})[key] = content
        return table.filter(pa.array(is_new, pa.bool_()))

    def _write_table(self, folder: str, name: str, table: pa.Table) -> dict[str, Any]:
        record = self._files.write_new(table_path(folder, name), [encode_table(table)])
        return {"table": name, **record.to_json(), "rows": table.num_rows}

    def _check_room(self, copies: Sequence[SegmentCopy]) -> None:
        self._require_free(sum(copy.half_bytes for copy in copies) + SPARE_BYTES)

    def _require_free(self, need: int) -> None:
        free = self._files.free_bytes()
        if free is not None and free < need:
            raise NoRoomError(
                f"this commit needs {need / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free",
                mend="free some space and run the same command again; what is committed is intact",
            )


def collect_keys(copies: Sequence[SegmentCopy]) -> Keys:
    """
    Collect the keys of readings and slots that copies commit.

    Raises:
        KeyConflictError: Two of them are the same reading.
    """
    keys: Keys = {"readings": {}, "slots": {}}
    for copy in copies:
        columns = [*_SLOT, "response_id", "reading_key", "content_hash"]
        for row in copy.responses.select(columns).to_pylist():
            if row["reading_key"] in keys["readings"]:
                raise KeyConflictError(f"reading {row['reading_key']} is copied twice")
            keys["readings"][row["reading_key"]] = row["content_hash"]
            slot = ResponseSlot(*(row[name] for name in _SLOT))
            keys["slots"][slot_key(slot)] = row["response_id"]
    return keys


def _without_values(table: pa.Table) -> pa.Table:
    """Leave out the numbers of vectors: their hash stands for them."""
    return table.drop_columns(["values"]) if "values" in table.column_names else table


def _subtract(table: pa.Table, there: pa.Table) -> pa.Table:
    """Leave out rows that are there, as often as they are."""
    counts = Counter(map(_describe, there.to_pylist()))
    is_new = []
    for row in map(_describe, table.to_pylist()):
        is_new.append(counts[row] == 0)
        counts[row] -= counts[row] > 0
    return table.filter(pa.array(is_new, pa.bool_()))


def _describe(row: dict[str, Any]) -> str:
    return digest({name: str(value) for name, value in row.items()})
