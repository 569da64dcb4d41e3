from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from tistore.store.turns import wait_for_turn

LONG = 600.0
LONGEST_SECONDS = 20
"""A thread that has not come to its end by then never will."""


def queue(folder: Path, name: int, entered: list[int]) -> threading.Thread:
    """Have a thread wait for its turn and say that it came; returns once it waits."""
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        with wait_for_turn(str(folder), LONG):
            entered.append(name)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waiting.wait()
    return thread


def test_nobody_enters_while_another_is_in_its_turn(tmp_path: Path):
    entered: list[int] = []

    with wait_for_turn(str(tmp_path), LONG):
        waiting = [queue(tmp_path, number, entered) for number in range(3)]
        before = list(entered)
    for thread in waiting:
        thread.join(LONGEST_SECONDS)

    assert before == []
    assert sorted(entered) == [0, 1, 2]


def test_a_turn_can_be_ended_before_its_block(tmp_path: Path):
    entered: list[int] = []

    with wait_for_turn(str(tmp_path), LONG) as end_turn:
        end_turn()
        queue(tmp_path, 0, entered).join(LONGEST_SECONDS)

        assert entered == [0]


def test_who_has_waited_long_enough_goes_on_and_the_queue_lasts(tmp_path: Path):
    """A process that was stopped in its turn holds up nobody for good."""
    entered: list[int] = []

    with ExitStack() as stopped:
        stopped.enter_context(wait_for_turn(str(tmp_path), LONG))
        with wait_for_turn(str(tmp_path), 0.0):
            entered.append(0)
    queue(tmp_path, 1, entered).join(LONGEST_SECONDS)

    assert entered == [0, 1]


def test_where_nothing_can_be_locked_nobody_waits(tmp_path: Path):
    with wait_for_turn(str(tmp_path / "missing"), LONG) as end_turn:
        end_turn()


def test_a_turn_ends_when_its_block_raises(tmp_path: Path):
    entered: list[int] = []

    try:
        with wait_for_turn(str(tmp_path), LONG):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        queue(tmp_path, 0, entered).join(LONGEST_SECONDS)

    assert entered == [0]
