"""
The trash of a store: what is taken out of it lies there for some days, below its own path.

What `gc`, or a repair, takes out at once is a batch: a folder of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tistore.errors import IntegrityError, StoreError
from tistore.store.files import FileRecord, Files, FileStatus, hash_file
from tistore.store.layout import TRASH, folder_of, split_trash_path, trash_path


@dataclass(frozen=True, slots=True)
class Batch:
    """
    What was taken out at once.

    Attributes:
        path: Its folder.
        contents: Every file and folder in it, sorted by path.
        moved_at: When something was put into it last, in seconds since 1970, by the clock of the
            place: files keep their own times, folders do not.
    """

    path: str
    contents: tuple[FileStatus, ...]
    moved_at: float

    @property
    def size_bytes(self) -> int:
        """What its files take."""
        return sum(status.size_bytes for status in self.contents)

    @property
    def n_files(self) -> int:
        """How many there are."""
        return sum(status.kind != "folder" for status in self.contents)


def new_batch() -> str:
    """Name a folder of the trash that nobody else has."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


def set_aside(files: Files, paths: Sequence[str]) -> None:
    """
    Move files and whole folders to the trash. What is gone already is as good as moved.

    Nothing of it is needed any more, wherever a power cut leaves it: there is nothing to fsync.
    """
    batch = new_batch()
    for path in paths:
        files.rename(path, trash_path(batch, path))
    emptied = {folder for path in paths for folder in _folders_above(path)}
    for folder in sorted(emptied, key=len, reverse=True):  # what lies deeper has a longer name
        files.remove_empty_folder(folder)


def _folders_above(path: str) -> Iterator[str]:
    """The folders a path lies in, but for those that every store has."""
    while "/" in (path := folder_of(path)):
        yield path


def list_batches(files: Files) -> tuple[Batch, ...]:
    """List what lies in the trash, batch by batch, by name."""
    contents: dict[str, list[FileStatus]] = {}
    tops: dict[str, FileStatus] = {}
    for status in files.walk(TRASH):
        batch, path = split_trash_path(status.path)
        if path:
            contents.setdefault(batch, []).append(status)
        elif status.kind == "folder":  # a file here was put by somebody else
            tops[batch] = status
    return tuple(_describe(top, contents.get(batch, [])) for batch, top in tops.items())


def _describe(top: FileStatus, contents: list[FileStatus]) -> Batch:
    folders = [top, *(status for status in contents if status.kind == "folder")]
    return Batch(top.path, tuple(contents), max(status.changed_at for status in folders))


def find_taken(files: Files, wanted: Iterable[FileRecord]) -> dict[str, FileStatus]:
    """
    Find what is not in its place but in the trash, with the very bytes that were committed.

    Args:
        files: The store's files.
        wanted: What the store needs.

    Returns:
        For each one found, by path, what lies in the trash.
    """
    lying = [status for batch in list_batches(files) for status in batch.contents]
    records = {record.path: record for record in wanted} if lying else {}
    found: dict[str, FileStatus] = {}
    for status in lying:
        _, path = split_trash_path(status.path)
        record = records.get(path)
        if record and files.status(path) is None and _is_same(files, status, record):
            found[path] = status
    return found


def _is_same(files: Files, status: FileStatus, record: FileRecord) -> bool:
    if status.kind != "file" or status.size_bytes != record.size_bytes:
        return False
    try:
        return hash_file(files, status.path) == record.blake3
    except IntegrityError:  # another process has just deleted it, or given it back
        return False


def give_back(files: Files, taken: Mapping[str, FileStatus]) -> None:
    """Move files of the trash back to their places, durably."""
    for path, status in taken.items():
        try:
            files.move(status.path, path)
        except (IntegrityError, StoreError):
            if files.status(path) is None:
                raise
            # Another process was faster; but it may not have made it durable yet.
            files.sync_folders([folder_of(path)])


def delete_folder(files: Files, folder: str) -> None:
    """Delete a folder of the trash; what another process deletes meanwhile is as good as gone."""
    for status in reversed(files.walk(folder)):  # what a folder holds comes after it
        if status.kind == "folder":
            files.remove_empty_folder(status.path)
        else:
            files.remove(status.path)
    files.remove_empty_folder(folder)
