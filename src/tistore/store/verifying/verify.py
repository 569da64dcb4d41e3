"""Read every committed byte and compare it with the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tistore.errors import IntegrityError, NotAStoreError, StoreNotFoundError
from tistore.store.contents import Contents
from tistore.store.files import Files
from tistore.store.layout import (
    COMMITS,
    HEADER,
    SEGMENTS,
    commit_path,
    segment_of,
    verification_file,
)
from tistore.store.log import Commit
from tistore.store.verifying.damage import Problem, describe_damage
from tistore.store.verifying.examined_log import ExaminedLog, Trouble, examine_log
from tistore.store.verifying.file_check import FileCheck, VerifyProgress, count_cores
from tistore.store.verifying.verified import (
    Checked,
    FinishedPass,
    keep_finished_pass,
    read_finished_pass,
)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """
    What `verify` found.

    Attributes:
        commits: Commits whose hashes and chain were checked.
        files: Files compared with the log: those of every commit that can still be opened.
        size_bytes: Their bytes.
        skipped: Files among them that an unfinished pass had found sound, and that nobody has
            touched since; they were not read again.
        seconds: How long it took.
        problems: Files that are missing or altered.
        uncommitted_segments: Segment folders of which no commit that can still be opened names a
            file: left by a writer that died, or being written now. They are not part of the store.
    """

    commits: int
    files: int
    size_bytes: int
    skipped: int
    seconds: float
    problems: tuple[Problem, ...]
    uncommitted_segments: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every byte is the one that was committed."""
        return not self.problems

    def raise_if_damaged(self) -> None:
        """
        Turn problems into an error.

        Raises:
            IntegrityError: There are any; the message names every file.
        """
        if not self.problems:
            return
        listed = "\n".join(f"  {problem}" for problem in self.problems)
        intact = "every other file is intact"
        if any(problem.path.startswith(f"{COMMITS}/") for problem in self.problems):
            intact = f"{self.commits} commits are sound by themselves, and {intact} that they name"
        raise IntegrityError(
            f"{len(self.problems)} files are not as committed:\n{listed}",
            mend="restore these files from a copy, or see with `tistore repair` what would be left "
            f"without them; {intact}",
        )


def verify_store(
    root: Path,
    files: Files,
    *,
    at: int | None = None,
    known: Commit | None = None,
    jobs: int | None = None,
    resume: bool = False,
    progress: Callable[[VerifyProgress], object] = lambda progress: None,
) -> VerifyReport:
    """
    Read a store's header, its log and every file it names, from disk, and compare.

    A log that is damaged is no reason to stop: what can still be judged is.

    Args:
        root: Where the store lies; what is remembered of a pass is remembered by it.
        files: Its files.
        at: Check only the files of the state at this commit, and of those before.
        known: The last commit that a handle has read: a log that ends before it is damaged.
        jobs: Files read at once; as many as there are cores when left out.
        resume: Leave out what a pass that was interrupted has found sound, where size, times
            and inode are as they were.
        progress: Told a few times a second how far it is.

    Raises:
        StoreNotFoundError: Nothing is there.
        NotAStoreError: Something else is there.
        FormatVersionError: The store, or a commit, needs a reader that knows more.
        InterruptedRunError: Ctrl-C; `resume` goes on from there.
    """
    started = time.monotonic()
    require_store(root, files)
    log = examine_log(files, str(root))
    troubles = [*log.troubles, *find_lost_commits(root, log, known)]
    is_whole = not troubles
    contents = _read_contents(log, at)
    later = [one for one in log.commits if at is not None and one.number > at]
    check = FileCheck(root, files, Checked(root, resume=resume), progress)
    found = check.read(contents.kept_files, jobs or count_cores())
    if found and is_whole:
        # What `gc` has taken away meanwhile is not missing.
        newest = _read_contents(examine_log(files, str(root)), at)
        kept = {record.path for record in newest.kept_files}
        found = [trouble for trouble in found if trouble[0] in kept]
    troubles += found if is_whole else map(_doubt, found)
    report = VerifyReport(
        commits=len(log.commits),
        files=len(contents.kept_files),
        size_bytes=sum(record.size_bytes for record in contents.kept_files),
        skipped=check.skipped,
        seconds=time.monotonic() - started,
        problems=describe_damage(files, contents, troubles),
        uncommitted_segments=_list_uncommitted(files, contents, later),
    )
    if is_whole and at is None:
        keep_finished_pass(root, _sum_up(root, log, report))
    return report


def _read_contents(log: ExaminedLog, at: int | None) -> Contents:
    """Read what the log amounts to at a commit, without what has been given up since."""
    contents = Contents().after([one for one in log.commits if at is None or one.number <= at])
    oldest = max((commit.body.get("oldest", 0) for commit in log.commits), default=0)
    return replace(contents, oldest=oldest)


def require_store(root: Path, files: Files) -> None:
    """
    Check that a store lies there, be it damaged.

    Raises:
        StoreNotFoundError: Nothing is there.
        NotAStoreError: Something else is there.
    """
    if not root.exists():
        raise StoreNotFoundError(
            f"no store at {root}", mend="make one with `tistore ingest` or tistore.create()"
        )
    # A store that has lost its header is a damaged store.
    if not root.is_dir() or (files.status(HEADER) is None and not files.list_names(COMMITS)):
        raise NotAStoreError(f"{root} holds no {HEADER} and no {COMMITS}/", mend="mend the path")


def find_lost_commits(
    root: Path, log: ExaminedLog, known: Commit | None = None
) -> Iterator[Trouble]:
    """
    Find what was in the log before: where its end is gone, it does not say so itself.

    Args:
        root: Where the store lies; the last pass over it knew its head.
        log: What there is.
        known: The last commit that a handle has read.
    """
    heads = {}
    finished = read_finished_pass(root)
    if finished is not None and finished.commit and finished.store_uuid == log.store_uuid:
        heads[finished.commit] = finished.head, f"when this was verified at {finished.finished_at}"
    if known is not None:
        heads[known.number] = known.sha256, "when this store was opened"
    named = {path for path, _ in log.troubles}
    there = {commit.number: commit.sha256 for commit in log.commits}
    for number, (sha256, when) in sorted(heads.items()):
        if commit_path(number) in named or there.get(number) == sha256:
            continue
        what = "another commit than" if number in there else "missing: it was there"
        yield (
            commit_path(number),
            f"{what} {when}; where an older copy was put here on purpose, remove "
            f"{verification_file(root)}",
        )


def _doubt(trouble: Trouble) -> Trouble:
    """With a commit that cannot be read, it is not known what was given up since."""
    path, what = trouble
    if what == "missing":
        return path, "missing; a damaged commit may have replaced it"
    return trouble


def _list_uncommitted(files: Files, contents: Contents, later: Iterable[Commit]) -> tuple[str, ...]:
    named = {segment_of(record.path) for record in contents.kept_files}
    for commit in later:  # what it needs to be read need not be known here
        named |= {entry["uuid"] for entry in commit.body["segments"]}
        named |= {segment_of(entry["path"]) for entry in commit.body["tables"]}
    return tuple(name for name in files.list_names(SEGMENTS) if name not in named)


def _sum_up(root: Path, log: ExaminedLog, report: VerifyReport) -> FinishedPass:
    last = log.commits[-1] if log.commits else None
    return FinishedPass(
        store=str(root.resolve()),
        store_uuid=log.store_uuid or "",
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=last.number if last else 0,
        head=last.sha256 if last else "",
        files=report.files,
        size_bytes=report.size_bytes,
        problems=len(report.problems),
    )
