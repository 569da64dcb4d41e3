"""What a log amounts to: which files are part of the store, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from tistore.errors import FormatVersionError
from tistore.store.files import FileRecord
from tistore.store.log import Commit, list_segment_files, removed_by
from tistore.version import __version__

Entry = Mapping[str, Any]
"""A segment as its commit declares it; see `docs/format.md`."""

Value = TypeVar("Value")

NEEDS = ("replaced", "lost")
"""What a commit may ask of its readers beyond what every reader knows."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """
    A file of a table of the log.

    Attributes:
        table: Which table.
        record: The file.
        number: The commit that wrote it.
        rows: Its rows.
    """

    table: str
    record: FileRecord
    number: int
    rows: int


@dataclass(frozen=True, slots=True)
class Retired:
    """
    Files that a commit has replaced or dropped: snapshots before it still need them.

    Attributes:
        number: That commit.
        files: The files.
    """

    number: int
    files: tuple[FileRecord, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """
    What the commits up to some number make of a store.

    What replaces something takes its place, so that the order of rows never changes; what takes
    the place of several takes the first one's.

    Attributes:
        segments: Entries by uuid, in the order of their rows.
        tables: For each table of the log its files by path, in the order of their rows.
        removals: For each kind, the last commit that removes a key's content.
        retired: What is no longer part of the store.
        oldest: The oldest commit that can still be opened.
    """

    segments: dict[str, Entry] = field(default_factory=dict)
    tables: dict[str, dict[str, TableFile]] = field(default_factory=dict)
    removals: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)
    retired: tuple[Retired, ...] = ()
    oldest: int = 0

    def after(self, commits: Sequence[Commit]) -> Contents:
        """
        Go on with the commits that follow.

        Raises:
            FormatVersionError: One of them needs a reader that knows more.
        """
        if not commits:
            return self
        contents = replace(
            self,
            segments=dict(self.segments),
            tables={name: dict(files) for name, files in self.tables.items()},
            removals={kind: dict(entries) for kind, entries in self.removals.items()},
        )
        for commit in commits:
            contents = _apply(contents, commit)
        return contents

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file that is part of the store, below the log."""
        of_segments = [
            file for entry in self.segments.values() for file in list_segment_files(entry)
        ]
        of_tables = [file.record for files in self.tables.values() for file in files.values()]
        return (*of_segments, *of_tables)

    @property
    def kept_files(self) -> tuple[FileRecord, ...]:
        """Every file that some commit needs which can still be opened."""
        retired = (one.files for one in self.retired if one.number > self.oldest)
        return (*self.files, *(record for files in retired for record in files))


def _apply(contents: Contents, commit: Commit) -> Contents:
    """Apply one commit; the dictionaries are changed in place where nothing moves."""
    body = commit.body
    if unknown := sorted(set(body.get("needs", ())) - set(NEEDS)):
        raise FormatVersionError(
            f"commit {commit.number} needs a reader that knows {', '.join(unknown)}; "
            f"tistore {__version__} does not",
            mend="install a newer tistore (pip install --upgrade tistore), or open the store as of "
            f"commit {commit.number - 1}: --at {commit.number - 1}",
        )
    added = {entry["uuid"]: entry for entry in body["segments"]}
    tables = [_read_table_file(entry, commit.number) for entry in body["tables"]]
    replaced = body.get("replaced", {})
    if of_segments := replaced.get("segments"):
        contents = _retire(contents, commit.number, _segment_files(contents, of_segments))
        contents = replace(contents, segments=_put(contents.segments, of_segments, added))
    contents.segments.update(added)
    if of_tables := replaced.get("tables"):
        contents = _retire(contents, commit.number, _table_files(contents, of_tables))
        by_path = {file.record.path: file for file in tables}
        kept = {name: _put(files, of_tables, by_path) for name, files in contents.tables.items()}
        contents = replace(contents, tables=kept)
    for file in tables:
        contents.tables.setdefault(file.table, {})[file.record.path] = file
    for kind, entries in removed_by(commit).items():
        numbered = {(key, content): commit.number for key, content in entries.items()}
        contents.removals.setdefault(kind, {}).update(numbered)
    oldest = body.get("oldest", 0)
    return replace(contents, oldest=oldest) if oldest > contents.oldest else contents


def _put(
    there: Mapping[str, Value], replaced: Mapping[str, str | None], added: Mapping[str, Value]
) -> dict[str, Value]:
    """Let what is added take the place of the first it replaces; drop the others."""
    kept: dict[str, Value] = {}
    for name, value in there.items():
        if name not in replaced:
            kept[name] = value
        elif (new := replaced[name]) is not None and new in added:
            kept[new] = added[new]
    return kept


def _retire(contents: Contents, number: int, files: Iterable[FileRecord]) -> Contents:
    return replace(contents, retired=(*contents.retired, Retired(number, tuple(files))))


def _segment_files(contents: Contents, names: Iterable[str]) -> list[FileRecord]:
    entries = (contents.segments[name] for name in names if name in contents.segments)
    return [file for entry in entries for file in list_segment_files(entry)]


def _table_files(contents: Contents, paths: Iterable[str]) -> list[FileRecord]:
    wanted = set(paths)
    return [
        file.record
        for files in contents.tables.values()
        for path, file in files.items()
        if path in wanted
    ]


def _read_table_file(entry: Entry, number: int) -> TableFile:
    return TableFile(entry["table"], FileRecord.from_json(dict(entry)), number, entry["rows"])
