"""The table that `make torture` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """
    A line of what `make torture` prints.

    Attributes:
        what: Which faults.
        how_many: How many were made to happen.
        lost, partial, wrong: How often; 0 is what is promised.
        notes: What else there is to say; "skipped: …" where the machine does not allow it.
    """

    what: str
    how_many: int
    lost: int = 0
    partial: int = 0
    wrong: int = 0
    notes: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was broken."""
        return not (self.lost or self.partial or self.wrong)


def make_row(
    what: str,
    how_many: int,
    found: Mapping[str, Sequence[str]],
    notes: str,
    say: Callable[[str], None],
) -> Row:
    """
    Make a line of what a laboratory found, and say of each breach what it is.

    Args:
        what: Which faults.
        how_many: How many were made to happen.
        found: Has `lost`, `partial` and `wrong`, a text for each breach.
        notes: What else there is to say.
        say: Is told of every breach.
    """
    breaches = {name: found[name] for name in ("lost", "partial", "wrong")}
    for name, texts in breaches.items():
        for text in texts:
            say(f"{what}: {name}: {text}")
    lost, partial, wrong = map(len, breaches.values())
    return Row(what, how_many, lost, partial, wrong, notes)


def to_markdown(rows: Iterable[Row]) -> str:
    """Lay rows out."""
    lines = ["| what | how many | lost | partial | wrong | notes |", "|---|---|---|---|---|---|"]
    for row in rows:
        broken = f"{row.lost} | {row.partial} | {row.wrong}"
        lines.append(f"| {row.what} | {row.how_many:,} | {broken} | {row.notes} |")
    return "\n".join(lines)
