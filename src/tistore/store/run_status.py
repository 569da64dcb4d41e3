"""How the newest run of a store is doing, told from its event log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from tistore.store.base import BaseStore
from tistore.store.events import Event

State = Literal["running", "finished", "stopped", "failed", "gone", "silent"]

SILENT_SECONDS = 300.0
"""Without a word for so long, a run on another machine may be gone; nobody here can tell."""

_COUNTS = ("readings", "found", "total", "tokens")
_ENDS: dict[str, State] = {"finished": "finished", "stopped": "stopped", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class RunStatus:
    """
    What is known of a run.

    Attributes:
        run_id: Its row in `runs`, once something of it is committed.
        state: "running"; how it ended; "gone" where its process is no more, and said nothing at
            the end; "silent" where it is on another machine and has not been heard for long.
        readings: Stored so far, those of earlier runs included.
        total: Of the whole run.
        tokens_per_second: Read and written, on average; None before the first.
        seconds_left: At the pace so far; None where nothing can be told.
        started_at: When.
        heard_at: When it last said anything.
        weights: What is in memory, by name.
        organism: Whose responses are at work.
        message: The last thing it said to people, or why it ended.
        committed_readings: In the store, of all runs.
        free_bytes: Of the disk.
    """

    run_id: str
    state: State
    readings: int
    total: int
    tokens_per_second: float | None
    seconds_left: float | None
    started_at: str
    heard_at: str
    weights: str | None
    organism: str | None
    message: str | None
    committed_readings: int
    free_bytes: int | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.state not in ("running", "silent")


def describe_newest_run(store: BaseStore) -> RunStatus | None:
    """Describe the run that was started last; None where there has been none."""
    events = store.events.read()
    starts = [event for event in events if event["event"] == "started" and _has_counts(event)]
    if not starts:
        return None
    run_id = starts[-1]["run_id"]
    store.refresh()
    return _describe(store, [event for event in events if event.get("run_id") == run_id])


def _describe(store: BaseStore, events: Sequence[Event]) -> RunStatus:
    start, last = events[0], events[-1]
    counts = [event for event in events if _has_counts(event)]
    newest = counts[-1]
    seconds = _seconds_between(start, newest)
    done = newest["readings"] - newest["found"]
    left = newest["total"] - newest["readings"]
    tokens = newest["tokens"]
    return RunStatus(
        run_id=start["run_id"],
        state=_tell_state(last),
        readings=newest["readings"],
        total=newest["total"],
        tokens_per_second=tokens / seconds if seconds and tokens else None,
        seconds_left=seconds / done * left if done > 0 and left else None,
        started_at=start["time"],
        heard_at=last["time"],
        weights=_find_last(events, "weights"),
        organism=_find_last(events, "organism"),
        message=_find_last(events, "error", "reason", "message"),
        committed_readings=sum(segment.n_readings for segment in store.snapshot.segments),
        free_bytes=store.free_bytes,
    )


def _has_counts(event: Event) -> bool:
    """Whether a line says how far the run is; one of its names may be damaged."""
    return all(isinstance(event.get(name), int) for name in _COUNTS)


def _tell_state(last: Event) -> State:
    if last["event"] in _ENDS:
        return _ENDS[last["event"]]
    if last["host"] != os.uname().nodename:
        silence = datetime.now(UTC) - datetime.fromisoformat(last["time"])
        return "silent" if silence.total_seconds() > SILENT_SECONDS else "running"
    return "running" if _is_alive(int(last["pid"])) else "gone"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    return True


def _find_last(events: Sequence[Event], *names: str) -> str | None:
    found = (str(event[name]) for event in reversed(events) for name in names if name in event)
    return next(found, None)


def _seconds_between(first: Event, second: Event) -> float:
    start, stop = (datetime.fromisoformat(event["time"]) for event in (first, second))
    return (stop - start).total_seconds()
