"""What a run has done so far, counted by whichever thread does it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

from tistore.capture.running.journal import Journal
from tistore.capture.running.progress import Tally


@dataclass(frozen=True, slots=True)
class RunReport:
    """
    What a run did.

    Attributes:
        run_id: The run's row in `runs`; None when there was nothing left to do.
        readings: Readings it stored.
        skipped: Readings that were stored before.
        responses: Responses it wrote.
        tokens: Tokens it wrote or read.
        size_bytes: Of float16 activations it handed to the store.
        refused_system_prompts: Prompts, and imported responses, whose system prompt the chat
            template does not take.
        loads: How often weights were loaded; adapters are not counted.
        canaries: Readings that were made a second time, each response alone, to prove their rows.
        largest_deviation: Of any row of these: ‖row − row alone‖ / ‖row alone‖; None for none.
        seconds: How long it took.
    """

    run_id: str | None = None
    readings: int = 0
    skipped: int = 0
    responses: int = 0
    tokens: int = 0
    size_bytes: int = 0
    refused_system_prompts: int = 0
    loads: int = 0
    canaries: int = 0
    largest_deviation: float | None = None
    seconds: float = 0.0


class RunCounter:
    """
    Counts what a run does, and tells its journal.

    Args:
        run_id: Of the run.
        total: Readings of the whole run.
        journal: Hears of each count.
    """

    def __init__(self, run_id: str, total: int, journal: Journal) -> None:
        self._total = total
        self._journal = journal
        self._started = time.monotonic()
        self._report = RunReport(run_id=run_id)
        self._lock = threading.Lock()

    @property
    def report(self) -> RunReport:
        """Everything so far."""
        return replace(self._report, seconds=time.monotonic() - self._started)

    @property
    def tally(self) -> Tally:
        """How much of the run is done."""
        report = self._report
        done = report.readings + report.skipped
        return Tally(done, self._total, report.skipped, report.tokens, report.size_bytes)

    def add(self, **more: int) -> None:
        """Add to the report's counts, and tell the journal."""
        with self._lock:
            added = {name: getattr(self._report, name) + value for name, value in more.items()}
            self._report = replace(self._report, **added)
            self._journal.update(self.tally)

    def add_stored(self, tokens: int, size_bytes: int) -> None:
        """Count a reading that the store's writer has taken."""
        self.add(readings=1, tokens=tokens, size_bytes=size_bytes)

    def add_canary(self, deviation: float) -> None:
        """Count a reading that was made a second time, and how far its rows moved at most."""
        with self._lock:
            largest = max(self._report.largest_deviation or 0.0, deviation)
            canaries = self._report.canaries + 1
            self._report = replace(self._report, canaries=canaries, largest_deviation=largest)
