"""Power cuts: what was acknowledged is on the disk."""

from __future__ import annotations

import pytest

from durability.forked import launch


def test_what_is_acknowledged_survives_a_power_cut():
    """And without any fsync it does not: else these cuts would show nothing."""
    found = launch("power_cuts", cuts=2, controls=2)
    if "skipped" in found:
        pytest.skip(found["skipped"])

    cut, control = found["cut"], found["control"]
    assert (cut["lost"], cut["partial"], cut["wrong"]) == ([], [], [])
    assert cut["acknowledged"] >= cut["cuts"] == 2
    assert control["broken"] > 0
