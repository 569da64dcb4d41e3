"""What happened to a store, a line each: for people and scripts that watch a run from outside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from tistore.errors import StoreError
from tistore.store.layout import EVENTS

Event = Mapping[str, Any]
"""A line: `time` (ISO 8601, UTC), `event`, `run_id`, `pid`, `host`, and what belongs to it."""

_ALWAYS = {"time", "event", "run_id", "pid", "host"}


@dataclass(frozen=True, slots=True)
class EventLog:
    """
    The file `events.jsonl` of a store, or another of its kind.

    It is talk, not truth: nothing in the store depends on it, it may be deleted, and no commit
    names it.
    """

    root: Path
    name: str = EVENTS

    @property
    def path(self) -> Path:
        """Where the file lies, or would."""
        return self.root / self.name

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
            with self.path.open("ab+", buffering=0) as file:
                torn = b"\n" if _ends_within_a_line(file) else b""
                file.write(torn + json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from error

    def read(self) -> list[Event]:
        """
        Read the lines, oldest first; none where nothing has happened yet.

        Returns:
            What each line holds. A line that a crash cut short, or that is damaged, is left out.

        Raises:
            StoreError: The file cannot be read.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(
                f"cannot read {self.path}: {error.strerror}",
                mend="it may be moved away: no data is in it",
            ) from error
        return [event for line in lines if (event := _parse(line)) is not None]


def _ends_within_a_line(file: FileIO) -> bool:
    """Whether a crash, or a full disk, cut the last line short."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return False
    file.seek(size - 1)
    return file.read(1) != b"\n"


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and _is_whole(event) else None


def _is_whole(event: Event) -> bool:
    """Whether a line says when, what and by whom; a flipped bit may leave JSON that does not."""
    if not event.keys() >= _ALWAYS:
        return False
    try:
        is_time = datetime.fromisoformat(event["time"]).tzinfo is not None
    except (TypeError, ValueError):
        return False
    return is_time and isinstance(event["event"], str) and isinstance(event["pid"], int)
