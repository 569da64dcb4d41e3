"""Telling what a run does: to who started it, and to the store's event log."""

from __future__ import annotations

import time
from typing import Any

from tistore.capture.running.progress import Progress, Tally
from tistore.errors import StoreError
from tistore.store.events import EventLog

PULSE_SECONDS = 10.0


class Journal:
    """
    Hands on what a run says.

    A log that cannot be written is told once, and stops nobody: it is talk, and no truth.

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
        self._is_logging = True

    def note(self, message: str) -> None:
        """Say something to people, and to the log."""
        self._progress.note(message)
        self.log("note", message=message)

    def log(self, event: str, **facts: Any) -> None:
        """Say something to the log alone."""
        if not self._is_logging:
            return
        try:
            self._events.append(event, run_id=self._run_id, **facts)
        except StoreError as error:
            self._is_logging = False
            self._progress.note(f"{error.message}: `tistore status` will not know of this run")

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
