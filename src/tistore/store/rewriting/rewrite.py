"""
Commits that replace: what they name takes the place of what is there, and nothing is overwritten.

Compacting, removing and repairing are the same thing: new segments and table files made of sound
parts of old ones, then one commit that says what takes whose place. Until it is made the store is
as it was; from then on earlier commits still mean what they did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tistore.errors import NoRoomError, RewriteConflictError
from tistore.store.committing import Committer
from tistore.store.contents import Entry
from tistore.store.copies import SegmentCopy, write_copy
from tistore.store.files import Files
from tistore.store.layout import segment_folder, table_path
from tistore.store.log import Keys, list_segment_files
from tistore.store.score_files import ScoreFolder
from tistore.store.snapshot import Snapshot
from tistore.store.tables import encode_table
from tistore.store.writer import SPARE_BYTES

ATTEMPTS = 5
"""How often a rewrite is planned anew when other processes remove or replace at the same time."""


@dataclass(frozen=True, slots=True, eq=False)
class NewSegment:
    """
    A segment that takes the place of others.

    Attributes:
        replaced: Their uuids, in the order of the store; it comes where the first of them was.
        copy: What it is made of.
    """

    replaced: tuple[str, ...]
    copy: SegmentCopy


@dataclass(frozen=True, slots=True, eq=False)
class NewTableFile:
    """
    A file of a table of the log.

    Attributes:
        table: Which table.
        rows: Its rows; with none, no file is written.
        replaced: Paths of the files whose place it takes; it is added at the end without any.
    """

    table: str
    rows: pa.Table
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """
    What one commit replaces.

    Attributes:
        operation: Why.
        segments: New segments.
        tables: New files of tables of the log.
        dropped_segments: Segments that nothing takes the place of.
        dropped_tables: Paths of table files that nothing takes the place of.
        removed: For each kind, keys that are free again, and the content they had.
    """

    operation: Literal["compact", "remove", "repair"]
    segments: Sequence[NewSegment] = ()
    tables: Sequence[NewTableFile] = ()
    dropped_segments: Sequence[str] = ()
    dropped_tables: Sequence[str] = ()
    removed: Keys = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Rewritten:
    """
    How a rewrite ended.

    Attributes:
        snapshot: The store's newest state.
        is_committed: Whether the rewrite is part of it; otherwise it has to be planned anew.
        segments: The uuids of the new segments, and what they are made of.
    """

    snapshot: Snapshot
    is_committed: bool
    segments: tuple[tuple[str, SegmentCopy], ...]


def rewrite(
    files: Files,
    committer: Committer,
    snapshot: Snapshot,
    plan: Rewrite,
) -> Rewritten:
    """
    Write what a plan says and commit it, durably.

    What other writers append meanwhile stays as it is.

    Args:
        files: The store's files.
        committer: Who commits.
        snapshot: The state the plan was made for.
        plan: What takes whose place.

    Raises:
        NoRoomError: The disk is too full; nothing was written.
        IntegrityError: What is copied is damaged.
    """
    _check_room(files, snapshot, plan)
    uuids = [committer.new_segment() for _ in plan.segments]
    folder = committer.new_segment()
    is_committed = False
    try:
        segments = [
            write_copy(files, uuid, new.copy)
            for uuid, new in zip(uuids, plan.segments, strict=True)
        ]
        tables = [_write_table(files, folder, place, new) for place, new in _list_filled(plan)]
        if tables:
            files.sync_folders([segment_folder(folder)])
        additions = _describe(plan, segments, tables)
        newest, is_committed = committer.append(
            snapshot, additions, lambda newer: _is_untouched(plan, snapshot, newer)
        )
    finally:
        if not is_committed:
            committer.abandon([*uuids, folder])
    copies = [new.copy for new in plan.segments]
    return Rewritten(newest, is_committed, tuple(zip(uuids, copies, strict=True)))


def rewrite_persistently(
    files: Files,
    committer: Committer,
    snapshot: Snapshot,
    make_plan: Callable[[Snapshot], Rewrite],
) -> Rewritten:
    """
    Rewrite, and plan anew when others have removed or replaced something in the meantime.

    Args:
        files: The store's files.
        committer: Who commits.
        snapshot: The store's newest state.
        make_plan: Plans for a state.

    Raises:
        RewriteConflictError: Others keep doing so; nothing was replaced.
    """
    for _ in range(ATTEMPTS):
        ended = rewrite(files, committer, snapshot, make_plan(snapshot))
        if ended.is_committed:
            return ended
        snapshot = ended.snapshot
    raise conflict()


def conflict() -> RewriteConflictError:
    """Say that others were quicker, again and again."""
    return RewriteConflictError(
        "other processes keep removing or replacing parts of this store",
        mend="run the same command again once they have ended",
    )


def give_up_before(committer: Committer, snapshot: Snapshot, oldest: int) -> Snapshot:
    """
    Say in the log that the commits before `oldest` cannot be opened any more.

    Args:
        committer: Who commits.
        snapshot: The store's newest state.
        oldest: The first that still can.

    Returns:
        The newest state then.
    """
    additions = {"operation": "expire", "segments": [], "tables": [], "keys": {}, "oldest": oldest}
    while snapshot.contents.oldest < oldest:
        snapshot, _ = committer.append(
            snapshot, additions, lambda newer: newer.contents.oldest < oldest
        )
    return snapshot


def take_over_scores(scores: ScoreFolder, ended: Rewritten) -> None:
    """Cache for the new segments what is cached of all that they are made of."""
    for uuid, copy in ended.segments:
        old = [extract.segment for extract in copy.extracts]
        for direction in sorted(scores.directions()):
            if not all(scores.has(direction, segment.uuid) for segment in old):
                continue
            parts = [scores.read(direction, segment.uuid, segment.n_rows) for segment in old]
            sound = [
                part[extract.rows]
                for part, extract in zip(parts, copy.extracts, strict=True)
                if part is not None
            ]
            if len(sound) == len(old):
                scores.write(direction, uuid, np.concatenate(sound))


def segment_bytes(entry: Entry) -> int:
    """Bytes of a segment's files."""
    return sum(file.size_bytes for file in list_segment_files(entry))


def _check_room(files: Files, snapshot: Snapshot, plan: Rewrite) -> None:
    """A copy is hardly ever larger than what it is made of."""
    entries = snapshot.contents.segments
    replaced = [entries[uuid] for new in plan.segments for uuid in new.replaced]
    need = sum(map(segment_bytes, replaced)) + SPARE_BYTES
    need += sum(new.rows.nbytes for new in plan.tables)
    free = files.free_bytes()
    if free is not None and free < need:
        raise NoRoomError(
            f"writing this anew needs {need / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free",
            mend="free some space and run the same command again; the old files stay until "
            "`tistore gc` removes them",
        )


def _list_filled(plan: Rewrite) -> list[tuple[int, NewTableFile]]:
    return [(place, new) for place, new in enumerate(plan.tables) if new.rows.num_rows]


def _write_table(files: Files, folder: str, place: int, new: NewTableFile) -> dict[str, Any]:
    """Write a table's file; a table may have several in one commit."""
    path = table_path(folder, f"{new.table}-{place}")
    record = files.write_new(path, [encode_table(new.rows)])
    return {"table": new.table, **record.to_json(), "rows": new.rows.num_rows}


def _describe(
    plan: Rewrite, segments: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Lay out what the commit says."""
    of_segments: dict[str, str | None] = dict.fromkeys(plan.dropped_segments)
    for new, entry in zip(plan.segments, segments, strict=True):
        of_segments |= dict.fromkeys(new.replaced, entry["uuid"])
    of_tables: dict[str, str | None] = dict.fromkeys(plan.dropped_tables)
    for one in plan.tables:
        of_tables |= dict.fromkeys(one.replaced)
    for (_, one), written in zip(_list_filled(plan), tables, strict=True):
        of_tables |= dict.fromkeys(one.replaced, written["path"])
    return {
        "operation": plan.operation,
        "needs": ["replaced"],
        "segments": segments,
        "tables": tables,
        "keys": {},
        "replaced": {"segments": of_segments, "tables": of_tables},
        "removed": plan.removed,
    }


def _is_untouched(plan: Rewrite, known: Snapshot, newer: Snapshot) -> bool:
    """
    Whether a plan still holds: nobody has removed or replaced anything since.

    Nor added to what it removes: a slot whose last reading goes may have got another one.
    """
    going = plan.removed.get("slots", {}).keys()
    return not any(
        commit.body.get("removed")
        or commit.body.get("replaced")
        or going & commit.body["keys"].get("slots", {}).keys()
        for commit in newer.commits[known.number :]
    )
