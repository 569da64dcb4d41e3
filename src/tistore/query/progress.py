"""How far a scan is, told to whoever waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

QUIET_SECONDS = 2.0
"""A scan shorter than this says nothing."""

_EVERY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """
    How far a scan is.

    Attributes:
        done_bytes: Activations scored, decoded.
        total_bytes: Activations to score, decoded.
        seconds: Time since it began.
    """

    done_bytes: int
    total_bytes: int
    seconds: float

    def __str__(self) -> str:
        """Say it in a few words."""
        share = self.done_bytes / self.total_bytes if self.total_bytes else 1.0
        left = self.seconds * (1 / share - 1) if share else float("inf")
        rest = f"{left:.0f} s left" if left < 10_000 else "starting"
        return (
            f"scanning: {share:4.0%} of {self.total_bytes / 1e9:.1f} GB, "
            f"{self.done_bytes / 1e9 / max(self.seconds, 1e-9):.1f} GB/s, {rest}"
        )


def show_on_terminal(progress: Progress) -> None:
    """Keep one line of the terminal up to date; nothing where stderr is no terminal."""
    if sys.stderr.isatty():
        end = "\n" if progress.done_bytes >= progress.total_bytes else ""
        print(f"\r\x1b[K{progress}", end=end, file=sys.stderr, flush=True)


@dataclass(slots=True, eq=False)
class _Meter:
    total_bytes: int
    show: Callable[[Progress], None]
    started: float
    done_bytes: int = 0
    shown_at: float = 0.0
    lock: Lock = field(default_factory=Lock)

    def add(self, size_bytes: int) -> None:
        with self.lock:
            self.done_bytes += size_bytes
            now = time.monotonic()
            is_last = self.done_bytes >= self.total_bytes
            is_due = now - self.shown_at >= _EVERY_SECONDS or is_last
            if now - self.started >= QUIET_SECONDS and is_due:
                self.shown_at = now
                self.show(Progress(self.done_bytes, self.total_bytes, now - self.started))


def metered(total_bytes: int, show: Callable[[Progress], None]) -> Callable[[int], None]:
    """
    Give a function that takes the bytes of each block, and tells `show` from time to time.

    It is silent for the first two seconds.
    """
    return _Meter(total_bytes, show, time.monotonic()).add
