"""What became of each file of an experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tistore.errors import TistoreError

Outcome = Literal["imported", "present", "refused", "skipped", "companion", "unknown"]
OUTCOMES: tuple[Outcome, ...] = (
    "imported", "present", "refused", "skipped", "companion", "unknown",
)  # fmt: skip
"""Stored by this run; stored before; not to be had; left out on purpose; read with another file;
of no kind that is known."""


@dataclass(frozen=True, slots=True)
class SeenFile:
    """
    A file of the experiment, and what became of it.

    Attributes:
        path: Relative to the experiment, with "/".
        kind: "residual", "response", "vector", "steering", …; "other" for files without a reader.
        outcome: See `OUTCOMES`.
        variety: Period or form it was written in, where it has one.
        size_bytes: Its length.
        value_bytes: Of float16 that it holds for the store.
        reason: Why it was refused or left out, or what to know of it.
    """

    path: str
    kind: str
    outcome: Outcome
    variety: str | None = None
    size_bytes: int = 0
    value_bytes: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """
    What an import did, or would do.

    Attributes:
        files: The files, in the order they were dealt with; see `MOST_LISTED`.
        counts: Files by kind and outcome: all of them.
        is_dry: Whether nothing was to be stored.
        run_id: The run's row in `runs`; None where nothing was stored.
        readings: Readings stored.
        value_bytes: Of float16 in them.
        seconds: How long it took; for a dry run, how long the import is estimated to take.
    """

    files: tuple[SeenFile, ...]
    counts: Mapping[tuple[str, Outcome], int]
    is_dry: bool = False
    run_id: str | None = None
    readings: int = 0
    value_bytes: int = 0
    seconds: float = 0.0

    @property
    def refused(self) -> tuple[SeenFile, ...]:
        """Files that were refused."""
        return tuple(file for file in self.files if file.outcome == "refused")

    @property
    def n_unlisted(self) -> int:
        """Files that were left out and are counted, but not listed."""
        return sum(self.counts.values()) - len(self.files)

    def count(self, outcome: Outcome) -> int:
        """Count the files of one outcome."""
        return sum(n for (_, of), n in self.counts.items() if of == outcome)

    def to_rows(self) -> list[dict[str, int | str]]:
        """Lay the counts out: a row for each kind of file, and one for all."""
        kinds = sorted({kind for kind, _ in self.counts})
        rows: list[dict[str, int | str]] = [
            {"kind": kind, **{of: self.counts.get((kind, of), 0) for of in OUTCOMES}}
            for kind in kinds
        ]
        rows.append({"kind": "all", **{of: self.count(of) for of in OUTCOMES}})
        return rows


def explain(error: TistoreError, path: Path) -> str:
    """Tell on one line why a file was refused, and what would mend it; its name stands beside."""
    told = error.message
    for prefix in (f"{path}: ", f"cannot read {path}: ", f"{path} "):
        told = told.removeprefix(prefix)
    return f"{told} ({error.mend})" if error.mend else told


MOST_LISTED = 200_000
"""Files listed one by one; of those left out, more are only counted: some trees hold millions."""


class Ledger:
    """Collects what became of each file."""

    def __init__(self) -> None:
        self.files: list[SeenFile] = []
        self.counts: Counter[tuple[str, Outcome]] = Counter()

    def enter(self, file: SeenFile) -> None:
        """Take a file down."""
        self.counts[file.kind, file.outcome] += 1
        if file.outcome in ("imported", "present", "refused") or len(self.files) < MOST_LISTED:
            self.files.append(file)
