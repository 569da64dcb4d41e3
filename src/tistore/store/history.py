"""What the log of a store says, commit by commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tistore.store.files import FileRecord
from tistore.store.log import Commit, list_segment_files, removed_by
from tistore.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class LogEntry:
    """
    A commit, counted.

    Attributes:
        number: Its place in the log, from 1.
        created_at: When it was made, ISO 8601, UTC, by the clock of its writer.
        operation: What it did: "append", "compact", "remove", "repair", "expire"; "lost" where
            nobody can tell any more.
        writer: Who made it: the uuid of a process's writer.
        segments: Segments it wrote.
        readings: Readings it added to the store.
        tokens: Rows of the segments it wrote.
        vectors: Vectors it added.
        rows: Rows it wrote to each table of the log.
        removed: For each table, or `readings`, how many it took out of the store.
        segments_replaced: Segments that its own took the place of, or that nothing did.
        table_files_replaced: The same of files of the log's tables.
        size_bytes: What the files it wrote take.
        oldest: The oldest commit that can be opened since; 0 where it gave none up.
        can_be_opened: Whether the state at this commit can still be read.
    """

    number: int
    created_at: str
    operation: str
    writer: str
    segments: int
    readings: int
    tokens: int
    vectors: int
    rows: Mapping[str, int]
    removed: Mapping[str, int]
    segments_replaced: int
    table_files_replaced: int
    size_bytes: int
    oldest: int
    can_be_opened: bool


def describe_log(snapshot: Snapshot, oldest: int) -> tuple[LogEntry, ...]:
    """
    Count what each commit did.

    Args:
        snapshot: The state the commits lead to.
        oldest: The oldest commit that can still be opened.
    """
    return tuple(_describe(commit, oldest) for commit in snapshot.commits)


def _describe(commit: Commit, oldest: int) -> LogEntry:
    body = commit.body
    replaced = body.get("replaced", {})
    rows: Counter[str] = Counter()
    for table in body["tables"]:
        rows[table["table"]] += table["rows"]
    return LogEntry(
        number=commit.number,
        created_at=body["created_at"],
        operation=body["operation"],
        writer=body["writer"],
        segments=len(body["segments"]),
        readings=len(body["keys"].get("readings", {})),
        tokens=sum(entry["n_rows"] for entry in body["segments"]),
        vectors=len(body["keys"].get("vectors", {})),
        rows=dict(rows),
        removed={
            kind: len(entries)
            for kind, entries in removed_by(commit).items()
            if entries and kind != "slots"  # they go with the last of their readings
        },
        segments_replaced=len(replaced.get("segments", {})),
        table_files_replaced=len(replaced.get("tables", {})),
        size_bytes=sum(record.size_bytes for record in _list_files(body)),
        oldest=body.get("oldest", 0),
        can_be_opened=commit.number >= oldest,
    )


def _list_files(body: Mapping[str, Any]) -> Iterable[FileRecord]:
    for entry in body["segments"]:
        yield from list_segment_files(entry)
    yield from map(FileRecord.from_json, body["tables"])
