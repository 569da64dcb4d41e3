"""Appending, removing, merging, collecting and reading at once: nothing is lost, nothing wrong."""

from __future__ import annotations

from durability.forked import launch


def test_nothing_is_lost_or_wrong_while_everything_happens_at_once():
    found = launch("chaos", steps=2)

    assert found["lost"] == []
    assert found["partial"] == []
    assert found["wrong"] == []
    assert found["counts"]["states read"] > 2
    assert found["counts"]["collections"] > 1
