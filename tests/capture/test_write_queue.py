"""What waits to be written waits in order, within its bounds, and is never dropped."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tistore.capture.write_queue import WriteQueue


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
    monkeypatch.setattr("tistore.capture.write_queue.IDLE_SECONDS", 0.001)
    looked = threading.Event()
    queue = WriteQueue(10, idle=looked.set)

    assert looked.wait(30)
    queue.close()
