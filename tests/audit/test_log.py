"""Whoever reads a finding can see how much was looked at to find it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tistore
from tistore.audit.log import NO_LOG, log_analysis, read_analyses
from tistore.errors import StoreError


@pytest.fixture
def store(tmp_path):
    made = tistore.create(tmp_path / "s.tistore")
    made.add_vector("tone/odd", np.ones(2), layer=1)
    return made


def ask(store, n_cells=10, **question):
    return log_analysis(store, "top", question, n_cells=n_cells, n_rows=2)


def test_analyses_are_listed_in_order_with_the_cells_inspected_so_far(store):
    question = {"trait": "odd", "where": None, "n": np.int64(3), "file": Path("a"), "by": ("x",)}
    log_analysis(
        store, "rank", question, n_cells=952, n_rows=3, vectors=["tone/odd@1"], n_organisms=56,
        n_traits=17,
    )  # fmt: skip
    ask(store, 20)

    first, second = read_analyses(tistore.open(store.path))

    assert json.loads(first.question) == {"trait": "odd", "n": 3, "file": "a", "by": ["x"]}
    assert (first.command, first.n_cells, first.n_rows) == ("rank", 952, 3)
    assert (first.vectors, first.n_organisms, first.n_traits) == (("tone/odd@1",), 56, 17)
    assert (first.snapshot, second.n_organisms) == (1, None)
    assert [first.total_cells, second.total_cells] == [952, 972]
    assert first.at <= second.at
    assert first.analysis_id != second.analysis_id


def test_logging_changes_neither_the_snapshot_nor_what_verify_reads(store):
    before = store.snapshot, store.verify().files
    held = store._engine

    assert ask(store) == ()

    assert (store.snapshot, store.verify().files) == before
    assert store._engine is held
    assert tistore.open(store.path).snapshot.number == 1


def test_nothing_is_logged_at_an_older_commit_on_request_or_where_nobody_may_write(
    store, monkeypatch
):
    """And whoever asks is told."""
    pinned = tistore.open(store.path, 1)
    assert ask(pinned) == ("this analysis is not logged: the store is open at commit 1",)
    with monkeypatch.context() as changed:
        changed.setattr(type(store._files), "is_writable", lambda files: False)
        assert ask(store) == ("this analysis is not logged: the store is read-only",)
    with monkeypatch.context() as changed:
        changed.setenv(NO_LOG, "1")
        assert ask(store) == ("this analysis is not logged: TISTORE_NO_LOG is set",)
        changed.setenv(NO_LOG, "")
        assert ask(store) == ()

    assert len(read_analyses(store)) == 1


def test_an_answer_is_not_lost_when_the_log_cannot_be_written(store):
    store.analyses.path.mkdir()

    (note,) = ask(store)

    assert "this analysis is not logged: cannot write" in note
    with pytest.raises(StoreError, match="cannot read"):
        read_analyses(store)


def test_a_line_cut_short_hides_no_other(store):
    ask(store, 1)
    with store.analyses.path.open("ab") as file:
        file.write(b'{"time": "2026')
    ask(store, 2)

    assert [one.n_cells for one in read_analyses(store)] == [1, 2]


def test_a_line_that_somebody_has_changed_is_named(store):
    ask(store)
    line = json.loads(store.analyses.path.read_text())
    line["n_cells"] = None
    store.analyses.path.write_text(json.dumps(line) + "\n")

    with pytest.raises(StoreError, match=rf"the analysis of {line['time'][:10]}.* is not whole"):
        read_analyses(store)


def test_a_store_nobody_has_asked_has_no_log(store):
    assert read_analyses(store) == []
    assert not store.analyses.path.exists()
