"""Telling what a run does: to who started it, and to the store's event log."""

from __future__ import annotations

import time
from typing import Any

from tistore.capture.progress import Progress, Tally
from tistore.store.events import EventLog

PULSE_SECONDS = 10.0


class Journal:
    """
    Hands on what a run says.

    Args:
        progress: Who follows the run on screen.
        events: The store's log.
        run_id: Part of each of the log's lines.
    """

    def __init__(self, progress: Progress, events: EventLog, run_id: str) -> None:
        self._progress = progress
        self._events = events
        self._run_id = run_id
        self._last_pulse = time.monotonic()
        self._tally: Tally | None = None

    def note(self, message: str) -> None:
        """Say something to people, and to the log."""
        self._progress.note(message)
        self.log("note", message=message)

    def log(self, event: str, **facts: Any) -> None:
        """Say something to the log alone."""
        self._events.append(event, run_id=self._run_id, **facts)

    def update(self, tally: Tally) -> None:
        """Say how much is done."""
        self._tally = tally
        self._progress.update(tally)
        self.pulse()

    def pulse(self) -> None:
        """Let the log know from time to time that the run is alive."""
        now = time.monotonic()
        if self._tally is not None and now - self._last_pulse >= PULSE_SECONDS:
            self._last_pulse = now
            self.log("progress", **describe_tally(self._tally))


def describe_tally(tally: Tally) -> dict[str, int]:
    """List a tally's counts by the names that the event log gives them."""
    return {
        "readings": tally.readings,
        "total": tally.total,
        "found": tally.found,
        "tokens": tally.tokens,
        "size_bytes": tally.size_bytes,
    }
