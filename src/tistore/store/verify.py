"""Read every committed byte and compare it with the log."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tistore.errors import IntegrityError
from tistore.store.files import FileRecord, Files, hash_file
from tistore.store.layout import SEGMENTS
from tistore.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Problem:
    """A committed file that is not as it was committed."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """
    What `verify` found.

    Attributes:
        commits: Commits whose hashes and chain were checked.
        files: Files read whole.
        size_bytes: Their bytes.
        problems: Files that are missing or altered.
        uncommitted_segments: Segment folders no commit names: left by a writer that died, or
            being written now. They are not part of the store.
    """

    commits: int
    files: int
    size_bytes: int
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
        if self.problems:
            listed = "\n".join(f"  {problem.path}: {problem.problem}" for problem in self.problems)
            raise IntegrityError(
                f"{len(self.problems)} of {self.files} committed files are damaged:\n{listed}",
                mend="restore these files from a copy; every other file is intact",
            )


def verify_snapshot(
    files: Files, snapshot: Snapshot, progress: Callable[[int], None] = lambda size_bytes: None
) -> VerifyReport:
    """
    Hash every file a snapshot names.

    The log itself was checked when the snapshot was read.

    Args:
        files: The store's files.
        snapshot: What to check.
        progress: Called with the bytes of each file once it is checked.
    """

    def check(record: FileRecord) -> Problem | None:
        problem = _find_problem(files, record)
        progress(record.size_bytes)
        return Problem(record.path, problem) if problem else None

    # Hashing and reading release the interpreter lock; two threads keep a disk busy.
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(check, snapshot.files))
    named = {segment.uuid for segment in snapshot.segments} | {
        record.path.split("/")[1] for record in snapshot.files
    }
    stray = [name for name in files.list_names(SEGMENTS) if name not in named]
    return VerifyReport(
        commits=len(snapshot.commits),
        files=len(snapshot.files),
        size_bytes=sum(record.size_bytes for record in snapshot.files),
        problems=tuple(problem for problem in found if problem),
        uncommitted_segments=tuple(stray),
    )


def _find_problem(files: Files, record: FileRecord) -> str | None:
    size = files.size(record.path)
    if size is None:
        return "missing"
    if size != record.size_bytes:
        return f"{size} bytes long, committed with {record.size_bytes}"
    if hash_file(files, record.path) != record.blake3:
        return "altered: its hash is not the committed one"
    return None
