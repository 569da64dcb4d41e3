"""Many writers at once; the long form is `make torture`."""

from __future__ import annotations

from durability.forked import launch


def test_writers_at_once_lose_nothing_and_leave_a_dense_log():
    """Though they write the same things, and two are killed; and readers see whole commits only."""
    found = launch("races", writers=8, rounds=4, kills=2, apart=True)

    assert (found["lost"], found["partial"], found["wrong"]) == ([], [], [])
    assert found["commits"] >= 8 * 3
    assert found["opened"] > 0


def test_of_writers_that_contradict_each_other_one_is_told_yes():
    found = launch("contests", writers=6, rounds=4)

    assert (found["lost"], found["partial"], found["wrong"]) == ([], [], [])
    assert found["refused"] == 4 * 5
