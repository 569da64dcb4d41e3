"""
A log as far as it can still be judged: which commits are damaged, and what the others say.

Opening a store refuses a damaged log, since what a damaged commit removes or replaces is unknown.
Looking for damage goes on: each commit holds the hash of its own body, and of the body before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from tistore.errors import IntegrityError, NoMemoryError, StoreError, TooManyFilesError
from tistore.store.files import Files
from tistore.store.header import read_header
from tistore.store.layout import COMMITS, HEADER, commit_number, commit_path
from tistore.store.log import Commit, read_line, write_trailer

Trouble = tuple[str, str]
"""A file, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ExaminedLog:
    """
    What there is of a log.

    Attributes:
        store_uuid: Identity of the store, where its header can be trusted.
        commits: Commits whose bodies are as they were written, by their own hashes; with gaps
            where others are missing or damaged.
        troubles: What is missing, damaged, or does not follow what is before it. With none, the
            log can be read as it stands.
    """

    store_uuid: str | None
    commits: tuple[Commit, ...]
    troubles: tuple[Trouble, ...]


def examine_log(files: Files, where: str) -> ExaminedLog:
    """
    Read the header and every commit there is, whatever is wrong with the others.

    Args:
        files: The store's files.
        where: The store, for messages.

    Raises:
        FormatVersionError: The store is of a later format, and that is no damage: the log follows
            the header that says so.
        NotAStoreError: The same, of a header of something else.
    """
    commits, troubles = _examine_commits(files)
    first = commits[0] if commits and commits[0].number == 1 else None
    store_uuid, trouble = _examine_header(files, where, first)
    if trouble is not None:
        troubles.insert(0, (HEADER, trouble))
    return ExaminedLog(store_uuid, tuple(commits), tuple(troubles))


def _examine_header(
    files: Files, where: str, first: Commit | None
) -> tuple[str | None, str | None]:
    """Read which store it is, and what is wrong with the header where something is."""
    try:
        header_hash = hashlib.sha256(files.read(HEADER)).hexdigest()
    except (NoMemoryError, TooManyFilesError):  # says nothing about the header
        raise
    except (IntegrityError, StoreError) as error:
        return None, _phrase(files, HEADER, error)
    if first is not None and first.body["parent"] != header_hash:
        return None, "altered, or another store's: commit 1 does not follow it"
    try:
        return read_header(files, where).uuid, None
    except IntegrityError as error:
        return None, f"altered: {error.message}"


def _examine_commits(files: Files) -> tuple[list[Commit], list[Trouble]]:
    listed = (commit_number(name) for name in files.list_names(COMMITS))
    numbers = {number for number in listed if number is not None}
    commits: list[Commit] = []
    troubles: list[Trouble] = []
    before: Commit | None = None
    for number in range(1, max(numbers, default=0) + 1):
        commit, trouble = _examine(files, number) if number in numbers else (None, "missing")
        if before and commit and commit.body["parent"] != before.sha256:
            trouble = f"does not follow commit {number - 1}: one of them is of another log"
        if trouble is not None:
            troubles.append((commit_path(number), trouble))
        if commit is not None:
            commits.append(commit)
        before = commit  # where there is none, nobody can tell what has to follow
    return commits, troubles


def _examine(files: Files, number: int) -> tuple[Commit | None, str | None]:
    """Read one commit by itself: what it says where that is certain, and what is wrong with it."""
    path = commit_path(number)
    try:
        line, _, trailer = files.read(path).partition(b"\n")
    except (NoMemoryError, TooManyFilesError):  # says nothing about the commit
        raise
    except (IntegrityError, StoreError) as error:
        return None, _phrase(files, path, error)
    try:
        body = json.loads(line)
        declared = json.loads(trailer)["sha256"]
    except (ValueError, TypeError, KeyError):
        return None, "altered: it is not two lines of JSON"
    sha256 = hashlib.sha256(line).hexdigest()
    if sha256 != declared:
        return None, "altered: its hash is not the one it was written with"
    if body["number"] != number:
        return None, f"another commit in its place: it says it is commit {body['number']}"
    commit = read_line(line)
    if trailer != write_trailer(sha256):
        return commit, "altered: bytes were added to its second line, or cut off"
    return commit, None


def _phrase(files: Files, path: str, error: IntegrityError | StoreError) -> str:
    return "missing" if files.status(path) is None else f"cannot be read: {error.message}"
