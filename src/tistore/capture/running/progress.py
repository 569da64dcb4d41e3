"""Telling people how far a run is, on standard error."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

HEARTBEAT_SECONDS = 10.0
_TELLING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Tally:
    """
    How much of a run is done.

    Attributes:
        readings: Stored by this run, or found stored.
        total: Readings of the whole run.
        found: Those of `readings` that were stored before.
        tokens: Read or written by this run.
        size_bytes: Of float16 activations handed to the store by this run.
    """

    readings: int
    total: int
    found: int = 0
    tokens: int = 0
    size_bytes: int = 0


class Progress(Protocol):
    """Someone who follows a run; told by several of its threads, `update` by one at a time."""

    def note(self, message: str) -> None:
        """Hear what is going on."""

    def update(self, tally: Tally) -> None:
        """Hear how much is done."""

    def close(self) -> None:
        """Hear that the run is over, whichever way."""


class SilentProgress:
    """Follows a run without a word."""

    def note(self, message: str) -> None:
        """Let it pass."""

    def update(self, tally: Tally) -> None:
        """Let it pass."""

    def close(self) -> None:
        """Have nothing to close."""


class LineProgress:
    """Plain lines, for logs: every note, and how much is done at most every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._spoke: float | None = None
        self._last: Tally | None = None
        self._told: Tally | None = None

    def note(self, message: str) -> None:
        """Print a line."""
        print(message, file=self._stream, flush=True)

    def update(self, tally: Tally) -> None:
        """Print a line, unless the last one is fresh."""
        now = time.monotonic()
        self._last = tally
        is_fresh = self._spoke is not None and now - self._spoke < HEARTBEAT_SECONDS
        # The end is told at once: other work may follow, and takes its own time.
        if not is_fresh or tally.readings >= tally.total:
            self._spoke = now
            self._print(tally)

    def close(self) -> None:
        """Print how far the run came."""
        if self._last is not None:
            self._print(self._last)

    def _print(self, tally: Tally) -> None:
        if tally == self._told:
            return
        self._told = tally
        seconds = max(time.monotonic() - self._started, 1e-9)
        words = [f"{tally.readings}/{tally.total} readings", describe_rate(tally, seconds)]
        done = tally.readings - tally.found
        # The first ones take their time: nothing can be told from them.
        if seconds >= _TELLING_SECONDS and 0 < done and tally.readings < tally.total:
            left = seconds / done * (tally.total - tally.readings)
            words.append(f"about {timedelta(seconds=round(left))} left")
        self.note(", ".join(words))


class BarProgress:
    """A bar, for terminals."""

    def __init__(self, stream: TextIO) -> None:
        self._started = time.monotonic()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(file=stream),
        )
        self._task = self._bar.add_task("readings", total=None, rate="")
        self._bar.start()

    def note(self, message: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(message, markup=False, highlight=False)

    def update(self, tally: Tally) -> None:
        """Move the bar."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._bar.update(
            self._task,
            completed=tally.readings,
            total=tally.total,
            rate=describe_rate(tally, seconds),
        )

    def close(self) -> None:
        """Leave the bar where it is."""
        self._bar.stop()


def show_progress(stream: TextIO | None = None) -> Progress:
    """Choose a bar for a terminal, plain lines for anything else; standard error by default."""
    stream = stream or sys.stderr
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


def describe_rate(tally: Tally, seconds: float) -> str:
    """Put speed and volume into words."""
    return f"{tally.tokens / seconds:,.0f} tokens/s, {tally.size_bytes / 1e6:,.1f} MB"
