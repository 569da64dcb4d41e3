"""Stopping on request: signals are noted, and acted on where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from tistore.errors import InterruptedRunError, PartialRunError

_HEARD = b"stopping: what was read is being committed; Ctrl-C again stops at once\n"

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopError(Exception):
    """Something asked the run to stop, where nothing is lost and it can go on later."""


class StopRequestedError(StopError):
    """
    A signal asked the run to stop.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class ReserveReachedError(StopError):
    """
    The disk has hardly more room than is to stay free.

    Args:
        free_bytes: What it has, once all that waits is written.
        reserve_bytes: What is to stay free.
    """

    def __init__(self, free_bytes: int, reserve_bytes: int) -> None:
        super().__init__(
            f"{free_bytes / 1e9:.2f} GB of free disk once all that waits is written, of which "
            f"{reserve_bytes / 1e9:.2f} GB are to stay free"
        )


def explain_stop(request: StopError, done: int, total: int) -> PartialRunError:
    """
    Say that what was stopped can go on, in the error its command ends with.

    Args:
        request: What stopped it.
        done: Readings that are committed.
        total: Those there were to be.
    """
    is_keyboard = isinstance(request, StopRequestedError) and request.number == signal.SIGINT
    kind = InterruptedRunError if is_keyboard else PartialRunError
    mend = "run the same command again to go on from there"
    if isinstance(request, ReserveReachedError):
        mend = f"free some space, then {mend}"
    return kind(
        f"stopped by {request} after {done} of {total} readings; what was read is committed",
        mend=mend,
    )


class StopSignals:
    """
    Notes the first signal while its block runs; a second Ctrl-C is obeyed at once.

    Outside the main thread signals cannot be received, and nothing is noted.

    Args:
        says_so: Whether to tell on standard error that the signal was heard: what is under way is
            ended first, which may take a while.
    """

    def __init__(self, *, says_so: bool = False) -> None:
        self._says_so = says_so
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def check(self) -> None:
        """
        Stop here if a signal has come.

        Raises:
            StopRequestedError: One has.
        """
        if self._received is not None:
            raise StopRequestedError(self._received)

    def __enter__(self) -> Self:
        """Start receiving."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the earlier receivers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == number:
            raise KeyboardInterrupt
        if self._says_so and self._received is None:
            # Not through a stream, which may be in the middle of a write.
            os.write(2, _HEARD)
        self._received = number
