"""What happened to a store, a line each: for people and scripts that watch a run from outside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tistore.errors import StoreError
from tistore.store.layout import EVENTS

Event = Mapping[str, Any]
"""A line: `time` (ISO 8601, UTC), `event`, `run_id`, `pid`, `host`, and what belongs to it."""


@dataclass(frozen=True, slots=True)
class EventLog:
    """
    The file `events.jsonl` of a store.

    It is talk, not truth: nothing in the store depends on it, it may be deleted, and no commit
    names it.
    """

    root: Path

    @property
    def path(self) -> Path:
        """Where the file lies, or would."""
        return self.root / EVENTS

    def append(self, event: str, **facts: Any) -> None:
        """
        Add a line, whole: several processes may write at once.

        Args:
            event: What happened, such as "started" or "progress".
            facts: What JSON can hold.

        Raises:
            StoreError: The file cannot be written.
        """
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "pid": os.getpid(),
            "host": os.uname().nodename,
            **facts,
        }
        try:
            # One write to a file opened for appending goes to its end as a whole.
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(number, (json.dumps(line) + "\n").encode())
            finally:
                os.close(number)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from error

    def read(self, last_bytes: int | None = None) -> list[Event]:
        """
        Read the lines, oldest first; none where nothing has happened yet.

        Args:
            last_bytes: Read the end of the file only.

        Returns:
            What each line holds. A line that a crash cut short is left out.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = 0 if last_bytes is None else max(0, size - last_bytes)
            file.seek(start)
            lines = file.read().split(b"\n")
        whole = lines[1:] if start else lines
        return [event for line in whole if (event := _parse(line)) is not None]


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
