"""
Merging small segments, and the small files of the log's tables, without changing any answer.

Only neighbours of one shape are merged, so that the order of rows stays what it was. Each merged
segment is a commit of its own: what an interrupted compaction has done stays done, and it never
needs more room than one segment on top of what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from tistore.schemas.tables import STREAMED_TABLES
from tistore.store.committing import Committer
from tistore.store.contents import Entry, TableFile
from tistore.store.copies import copy_whole
from tistore.store.files import Files
from tistore.store.log import list_segment_files
from tistore.store.rewriting.rewrite import (
    ATTEMPTS,
    NewSegment,
    NewTableFile,
    Rewrite,
    conflict,
    rewrite,
    segment_bytes,
    take_over_scores,
)
from tistore.store.score_files import ScoreFolder
from tistore.store.snapshot import Snapshot

TARGET_BYTES = 4 << 30
"""What a merged segment's files may hold: few files a GiB, and each still easy to move."""

_TARGET_TABLE_BYTES = 64 << 20
_MOST_ROWS = 4_000_000  # the table of a segment's tokens goes through memory whole
_NEVER_MERGED = {"heads", *STREAMED_TABLES}  # a head and its unembedding are told by their commit

Piece = TypeVar("Piece")
Group = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class CompactReport:
    """
    What compacting did, or would do.

    Attributes:
        segments_before: Segments of the store before.
        segments_after: And after.
        files_before: Files that are part of the store before, the log and the header among them.
        files_after: And after; the others stay on the disk until `gc` removes them.
        freed_bytes: Bytes of the files that `gc` may remove then.
        commits: Commits it took.
    """

    segments_before: int
    segments_after: int
    files_before: int
    files_after: int
    freed_bytes: int
    commits: int


@dataclass(frozen=True, slots=True)
class CompactProgress:
    """
    How far compacting is.

    Attributes:
        done_bytes: Bytes of files merged.
        total_bytes: Bytes of files to be merged.
    """

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Merge:
    """Neighbours that become one: segments, or files of one table."""

    segments: Group[Entry] = ()
    tables: Sequence[Group[TableFile]] = ()

    @property
    def n_files(self) -> int:
        """Files that go."""
        return sum(len(list_segment_files(entry)) for entry in self.segments) + sum(
            map(len, self.tables)
        )

    @property
    def n_new_files(self) -> int:
        """Files that come, a commit among them."""
        of_segment = len(list_segment_files(self.segments[0])) if self.segments else 0
        return of_segment + len(self.tables) + 1

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that go."""
        of_segments = sum(map(segment_bytes, self.segments))
        return of_segments + sum(file.record.size_bytes for group in self.tables for file in group)


def compact(
    files: Files,
    committer: Committer,
    snapshot: Snapshot,
    scores: ScoreFolder,
    *,
    target_bytes: int = TARGET_BYTES,
    dry_run: bool = False,
    progress: Callable[[CompactProgress], object] = lambda progress: None,
) -> CompactReport:
    """
    Merge what is small; see `BaseStore.compact`.

    Args:
        files: The store's files.
        committer: Who commits.
        snapshot: The store's newest state.
        scores: Where scores are cached; those of merged segments are taken over.
        target_bytes: What a merged segment's files may hold together.
        dry_run: Only tell.
        progress: Told after each commit.
    """
    before = snapshot
    plan = _plan(snapshot, target_bytes)
    if dry_run:
        return _report(before, plan)
    done: list[_Merge] = []
    for _ in range(ATTEMPTS):
        total = sum(merge.size_bytes for merge in (*done, *plan))
        for merge in plan:
            ended = rewrite(files, committer, snapshot, _lay_out(snapshot, merge))
            snapshot = ended.snapshot
            if not ended.is_committed:
                break
            take_over_scores(scores, ended)
            done.append(merge)
            progress(CompactProgress(sum(one.size_bytes for one in done), total))
        else:
            return _report(before, done)
        plan = _plan(snapshot, target_bytes)
    raise conflict()


def _plan(snapshot: Snapshot, target_bytes: int) -> list[_Merge]:
    """Find what to merge: all tables with one commit, each segment with its own."""
    tables = [
        group
        for name, there in sorted(snapshot.contents.tables.items())
        if name not in _NEVER_MERGED
        for group in _pack(
            there.values(),
            shape=lambda file: "",
            size=lambda file: file.record.size_bytes / _TARGET_TABLE_BYTES,
        )
    ]
    segments = _pack(
        snapshot.contents.segments.values(),
        shape=_describe_shape,
        size=lambda entry: max(segment_bytes(entry) / target_bytes, entry["n_rows"] / _MOST_ROWS),
    )
    of_tables = [_Merge(tables=tables)] if tables else []
    return of_tables + [_Merge(segments=group) for group in segments]


def _pack(
    pieces: Iterable[Piece], shape: Callable[[Piece], str], size: Callable[[Piece], float]
) -> list[Group[Piece]]:
    """Group neighbours of one shape that together are no larger than 1; only two or more."""
    groups: list[list[Piece]] = []
    filled, shape_before = 1.0, None
    for piece in pieces:
        # What is half as large as wanted is left alone: to write it again would gain little.
        is_small = size(piece) < 0.5
        if is_small and shape(piece) == shape_before and filled + size(piece) <= 1:
            groups[-1].append(piece)
            filled += size(piece)
        else:
            groups.append([piece])
            filled, shape_before = (size(piece), shape(piece)) if is_small else (1.0, None)
    return [tuple(group) for group in groups if len(group) > 1]


def _describe_shape(entry: Entry) -> str:
    """What segments must have in common to be merged."""
    arrays = {
        name: [array["shape"][1:], array.get("exponents")]
        for name, array in entry["arrays"].items()
    }
    scores = sorted(entry.get("scores", ()))
    return json.dumps([entry["layers"], entry["components"], arrays, scores], sort_keys=True)


def _lay_out(snapshot: Snapshot, merge: _Merge) -> Rewrite:
    tables = [
        NewTableFile(
            group[0].table,
            _join([snapshot.live_rows(file) for file in group]),
            tuple(file.record.path for file in group),
        )
        for group in merge.tables
    ]
    wanted = {entry["uuid"] for entry in merge.segments}
    found = [segment for segment in snapshot.segments if segment.uuid in wanted]
    segments = (
        [NewSegment(tuple(segment.uuid for segment in found), copy_whole(found))] if found else []
    )
    return Rewrite("compact", segments=segments, tables=tables)


def _join(tables: Sequence[pa.Table]) -> pa.Table:
    """Join files of a table; columns that older ones lack are NULL."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def _report(before: Snapshot, merges: Sequence[_Merge]) -> CompactReport:
    n_segments, n_files = len(before.segments), len(before.files) + before.number + 1
    gone = sum(merge.n_files for merge in merges)
    new = sum(merge.n_new_files for merge in merges)
    return CompactReport(
        segments_before=n_segments,
        segments_after=n_segments - sum(max(len(merge.segments) - 1, 0) for merge in merges),
        files_before=n_files,
        files_after=n_files - gone + new,
        freed_bytes=sum(merge.size_bytes for merge in merges),
        commits=len(merges),
    )
