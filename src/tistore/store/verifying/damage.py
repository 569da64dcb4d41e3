"""Damage as it is reported: which file, what is wrong with it, and which readings it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tistore.errors import TistoreError
from tistore.store.contents import Contents, Entry
from tistore.store.files import FileRecord, Files, read_checked
from tistore.store.layout import SEGMENTS
from tistore.store.tables import decode_table
from tistore.store.verifying.examined_log import Trouble


@dataclass(frozen=True, slots=True)
class Problem:
    """
    A file that is not as it was committed.

    Attributes:
        path: Which file.
        problem: What is wrong with it.
        readings: How many readings need it; 0 for what no reading needs, such as a table of the
            log, or what only older commits still name.
        organisms: Whose readings these are, where that can be read.
    """

    path: str
    problem: str
    readings: int = 0
    organisms: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line."""
        if not self.readings:
            return f"{self.path}: {self.problem}"
        of = f" of {', '.join(self.organisms)}" if self.organisms else ""
        return f"{self.path}: {self.problem} ({self.readings} readings{of})"


def describe_damage(
    files: Files, contents: Contents, troubles: Sequence[Trouble]
) -> tuple[Problem, ...]:
    """Tell for each file in trouble which readings it costs."""
    damaged = {path for path, _ in troubles}
    organisms: dict[str, tuple[str, ...]] = {}
    problems = []
    for path, trouble in troubles:
        entry = _find_segment(contents, path)
        if entry is None:
            problems.append(Problem(path, trouble))
            continue
        uuid = entry["uuid"]
        if uuid not in organisms:
            organisms[uuid] = _list_organisms(files, entry, damaged)
        problems.append(Problem(path, trouble, entry["n_readings"], organisms[uuid]))
    return tuple(problems)


def _find_segment(contents: Contents, path: str) -> Entry | None:
    """Find the segment a file belongs to; a file of a log table only lies in its folder."""
    folder, *rest = path.split("/")
    entry = contents.segments.get(rest[0]) if folder == SEGMENTS and rest else None
    of_log = any(path in files for files in contents.tables.values())
    return None if of_log else entry


def _list_organisms(files: Files, entry: Entry, damaged: set[str]) -> tuple[str, ...]:
    record = FileRecord.from_json(entry["tables"]["responses"])
    if record.path in damaged:
        return ()
    try:
        table = decode_table(read_checked(files, record), ("organism",))
    except TistoreError:  # it is named, or will be: the names would only have been a help
        return ()
    return tuple(sorted(set(table["organism"].to_pylist())))
