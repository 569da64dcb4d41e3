"""Threads where memory is short: refused with a typed error; nobody waits for ever."""

from __future__ import annotations

import resource
import signal
import threading
from pathlib import Path

import pytest

from durability.forked import ask
from tistore.errors import NoMemoryError
from tistore.store import threads
from tistore.store.threads import Threads
from tistore.store.turns import wait_for_turn

HELD_UP_SECONDS = 60
"""Nothing here takes so long, unless it hangs."""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the system does not tell what is in use"
)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is asked for than any machine has."""
    monkeypatch.setattr(threads, "_ROOM_BYTES", 1 << 62)


def test_an_executor_calls_things_and_gives_what_comes_of_them():
    with Threads(2) as pool:
        assert list(pool.map(pow, [2, 3], [3, 2])) == [8, 9]
        assert pool.submit(threading.get_ident).result() != threading.get_ident()


def test_no_thread_is_started_without_room_for_it(no_room):
    before = threading.active_count()

    with Threads(2) as pool, pytest.raises(NoMemoryError, match="ulimit -v"):
        pool.submit(print)
    with pytest.raises(NoMemoryError, match="ulimit -u"):
        threads.start(threading.Thread(target=print))

    assert threading.active_count() == before


def test_a_limit_on_threads_is_named(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with Threads(2) as pool, pytest.raises(NoMemoryError, match="can't start new thread"):
        pool.submit(print)


def test_nobody_waits_for_a_turn_without_a_thread_that_can(tmp_path, no_room):
    """The turn is a courtesy: whoever cannot queue goes on, and leaves nothing open."""
    with wait_for_turn(str(tmp_path), HELD_UP_SECONDS):
        before = len(list(Path("/dev/fd").iterdir()))
        with wait_for_turn(str(tmp_path), HELD_UP_SECONDS):
            pass
        assert len(list(Path("/dev/fd").iterdir())) == before


@needs_proc
def test_a_process_at_the_end_of_its_memory_fails_rather_than_hangs():
    """With just so much that a thread is made, and dies before it can say that it began."""

    def starve() -> int:
        signal.alarm(HELD_UP_SECONDS)
        refused = 0
        page = resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        for more in range(0, 64 << 20, 4 << 20):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * page
            resource.setrlimit(resource.RLIMIT_AS, (used + more, hard))
            try:
                with Threads(4) as pool:
                    list(pool.map(abs, range(8)))
            except (NoMemoryError, MemoryError):
                refused += 1
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return refused

    assert ask(starve) > 0
