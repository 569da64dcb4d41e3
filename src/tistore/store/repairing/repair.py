"""
Repairing a damaged store: what can be proven is restored, what is whole is kept, the rest goes.

A reading is kept whole or not at all. What is damaged goes to the trash, never further. The steps
are made in such an order that a repair which was killed goes on when it is run again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from tistore.errors import StoreError
from tistore.store.collecting.trash import find_taken, give_back, set_aside
from tistore.store.committing import Committer
from tistore.store.contents import Entry
from tistore.store.files import Files
from tistore.store.layout import segment_folder
from tistore.store.log import Commit, list_segment_files
from tistore.store.repairing.log_repair import LogMend, mend_log
from tistore.store.repairing.plan import RepairPlan, plan_repair
from tistore.store.repairing.restore import Pieces, find_original, put_back
from tistore.store.rewriting.remove import RemovedGroup
from tistore.store.rewriting.rewrite import conflict, give_up_before, rewrite, take_over_scores
from tistore.store.score_files import ScoreFolder
from tistore.store.snapshot import Snapshot
from tistore.store.verifying.examined_log import examine_log
from tistore.store.verifying.file_check import FileCheck, count_cores
from tistore.store.verifying.verified import Checked, forget_finished_pass


@dataclass(frozen=True, slots=True)
class Mend:
    """
    What is done about one damaged file.

    Attributes:
        path: The file.
        problem: What is wrong with it.
        action: What is done, in words.
        lost: Readings of its segment that go, whichever of its files are damaged.
        kept: Readings of its segment that stay.
        is_lost_commit: Whether what a commit said is lost; nobody can tell then what that was.
    """

    path: str
    problem: str
    action: str
    lost: int = 0
    kept: int = 0
    is_lost_commit: bool = False


@dataclass(frozen=True, slots=True)
class RepairReport:
    """
    What a repair did, or would do.

    Attributes:
        mends: What is done about each damaged file; none when the store is sound.
        groups: The readings that go, as far as it can be told whose they are.
        lost_readings: How many go, of those that can be told: not what lost commits said.
        kept_readings: How many are in the store afterwards.
        commits: Commits it took.
    """

    mends: tuple[Mend, ...]
    groups: tuple[RemovedGroup, ...]
    lost_readings: int
    kept_readings: int
    commits: int

    @property
    def is_sound(self) -> bool:
        """Whether there was nothing to repair."""
        return not self.mends


def repair_log(
    root: Path, files: Files, *, dry_run: bool
) -> tuple[tuple[Mend, ...], tuple[Commit, ...]]:
    """
    Mend the log, without which nothing else can be read.

    Args:
        root: Where the store lies.
        files: Its files.
        dry_run: Only tell.

    Returns:
        What is done about each file, and the log as it is then.

    Raises:
        IntegrityError: The header is lost, or the log is put together of two.
    """
    mended = mend_log(files, examine_log(files, str(root)), str(root))
    if not dry_run:
        for mend in mended.mends:
            _apply(files, mend)
        if any(mend.is_lost for mend in mended.mends):
            forget_finished_pass(root)  # it knew commits that are gone
    mends = (
        Mend(mend.path, mend.problem, mend.action, is_lost_commit=mend.is_lost)
        for mend in mended.mends
    )
    return tuple(mends), mended.commits


def repair_files(
    root: Path,
    files: Files,
    committer: Committer | None,
    snapshot: Snapshot,
    scores: ScoreFolder,
) -> RepairReport:
    """
    Mend everything below the log.

    Args:
        root: Where the store lies.
        files: Its files.
        committer: Who commits; None to change nothing and only tell.
        snapshot: The store's newest state.
        scores: Where scores are cached; those of what stays are taken over.

    Raises:
        RewriteConflictError: Another process has removed or replaced something meanwhile.
        NoRoomError: What stays of damaged segments does not fit on the disk a second time.
    """
    check = FileCheck(root, files, Checked(root), lambda progress: None)
    troubles = dict(check.read(snapshot.kept_files, count_cores()))
    restored, view = _restore(files, snapshot, troubles, dry_run=committer is None)
    lost = {path: trouble for path, trouble in troubles.items() if path not in restored}
    # Opened anew: what was found damaged is not asked for again.
    snapshot = Snapshot(view, snapshot.commits)
    plan = plan_repair(view, snapshot, lost.keys())
    mends = (
        *(Mend(path, troubles[path], restored[path]) for path in sorted(restored)),
        *_describe(snapshot, plan, lost),
    )
    report = RepairReport(
        mends=mends,
        groups=plan.group_lost(lost),
        lost_readings=sum(one.lost for one in plan.salvaged),
        kept_readings=sum(len(one.kept) for one in plan.salvaged),
        commits=0,
    )
    if committer is None:
        return report
    before = snapshot.number
    if plan.replaces:
        ended = rewrite(files, committer, snapshot, plan.rewrite())
        if not ended.is_committed:
            raise conflict()
        take_over_scores(scores, ended)
        snapshot = ended.snapshot
    if lost:
        # Earlier commits need what is damaged: they cannot be opened any more.
        snapshot = give_up_before(committer, snapshot, snapshot.number)
        set_aside(files, [path for path in sorted(lost) if files.status(path) is not None])
    return replace(report, commits=snapshot.number - before)


def _apply(files: Files, mend: LogMend) -> None:
    if files.status(mend.path) is not None:
        set_aside(files, [mend.path])
    if mend.data is not None and not files.put_if_absent(mend.path, mend.data):
        raise StoreError(
            f"{mend.path} was written by another process meanwhile",
            mend="let no other process write to this store, then repair it again",
        )


class _AsRestored:
    """
    Files as they are once some are restored: a dry run plans with what it does not write.

    Args:
        files: The store's files.
        originals: What the files to be restored will hold.
    """

    def __init__(self, files: Files, originals: Mapping[str, Pieces]) -> None:
        self._files = files
        self._originals = originals
        self._found: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        if path not in self._originals:
            return self._files.read(path)
        if path not in self._found:
            self._found[path] = b"".join(self._originals[path]())
        return self._found[path]

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Read part of a file."""
        if path in self._originals:
            return self.read(path)[start : start + length]
        return self._files.read_range(path, start, length)

    def size(self, path: str) -> int | None:
        """Tell a file's length."""
        return len(self.read(path)) if path in self._originals else self._files.size(path)

    def __getattr__(self, name: str) -> Any:
        """Do all the rest as before."""
        return getattr(self._files, name)


def _restore(
    files: Files, snapshot: Snapshot, troubles: Collection[str], *, dry_run: bool
) -> tuple[dict[str, str], Files]:
    """Restore what can be proven; tells what was done about each file, and how to read it."""
    records = {one.path: one for one in snapshot.kept_files if one.path in troubles}
    taken = find_taken(files, records.values())
    originals: dict[str, Pieces] = {}
    if dry_run:
        originals = {
            path: partial(_read_whole, files, status.path) for path, status in taken.items()
        }
    else:
        give_back(files, taken)
    done = dict.fromkeys(taken, "given back from the trash")
    entries = _find_entries(snapshot, troubles)
    is_going_on = True
    while is_going_on:  # what is restored may be what another one is worked out from
        is_going_on = False
        for path in sorted(records.keys() - done.keys()):
            view = cast(Files, _AsRestored(files, dict(originals)))
            original = find_original(view, records[path], entries.get(path))
            if original is None:
                continue
            is_going_on = True
            done[path] = "restored, as its hash proves"
            if dry_run:
                originals[path] = original
            else:
                put_back(files, records[path], original)
    return done, cast(Files, _AsRestored(files, originals))


def _read_whole(files: Files, path: str) -> list[bytes]:
    return [files.read(path)]


def _find_entries(snapshot: Snapshot, paths: Collection[str]) -> dict[str, Entry]:
    """Find the segments that files belong to, also of those that only earlier commits have."""
    return {
        record.path: entry
        for commit in snapshot.commits
        for entry in commit.body["segments"]
        for record in list_segment_files(entry)
        if record.path in paths
    }


def _describe(snapshot: Snapshot, plan: RepairPlan, lost: Mapping[str, str]) -> Iterator[Mend]:
    """Say what is done about each file that is lost, and about each segment it touches."""
    salvaged = {
        record.path: one
        for one in plan.salvaged
        for record in list_segment_files(snapshot.contents.segments[one.segment.uuid])
    }
    for path in sorted(lost):
        if path in plan.dropped_tables:
            rows = next(files[path] for files in snapshot.contents.tables.values() if path in files)
            yield Mend(path, lost[path], f"lost, with its {rows.rows} rows of {rows.table}")
        elif (one := salvaged.get(path)) is None:
            yield Mend(path, lost[path], "lost: earlier commits that need it are given up")
        elif len(one.kept):
            action = "its segment is written anew, without readings that are damaged"
            yield Mend(path, lost[path], action, one.lost, len(one.kept))
        else:
            yield Mend(path, lost[path], "lost, with its segment", one.lost)
    for one in plan.salvaged:
        if one.is_touched and not any(record.path in lost for record in one.segment.files):
            yield Mend(
                segment_folder(one.segment.uuid),
                "has readings that another segment has, too",
                "they stay where they were written last",
                one.lost,
                len(one.kept),
            )
