"""What in a store nobody needs any more, and what only looks like it: found, not touched."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from tistore.store.committing import WRITER_DIGITS
from tistore.store.contents import Contents
from tistore.store.files import TEMPORARY, Files, FileStatus
from tistore.store.layout import COMMITS, SEGMENTS, folder_of, lease_path, segment_of, table_path
from tistore.store.leases import EXPIRY_SECONDS, Lease
from tistore.store.score_files import ScoreFile, ScoreFolder
from tistore.store.snapshot import Snapshot

DAY_SECONDS = 86_400.0
_UNFINISHED_SECONDS = EXPIRY_SECONDS
_TEMPORARY_SECONDS = DAY_SECONDS

Kind = Literal["unfinished", "replaced", "scores", "temporary", "trash", "lease", "taken", "alien"]
Action = Literal["move to trash", "delete", "give back", "leave"]

_UUID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Find:
    """
    Something that `gc` takes away, gives back, or deliberately leaves.

    Attributes:
        path: A file, or a folder with everything in it; relative to the store.
        kind: `unfinished`: no commit names it. `replaced`: only older commits need it. `scores`:
            cached ones of what is gone. `temporary`, `trash` and `lease` are what they are called.
            `taken`: it lies in the trash, and a commit needs it. `alien`: no writer has put it
            there.
        action: What is to be done about it.
        files: How many files it is.
        size_bytes: What they take.
        why: Why that is done, or why nothing is.
        until: Of what is left, when it may go; ISO 8601, UTC. None where nobody can tell.
    """

    path: str
    kind: Kind
    action: Action
    files: int
    size_bytes: int
    why: str
    until: str | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is to be done about a file, and why; equal ones can be told of together."""

    kind: Kind
    action: Action
    why: str
    until: str | None = None


def find_in_segments(
    files: Files,
    snapshot: Snapshot,
    oldest: int,
    leases: Sequence[Lease],
    now: float,
    ends: Mapping[int, float],
) -> list[Find]:
    """
    Find what lies below `segments/` without being needed by a commit.

    Args:
        files: The store's files.
        snapshot: The newest state.
        oldest: The oldest commit that is to remain readable.
        leases: Every lease there is, read before the log was.
        now: The present, by the clock of the place.
        ends: For commits that have replaced something, until when the state before is readable.
    """
    statuses = files.walk(SEGMENTS)
    judge = _Judge(snapshot, oldest, leases, now, ends, _newest_changes(statuses))
    return list(_tell_together(statuses, judge))


def find_temporaries(files: Files, now: float) -> list[Find]:
    """Find files that were being written beside the commits, or the header."""
    found = []
    for status in [*files.walk(COMMITS), *_list_root(files)]:
        if status.kind == "file" and status.path.rpartition("/")[2].startswith(TEMPORARY):
            size_bytes, ends_at = status.size_bytes, status.changed_at + _TEMPORARY_SECONDS
            if ends_at < now:
                why = "its writer was stopped"
                found.append(Find(status.path, "temporary", "delete", 1, size_bytes, why))
            else:
                why, until = "it may just be written", spell_time(ends_at)
                found.append(Find(status.path, "temporary", "leave", 1, size_bytes, why, until))
    return found


def find_lost_leases(leases: Iterable[Lease]) -> list[Find]:
    """Find the leases of writers that are dead, and those that are silent for too long."""
    found = []
    for lease in leases:
        path, who = lease_path(lease.writer), lease.describe()
        if lease.state == "dead":
            found.append(Find(path, "lease", "delete", 1, 0, f"{who} is dead"))
        if lease.state == "expired":
            why = f"{who} has been silent for a week"
            found.append(Find(path, "lease", "move to trash", 1, 0, why))
    return found


def find_scores(scores: ScoreFolder, contents: Contents, oldest: int) -> list[ScoreFile]:
    """Find cached scores of segments that no commit from `oldest` on has."""
    kept = {record.path for record in replace(contents, oldest=oldest).kept_files}
    return [file for file in scores.list() if table_path(file.segment, "tokens") not in kept]


def spell_time(seconds: float) -> str:
    """Write a time as ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _list_root(files: Files) -> list[FileStatus]:
    names = [name for name in files.list_names("") if name.startswith(TEMPORARY)]
    return [status for name in names if (status := files.status(name))]


@dataclass(slots=True)
class _Judge:
    """Decides about files below `segments/`."""

    snapshot: Snapshot
    oldest: int
    leases: Sequence[Lease]
    now: float
    ends: Mapping[int, float]
    newest_changes: Mapping[str, float]
    _live: set[str] = field(init=False)
    _retired: dict[str, int] = field(init=False)
    _lost: int | None = field(init=False)
    _by_writer: dict[str, Lease] = field(init=False)
    _of_segments: dict[str, _Verdict] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        contents = self.snapshot.contents
        self._live = {record.path for record in contents.files}
        self._retired = {
            record.path: one.number for one in contents.retired for record in one.files
        }
        lost = (one.number for one in self.snapshot.commits if one.body["operation"] == "lost")
        self._lost = next(lost, None)
        self._by_writer = {lease.writer[:WRITER_DIGITS]: lease for lease in self.leases}

    def of_file(self, status: FileStatus) -> _Verdict | None:
        """Judge a file; None when it is to be kept."""
        if status.path in self._live:
            return None
        if status.kind != "file":
            return _Verdict("alien", "leave", "it is a link or a device, not a file")
        if number := self._retired.get(status.path):
            return self._of_retired(number)
        return self.of_unnamed(status.path)

    def _of_retired(self, number: int) -> _Verdict:
        if number <= self.oldest:
            why = f"commit {number} replaced it, and none before can be opened any more"
            return _Verdict("replaced", "move to trash", why)
        why = f"commit {number} replaced it, and those before can still be opened"
        until = self.ends.get(number)
        return _Verdict("replaced", "leave", why, spell_time(until) if until else None)

    def of_unnamed(self, path: str) -> _Verdict:
        """Judge what no commit has ever named, by the folder it lies in."""
        segment = segment_of(path) or ""
        if segment not in self._of_segments:
            self._of_segments[segment] = self._of_segment(segment)
        return self._of_segments[segment]

    def _of_segment(self, segment: str) -> _Verdict:
        if not _UUID.fullmatch(segment):
            return _Verdict("alien", "leave", "it is none of a store's files")
        lease = self._by_writer.get(segment[:WRITER_DIGITS])
        if self._lost is not None:
            why = f"what commit {self._lost} said is lost: it may have named this"
            return _Verdict("unfinished", "leave", why)
        if lease is None:
            return self._by_age(segment, "its writer has left no lease")
        if lease.state == "dead":
            return _Verdict(
                "unfinished", "move to trash", f"{lease.describe()} died before its commit"
            )
        if lease.state == "expired":
            return self._by_age(segment, f"{lease.describe()} has been silent")
        why = f"{lease.describe()} is at work"
        until = None
        if lease.state == "silent":
            why = f"{lease.describe()} may be at work; nobody here can tell"
            until = spell_time(lease.renewed_at + EXPIRY_SECONDS)
        return _Verdict("unfinished", "leave", why, until)

    def _by_age(self, segment: str, who: str) -> _Verdict:
        ends_at = self.newest_changes[segment] + _UNFINISHED_SECONDS
        if ends_at < self.now:
            return _Verdict("unfinished", "move to trash", f"{who}, and it has lain for a week")
        until = spell_time(ends_at)
        return _Verdict("unfinished", "leave", f"{who}, and it is not a week old", until)


def _newest_changes(statuses: Iterable[FileStatus]) -> dict[str, float]:
    """For each segment, when something in it last changed."""
    newest: dict[str, float] = {}
    for status in statuses:
        segment = segment_of(status.path) or ""
        newest[segment] = max(newest.get(segment, status.changed_at), status.changed_at)
    return newest


def _tell_together(statuses: Sequence[FileStatus], judge: _Judge) -> Iterator[Find]:
    """Tell of whole folders where one verdict holds for everything in them, else of files."""
    verdicts: dict[str, set[_Verdict | None]] = {}
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for status in statuses:
        if status.kind != "folder":
            verdict = judge.of_file(status)
            for path in _with_parents(status.path):
                verdicts.setdefault(path, set()).add(verdict)
                files[path] += 1
                sizes[path] += status.size_bytes
    told: set[str] = set()
    for status in statuses:
        if told.intersection(_with_parents(status.path)):
            continue
        # A folder without files is judged as a file in it would be.
        found = verdicts.get(status.path) or {judge.of_unnamed(status.path)}
        if len(found) > 1:
            continue
        told.add(status.path)
        if (one := found.pop()) is not None:
            size = files[status.path], sizes[status.path]
            yield Find(status.path, one.kind, one.action, *size, one.why, one.until)


def _with_parents(path: str) -> Iterator[str]:
    """A path and the folders above it, up to its segment."""
    while path != SEGMENTS:
        yield path
        path = folder_of(path)
