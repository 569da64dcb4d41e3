"""What a log amounts to, where it says more than this version knows, or less than it did."""

from __future__ import annotations

import pytest

from example_readings import make_reading
from tistore.errors import FormatVersionError
from tistore.store.base import BaseStore
from tistore.store.log import Commit, add_keys, append_commit


def test_a_commit_that_needs_a_later_reader_is_refused_and_those_before_can_be_opened(filled):
    """Rather than shown without what it says."""
    number = filled.snapshot.number
    append_commit(
        filled._files,
        parent=filled.snapshot.commits[-1],
        header_hash=filled.header.sha256,
        writer="f" * 32,
        commit_uuid="e" * 32,
        additions={"needs": ["teleported"], "segments": [], "tables": [], "keys": {}},
    )

    with pytest.raises(FormatVersionError, match="knows teleported") as caught:
        BaseStore.open(filled.path)
    with pytest.raises(FormatVersionError), filled.writer() as writer:
        writer.add(**make_reading(9))

    assert f"--at {number}" in str(caught.value)
    assert BaseStore.open(filled.path, at=number).verify().ok


def test_a_removal_takes_nothing_where_the_commit_that_added_it_is_lost():
    """Nor what has come to have the name since."""
    held = {"vectors": {"name": "later", "other": "x"}}
    removal = Commit(3, "", {"keys": {}, "removed": {"vectors": {"name": "lost", "gone": "y"}}})

    assert add_keys(held, [removal]) == held
