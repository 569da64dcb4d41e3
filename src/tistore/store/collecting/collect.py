"""
Taking away what a store no longer needs: `gc`.

Nothing is deleted at once, and nothing is taken that may yet be committed: what goes lies in the
trash for some days, and comes back by itself where a commit should name it after all.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tistore.errors import ConfigError
from tistore.store.collecting.garbage import (
    DAY_SECONDS,
    Action,
    Find,
    find_in_segments,
    find_lost_leases,
    find_scores,
    find_temporaries,
    spell_time,
)
from tistore.store.collecting.trash import (
    delete_folder,
    find_taken,
    give_back,
    list_batches,
    set_aside,
)
from tistore.store.committing import Committer
from tistore.store.contents import Contents
from tistore.store.files import Files, FileStatus
from tistore.store.layout import SCORES, commit_path, temporary_path
from tistore.store.leases import Lease, read_leases, take_lease
from tistore.store.rewriting.rewrite import give_up_before
from tistore.store.score_files import ScoreFile, ScoreFolder
from tistore.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Retention:
    """
    How long what was replaced or removed remains.

    Attributes:
        keep_days: States of the store that were the newest within so many days stay readable.
        keep_commits: So do the newest so many.
        trash_days: How long what was taken away lies in the trash.
    """

    keep_days: float = 7.0
    keep_commits: int | None = None
    trash_days: float = 7.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not (self.keep_days >= 0 and self.trash_days >= 0):
            raise ConfigError("days to keep something cannot be below 0")
        if self.keep_commits is not None and self.keep_commits < 1:
            raise ConfigError("the newest commit is always kept", mend="keep 1 or more")


@dataclass(frozen=True, slots=True)
class GcReport:
    """
    What `gc` found, and has done or would do.

    Attributes:
        dry_run: Nothing was touched.
        gives_up_before: Commits before this one cannot be opened any more, from now on; None
            where none of them is given up.
        finds: What is taken away, what is given back, and what is left though no commit needs it.
    """

    dry_run: bool
    gives_up_before: int | None
    finds: tuple[Find, ...]

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to be done."""
        return all(find.action == "leave" for find in self.finds)

    def size_bytes(self, action: Action) -> int:
        """What the finds with an action take together."""
        return sum(find.size_bytes for find in self.finds if find.action == action)


def look_for_garbage(
    files: Files,
    snapshot: Snapshot,
    scores: ScoreFolder,
    retention: Retention,
    now: float | None = None,
) -> GcReport:
    """
    Find what a store no longer needs, and touch nothing.

    Args:
        files: The store's files.
        snapshot: Its newest state.
        scores: Where its scores are cached.
        retention: What is to stay.
        now: Seconds since 1970; the present when left out.
    """
    moment = time.time() if now is None else now
    leases = read_leases(files, moment)
    contents = snapshot.contents
    ends = _find_ends(files, contents, retention)
    oldest = _choose_oldest(snapshot, retention, ends, moment)
    finds = [
        *_tell_taken(find_taken(files, contents.kept_files)),
        *_find_trash(files, retention, moment),
        *find_temporaries(files, moment),
        *find_in_segments(files, snapshot, oldest, leases, moment, ends),
        *_tell_scores(find_scores(scores, contents, oldest)),
        *find_lost_leases(leases),
    ]
    return GcReport(True, oldest if oldest > contents.oldest else None, tuple(finds))


def collect_garbage(
    files: Files,
    committer: Committer,
    read_newest: Callable[[], Snapshot],
    scores: ScoreFolder,
    retention: Retention,
    now: float | None = None,
) -> GcReport:
    """
    Take away what a store no longer needs.

    It may be killed at any point, and run beside writers, readers and itself.

    Args:
        files: The store's files.
        committer: Makes the commit that gives old ones up.
        read_newest: Reads the store's newest state.
        scores: Where its scores are cached.
        retention: What is to stay.
        now: Seconds since 1970; the present, by the clock of the place, when left out.
    """
    moment = _read_clock(files) if now is None else now
    # What an earlier run took and a commit needs comes first: the trash is emptied next.
    finds = _return_taken(files, read_newest().contents)
    finds += _delete(files, _find_trash(files, retention, moment))
    finds += _delete(files, find_temporaries(files, moment))
    leases = _take_leases(files, read_leases(files, moment))
    before = read_newest()  # after the leases: their writers commit nothing any more
    ends = _find_ends(files, before.contents, retention)
    oldest = _choose_oldest(before, retention, ends, moment)
    newest = give_up_before(committer, before, oldest)
    committer.confirm(newest)  # a power cut must not bring back what needs the files that go
    in_segments = find_in_segments(files, newest, oldest, leases, moment, ends)
    set_aside(files, [find.path for find in in_segments if find.action == "move to trash"])
    # A writer may have been stopped for days between the look at its lease and its commit.
    finds += [*in_segments, *_return_taken(files, read_newest().contents)]
    useless = find_scores(scores, newest.contents, oldest)
    scores.remove(useless)
    finds += [*_tell_scores(useless), *_delete(files, find_lost_leases(leases))]
    if not retention.trash_days:
        _delete(files, _find_trash(files, retention, _read_clock(files)))
    return GcReport(False, oldest if oldest > before.contents.oldest else None, tuple(finds))


def _find_ends(files: Files, contents: Contents, retention: Retention) -> dict[int, float]:
    """For each commit that has replaced something: until when the state before is readable."""
    numbers = {retired.number for retired in contents.retired if retired.files}
    statuses = {number: files.status(commit_path(number)) for number in sorted(numbers)}
    kept_seconds = retention.keep_days * DAY_SECONDS
    return {
        number: status.changed_at + kept_seconds for number, status in statuses.items() if status
    }


def _choose_oldest(
    snapshot: Snapshot, retention: Retention, ends: Mapping[int, float], now: float
) -> int:
    """Choose which commit is to be the oldest that can be opened; none is given up for nothing."""
    limit = snapshot.number + 1 - (retention.keep_commits or 1)
    due = (number for number, end in ends.items() if end <= now and number <= limit)
    return max([snapshot.contents.oldest, *due])


def _take_leases(files: Files, leases: list[Lease]) -> list[Lease]:
    """Take the leases of those that have been silent for too long; tells which leases then hold."""
    return [
        lease.renewed() if lease.state == "expired" and not take_lease(files, lease) else lease
        for lease in leases
    ]


def _tell_scores(scores: Sequence[ScoreFile]) -> list[Find]:
    if not scores:
        return []
    size = len(scores), sum(file.size_bytes for file in scores)
    return [Find(SCORES, "scores", "delete", *size, "cached for segments that are gone")]


def _tell_taken(taken: Mapping[str, FileStatus]) -> list[Find]:
    why = "it lies in the trash, and a commit needs it"
    return [
        Find(path, "taken", "give back", 1, status.size_bytes, why)
        for path, status in taken.items()
    ]


def _return_taken(files: Files, contents: Contents) -> list[Find]:
    """Give back what lies in the trash though a commit needs it."""
    taken = find_taken(files, contents.kept_files)
    give_back(files, taken)
    return _tell_taken(taken)


def _find_trash(files: Files, retention: Retention, now: float) -> list[Find]:
    finds = []
    for batch in list_batches(files):
        ends_at = batch.moved_at + retention.trash_days * DAY_SECONDS
        size = batch.n_files, batch.size_bytes
        if ends_at <= now:
            finds.append(
                Find(batch.path, "trash", "delete", *size, "it has lain there long enough")
            )
        else:
            why = "it may still be wanted"
            finds.append(Find(batch.path, "trash", "leave", *size, why, spell_time(ends_at)))
    return finds


def _delete(files: Files, finds: list[Find]) -> list[Find]:
    for find in finds:
        if find.action == "delete" and find.kind == "trash":
            delete_folder(files, find.path)
        elif find.action == "delete":
            files.remove(find.path)
    return finds


def _read_clock(files: Files) -> float:
    """
    Tell the time by the clock of the place: files say by it when they were written.

    Of a file server, and of this machine before it was set right, it may be another than ours.
    """
    path = temporary_path(f"clock-{uuid.uuid4().hex}")
    files.write_new(path, [])
    try:
        status = files.status(path)
    finally:
        files.remove(path)
    return status.changed_at if status else time.time()
