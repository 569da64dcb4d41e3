"""What waits to be written waits in order, within its bounds, and is never dropped."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tistore.capture.running.write_queue import WriteQueue


class Disk:
    """A disk that writes only when it is told to."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.may_write = threading.Semaphore(0)

    def piece(self, number: int):
        def prepare():
            def store() -> None:
                assert self.may_write.acquire(timeout=30)
                self.written.append(number)

            return store

        return prepare


def test_who_puts_more_than_the_limit_waits_until_there_is_room():
    disk = Disk()
    queue = WriteQueue(100)
    puts: list[int] = []

    def run() -> None:
        for number in range(20):
            queue.put(disk.piece(number), 40)
            puts.append(number)

    runner = threading.Thread(target=run)
    runner.start()
    # Two pieces of 40 fit into 100; the third is put only when the first is written.
    for number in range(20):
        while len(puts) < min(20, number + 2):
            threading.Event().wait(0.001)
        assert len(puts) <= number + 2
        disk.may_write.release()
        while len(disk.written) <= number:
            threading.Event().wait(0.001)
    runner.join()
    queue.close()

    assert disk.written == list(range(20))
    assert queue.largest_bytes <= 100


def test_a_piece_larger_than_the_limit_goes_alone():
    queue = WriteQueue(10)
    stored = []

    for number in range(3):
        queue.put(lambda number=number: lambda: stored.append(number), 1000)
    queue.close()

    assert stored == [0, 1, 2]
    assert queue.largest_bytes == 1000


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), max_size=60), limit=st.integers(1, 80))
def test_pieces_are_stored_in_the_order_they_came(sizes: list[int], limit: int):
    queue = WriteQueue(limit, threads=3)
    stored = []

    for number, size in enumerate(sizes):
        queue.put(lambda number=number: lambda: stored.append(number), size)
    queue.flush()

    assert stored == list(range(len(sizes)))
    assert queue.waiting_bytes == 0
    assert queue.largest_bytes <= max(limit, *sizes, 0)
    queue.close()


@pytest.mark.parametrize("stage", ["prepare", "store"])
def test_a_failure_is_raised_and_nothing_behind_it_is_stored(stage: str):
    queue = WriteQueue(10)
    stored = []

    def fail():
        raise ZeroDivisionError("the third")

    def prepare(number: int):
        if number == 2:
            return fail() if stage == "prepare" else fail
        return lambda: stored.append(number)

    with pytest.raises(ZeroDivisionError, match="the third"):
        for number in range(100):
            queue.put(lambda number=number: prepare(number), 10)
    with pytest.raises(ZeroDivisionError):
        queue.close()

    assert stored == [0, 1]


def test_what_is_abandoned_is_not_stored():
    disk = Disk()
    queue = WriteQueue(1000)
    started = threading.Event()

    def first():
        def store() -> None:
            started.set()
            assert disk.may_write.acquire(timeout=30)
            disk.written.append(0)

        return store

    queue.put(first, 1)
    queue.put(disk.piece(1), 1)
    assert started.wait(30)
    ending = threading.Thread(target=queue.abandon)
    ending.start()
    while queue._failure is None:
        threading.Event().wait(0.001)
    disk.may_write.release(2)
    ending.join()

    assert disk.written == [0]


def test_somebody_looks_after_what_waits_when_nothing_comes(monkeypatch):
    monkeypatch.setattr("tistore.capture.running.write_queue.IDLE_SECONDS", 0.001)
    looked = threading.Event()
    queue = WriteQueue(10, idle=looked.set)

    assert looked.wait(30)
    queue.close()


def ask_on_its_threads(question: Callable[[], int]) -> list[int]:
    """Ask something on a preparing thread, and on the storing one."""
    answers: list[int] = []
    queue = WriteQueue(10)

    def prepare():
        answers.append(question())
        return lambda: answers.append(question())

    queue.put(prepare, 1)
    queue.close()
    return answers


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads share one priority")
def test_writing_steps_back_behind_a_run_that_has_stepped_back_itself():
    """Without rights nobody can take a priority back: a fixed one would end the thread."""

    def measure() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    found: list[int] = []
    own: list[int] = []

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(measure(), 5))
        own.append(measure())
        found.extend(ask_on_its_threads(measure))

    runner = threading.Thread(target=run)
    runner.start()
    runner.join()

    assert found == [min(19, own[0] + 10)] * 2


def test_a_sandbox_that_forbids_priorities_costs_nothing_else(monkeypatch):
    def forbid(*_):
        raise PermissionError

    monkeypatch.setattr("os.setpriority", forbid)

    assert ask_on_its_threads(lambda: 7) == [7, 7]


def test_writing_takes_one_thread_and_leaves_a_model_all_of_its_own():
    """Torch asks for the number of a thread the first time it works on it: a model's comes late."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    later: list[int] = []
    try:
        found = ask_on_its_threads(torch.get_num_threads)
        model = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        model.start()
        model.join()

        assert found == [1, 1]
        assert later == [3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_abandoning_waits_for_the_piece_in_hand_even_if_closing_was_interrupted(monkeypatch):
    disk = Disk()
    queue = WriteQueue(1000)
    started = threading.Event()

    def first():
        def store() -> None:
            started.set()
            disk.piece(0)()()

        return store

    def interrupt() -> None:
        raise KeyboardInterrupt

    queue.put(first, 1)
    queue.put(disk.piece(1), 1)
    assert started.wait(30)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(queue._thread, "join", interrupt)
        queue.close()
    ending = threading.Thread(target=queue.abandon)
    ending.start()
    ending.join(0.05)

    assert ending.is_alive()
    disk.may_write.release(2)
    ending.join()
    assert not queue._thread.is_alive()
    assert disk.written == [0]
