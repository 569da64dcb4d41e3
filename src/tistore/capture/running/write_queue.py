"""Writing behind a run's back: in order, on threads of its own, and never more than fits."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue

import torch
from threadpoolctl import threadpool_limits

from tistore.store.threads import Threads, start

IDLE_SECONDS = 5.0
"""How often somebody looks whether what waits for a commit has waited long enough."""

STEP_BACK = 10
"""Added to the nice value of the threads here."""
_NICEST = 19

Store = Callable[[], None]
Prepare = Callable[[], Store]
"""Does what may be done in any order, and gives what must be done in turn."""


class WriteQueue:
    """
    Work that waits to be written, by bytes.

    Each piece is prepared on one of a few threads and then stored on a single one, in the order
    the pieces came. Who puts more than the limit waits until there is room: nothing is dropped.
    After a failure nothing more is stored; it is raised where the next piece is put, or at the end.

    Args:
        limit_bytes: May wait at a time. A piece that is larger by itself waits for an empty queue.
        threads: That prepare.
        idle: Called on the storing thread when nothing has come for a while.
    """

    def __init__(self, limit_bytes: int, *, threads: int = 2, idle: Store = lambda: None) -> None:
        self.threads = threads
        self._limit_bytes = limit_bytes
        self._idle = idle
        self._pool = Threads(threads, thread_name_prefix="tistore-prepare", initializer=_step_back)
        self._turns: SimpleQueue[tuple[Future[Store], int] | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._is_open = True
        self._waiting_pieces = 0  # rows of tables count no bytes, and must be waited for too
        self.waiting_bytes = 0
        self.largest_bytes = 0
        self._thread = threading.Thread(target=self._store_all, name="tistore-store", daemon=True)
        start(self._thread)

    def put(self, prepare: Prepare, size_bytes: int) -> None:
        """
        Hand a piece over; waits while there is no room for it.

        Raises:
            Exception: What an earlier piece failed with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or self._has_room(size_bytes))
            self._raise_failure()
            self._waiting_pieces += 1
            self.waiting_bytes += size_bytes
            self.largest_bytes = max(self.largest_bytes, self.waiting_bytes)
        self._turns.put((self._pool.submit(prepare), size_bytes))

    def flush(self) -> None:
        """
        Wait until all that was put is stored.

        Raises:
            Exception: What a piece failed with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or not self._waiting_pieces)
            self._raise_failure()

    def close(self) -> None:
        """
        Store all that was put, and end the threads.

        Raises:
            Exception: What a piece failed with; those behind it are not stored.
        """
        self._end()
        with self._changed:
            self._raise_failure()

    def abandon(self) -> None:
        """End the threads without storing what still waits; a piece that is being stored is."""
        with self._changed:
            self._failure = self._failure or InterruptedError("abandoned")
        self._end()

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._turns.put(None)
        # Again, where Ctrl-C broke off the first time: the threads end before anybody goes on.
        self._thread.join()
        # Only after a failure is there anything that nobody waited for.
        self._pool.shutdown(cancel_futures=True)

    def _has_room(self, size_bytes: int) -> bool:
        return not self.waiting_bytes or self.waiting_bytes + size_bytes <= self._limit_bytes

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _store_all(self) -> None:
        self._attempt(_step_back)
        while True:
            try:
                turn = self._turns.get(timeout=IDLE_SECONDS)
            except Empty:
                self._attempt(self._idle)
                continue
            if turn is None:
                return
            prepared, size_bytes = turn
            self._attempt(lambda prepared=prepared: prepared.result()())  # type: ignore[misc]
            del prepared, turn  # they hold the states
            with self._changed:
                self._waiting_pieces -= 1
                self.waiting_bytes -= size_bytes
                self._changed.notify_all()

    def _attempt(self, store: Store) -> None:
        """Run something unless anything has failed before; note it if it fails."""
        if self._failure is not None:
            return
        try:
            store()
        except BaseException as failure:  # whatever it is, the run must hear of it
            with self._changed:
                self._failure = failure
                self._changed.notify_all()


def _step_back() -> None:
    """
    Let the model's threads go first where processors are short, and use one thread at a time.

    A model that runs on the CPU waits for its slowest thread: one that shares its processor with
    a writing thread holds up all the others.
    """
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        thread = threading.get_native_id()
        nice = min(_NICEST, os.getpriority(os.PRIO_PROCESS, thread) + STEP_BACK)
        with suppress(PermissionError):  # some sandboxes forbid it: things are slower then
            os.setpriority(os.PRIO_PROCESS, thread, nice)
    # torch.set_num_threads would change the number of every thread that has not asked for its own
    # yet, and so the model's. Asked here first, since torch sets a thread's own when it is asked.
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")  # of this thread alone
