"""What writers were told, written down outside of the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from durability.acknowledgements import Findings, check
from durability.made import Made


class Ledger:
    """
    What one writer is about to do and was told is done; a file outside of the store.

    A line is handed to the system at once: it survives the writer's death.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, word: str, things: Sequence[Made]) -> None:
        """Add a line: "adding", "added", "removing" or "removed", and what."""
        line = f"{word} {' '.join(map(str, things))}\n"
        # Not `write`: where the store's writes are made to fail, this one is not to.
        os.writev(self._descriptor, [line.encode()])


@dataclass(slots=True)
class Account:
    """
    What ledgers amount to.

    Attributes:
        held: Acknowledged; must be there.
        gone: Acknowledged as removed, or found missing before; must not be there.
        open: Begun and not acknowledged; whole, or not there.
    """

    held: set[Made] = field(default_factory=set)
    gone: set[Made] = field(default_factory=set)
    open: set[Made] = field(default_factory=set)

    def read(self, ledger: Path) -> None:
        """Add what a ledger says; its writer has come to its end."""
        for line in ledger.read_text().splitlines():
            word, *names = line.split()
            things = {Made.parse(name) for name in names}
            for part in (self.held, self.gone, self.open):
                part -= things
            part = {"added": self.held, "removed": self.gone}.get(word, self.open)
            part |= things

    def check(self, path: Path) -> Findings:
        """Check a store; what is there without anybody having begun it is wrong."""
        findings = check(path, self.held, gone=self.gone)
        never = (made for made in findings.extra if made not in self.open)
        return findings + Findings(wrong=tuple(f"{made}: nobody wrote it" for made in never))

    def settle(self, findings: Findings) -> None:
        """
        Take what a check saw for what is: a reader has seen it.

        What was open is now there for good, or never will be: its writer is dead. After a power
        cut this does not hold before the next commit: what a reader saw may go once more.
        """
        there = self.open & set(findings.extra)
        self.held |= there
        self.gone |= self.open - there
        self.open.clear()
