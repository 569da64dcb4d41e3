"""
The commit log: numbered, hash-chained, immutable files, and the only truth of a store.

A commit file holds two lines of JSON. The first is the body; the second is
`{"sha256": "<hash of the first line>"}`. The body's `parent` is the hash of the body before it,
or of the store's header for commit 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tistore.errors import IntegrityError
from tistore.store.files import FileRecord, Files
from tistore.store.layout import COMMITS, commit_number, commit_path
from tistore.store.threads import Threads
from tistore.version import __version__

_READ_AT_ONCE = 64
_READERS = 8


@dataclass(frozen=True, slots=True)
class Commit:
    """
    One entry of the log.

    Attributes:
        number: Position, from 1.
        sha256: Hash of the body, hex; of a placeholder, of the body that was lost: the next commit
            names it.
        body: The parsed body; `docs/format.md` lists its keys.
    """

    number: int
    sha256: str
    body: dict[str, Any]


def read_commits(files: Files, after: Commit | None, header_hash: str) -> list[Commit]:
    """
    Read every commit that follows `after`, checking hashes, numbers and the chain.

    Args:
        files: The store's files.
        after: Last commit already known; None to read from the start.
        header_hash: SHA-256 of the store's header, the parent of commit 1.

    Raises:
        IntegrityError: A commit is missing, damaged, or does not follow its predecessor.
    """
    number = after.number if after else 0
    parent = after.sha256 if after else header_hash
    wanted = _list_numbers(files, number)
    commits = []
    for found, data in zip(wanted, _read_files(files, wanted), strict=True):
        number += 1
        if found != number:
            raise IntegrityError(
                f"commit {number} is missing from the log, but commit {found} is there",
                mend=f"restore {commit_path(number)} from a copy",
            )
        commit = _parse(data, number, parent)
        commits.append(commit)
        parent = commit.sha256
    return commits


def _list_numbers(files: Files, after: int) -> list[int]:
    """List the commits there are beyond a number, in order."""
    last = commit_path(after).rpartition("/")[2]
    listed = (commit_number(name) for name in files.list_names(COMMITS) if name > last)
    return sorted(number for number in listed if number is not None)


def _read_files(files: Files, numbers: Sequence[int]) -> list[bytes]:
    """
    Read commits.

    Many are read by several threads: a disk that is not warm, or one behind a network, is asked
    for much at once.
    """

    def read_group(start: int) -> list[bytes]:
        group = numbers[start : start + _READ_AT_ONCE]
        return [files.read(commit_path(number)) for number in group]

    starts = range(0, len(numbers), _READ_AT_ONCE)
    if len(starts) < 2:
        return [data for start in starts for data in read_group(start)]
    with Threads(_READERS, thread_name_prefix="tistore-log") as readers:
        return [data for group in readers.map(read_group, starts) for data in group]


def append_commit(
    files: Files,
    *,
    parent: Commit | None,
    header_hash: str,
    writer: str,
    commit_uuid: str,
    additions: Mapping[str, Any],
    seen: Callable[[], object] = lambda: None,
) -> Commit | None:
    """
    Try to make `additions` the commit after `parent`, durably.

    Args:
        files: The store's files.
        parent: The commit it is to follow; None for the first.
        header_hash: SHA-256 of the store's header, the parent of commit 1.
        writer: Identity of the writer.
        commit_uuid: Identity of this attempt, by which `is_named` finds it.
        additions: The rest of the body. Its operation is "append" unless it says another.
        seen: Called once other writers see the commit, before it is durable.

    Returns:
        The commit, now acknowledged; None when another writer took the number first.
    """
    body = {
        "number": parent.number + 1 if parent else 1,
        "parent": parent.sha256 if parent else header_hash,
        "commit_uuid": commit_uuid,
        "writer": writer,
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "tistore": __version__,
        "operation": "append",
        **additions,
    }
    line = json.dumps(body, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(line).hexdigest()
    data = line + b"\n" + write_trailer(sha256)
    if not files.put_if_absent(commit_path(body["number"]), data, seen):
        return None
    return Commit(body["number"], sha256, body)


def write_trailer(sha256: str) -> bytes:
    """Lay out a commit's second line, which tells the hash of the first."""
    return json.dumps({"sha256": sha256}, separators=(",", ":")).encode() + b"\n"


def is_named(files: Files, parent: Commit | None, commit_uuid: str) -> bool:
    """Whether the commit after `parent` exists and is this attempt's, acknowledged or not."""
    path = commit_path(parent.number + 1 if parent else 1)
    named = f'"commit_uuid":"{commit_uuid}"'.encode()
    return files.size(path) is not None and named in files.read(path)


def list_segment_files(entry: Mapping[str, Any]) -> list[FileRecord]:
    """List every file of a segment's entry: tables, then arrays, then bundled scores."""
    listed = list(entry["tables"].values())
    for array in entry["arrays"].values():
        listed += array["files"]
    listed += entry.get("scores", {}).values()
    return [FileRecord.from_json(record) for record in listed]


Keys = dict[str, dict[str, str]]
"""For each kind, unique key → hash of its content."""


def add_keys(known: Keys, commits: Sequence[Commit]) -> Keys:
    """
    Bring unique keys up to date.

    Args:
        known: Keys before these commits; left as they are.
        commits: What follows, in order. A commit removes before it adds.
    """
    keys = {kind: dict(entries) for kind, entries in known.items()}
    for commit in commits:
        for kind, entries in removed_by(commit).items():
            held = keys.setdefault(kind, {})
            for key, content in entries.items():
                if held.get(key) == content:
                    del held[key]
        for kind, entries in commit.body["keys"].items():
            keys.setdefault(kind, {}).update(entries)
    return keys


def removed_by(commit: Commit) -> Keys:
    """What a commit removes of earlier ones: for each table, key → hash of the row's content."""
    removed: Keys = commit.body.get("removed", {})
    return removed


def _parse(data: bytes, number: int, parent: str) -> Commit:
    where = commit_path(number)
    try:
        line, trailer = data.splitlines()
        declared = json.loads(trailer)["sha256"]
        sha256 = hashlib.sha256(line).hexdigest()
        if sha256 != declared:
            raise ValueError("its hash does not match its body")
        commit = read_line(line)
        if commit.number != number:
            raise ValueError(f"it says it is commit {commit.number}")
        if commit.body["parent"] != parent:
            raise ValueError("it does not follow the commit before it")
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{where} is damaged: {error}", mend="restore it from a copy of the store"
        ) from error
    return commit


def read_line(line: bytes) -> Commit:
    """Read a commit's body, which has been compared with its hash."""
    body = json.loads(line)
    # A placeholder is followed as the lost commit was.
    return Commit(body["number"], body.get("stands_for") or hashlib.sha256(line).hexdigest(), body)
