"""Taking turns: writers on one machine queue for the next commit rather than race for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from tistore.errors import NoMemoryError
from tistore.store.threads import start


@contextmanager
def wait_for_turn(folder: str, patience_seconds: float) -> Iterator[Callable[[], None]]:
    """
    Wait until nobody else is in such a block for the same folder, first come first served.

    A courtesy, on which nothing rests but pace: where a folder cannot be locked, where no thread
    can wait, and once patience is over, as with a process that was stopped in its turn, the block
    is entered all the same.

    Args:
        folder: Path of the folder.
        patience_seconds: How long to wait at most.

    Yields:
        What ends the turn before the block does.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield lambda: None
        return
    place = _Place(descriptor)
    try:
        place.wait(patience_seconds)
        yield place.leave
    finally:
        place.leave()


class _Place:
    """A place in the queue for a folder."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._has_come, self._is_over = Event(), Event()
        self._waiter: Thread | None = None

    def wait(self, patience_seconds: float) -> None:
        """Wait for the turn; not longer than patience lasts."""
        if self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            return
        # A lock serves those who block in the order they came, and those who ask again and again
        # in none. It cannot be told for how long to block: so it is a thread that does.
        waiter = Thread(target=self._hold, name="tistore-turn", daemon=True)
        try:
            start(waiter)
        except NoMemoryError:
            return
        self._waiter = waiter
        self._has_come.wait(patience_seconds)

    def leave(self) -> None:
        """End the turn, or give up waiting; once is enough."""
        if self._is_over.is_set():
            return
        self._is_over.set()
        if self._waiter is None:
            self._release()

    def _hold(self) -> None:
        try:
            self._lock(fcntl.LOCK_EX)
            self._has_come.set()
            self._is_over.wait()
        finally:
            self._release()

    def _lock(self, how: int) -> bool:
        with suppress(OSError):  # such as where there are no locks
            fcntl.flock(self._descriptor, how)
            return True
        return False

    def _release(self) -> None:
        # Closing alone would not do, should the process have been forked meanwhile.
        self._lock(fcntl.LOCK_UN)
        os.close(self._descriptor)
