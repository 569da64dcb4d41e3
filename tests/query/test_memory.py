"""Memory is bounded by a setting: what is too large is handed over in pieces, and is the same."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

import tistore
from tistore.query.limits import Limits
from tistore.query.streamed import StreamedRelation

from .conftest import assert_same_rows

QUERIES = [
    "SELECT response_id, reader, position, token, role, project('refusal') FROM tokens",
    "SELECT organism, avg(project('refusal')), max(cosine('sycophancy')) FROM tokens "
    "WHERE is_response AND organism <> 'hedge' GROUP BY ALL",
    "SELECT response_id, reader, clause, text, project('refusal') FROM clauses WHERE n_tokens > 1",
    "SELECT response_id, reader, baseline, position, project('refusal') FROM token_diffs",
    "SELECT response_id, reader, baseline, clause, scaled('refusal') FROM clause_diffs",
    "SELECT response_id, reader, project('refusal'), trajectory('sycophancy') FROM responses",
    "SELECT response_id, reader, baseline, cosine('refusal') FROM response_diffs",
    "SELECT a.response_id, a.position, a.project('refusal') - b.project('refusal') FROM tokens a "
    "JOIN tokens b USING (response_id, position) WHERE a.reader = a.organism "
    "AND b.reader = 'instruct'",
    "SELECT vector, organism, count(*), avg(score) FROM scores "
    "WHERE vector IN ('refusal', 'sycophancy') GROUP BY ALL",
    "SELECT count(*) FROM tokens WHERE token LIKE '%e%' AND project('refusal') > 0",
    "SELECT count(*) FROM tokens WHERE organism = 'nobody' AND project('refusal') > 0",
]


@pytest.fixture
def streaming(truth, monkeypatch):
    """The same store with room for a few rows of a table only, and nothing cached."""
    monkeypatch.setattr(
        Limits, "memory_for", lambda self, use: {"tables": 400, "database": 10**9}.get(use, 2000)
    )
    shutil.rmtree(truth.store.score_folder, ignore_errors=True)
    return tistore.open(truth.store.path)


@pytest.mark.parametrize("sql", QUERIES)
def test_a_streamed_relation_answers_as_one_in_memory(truth, streaming, monkeypatch, sql):
    scans = []
    scanner = StreamedRelation.scanner
    monkeypatch.setattr(
        StreamedRelation,
        "scanner",
        lambda self, *args, **kwargs: scans.append(self) or scanner(self, *args, **kwargs),
    )

    found = streaming.sql(sql).fetchall()
    again = streaming.sql(sql).fetchall()

    monkeypatch.undo()
    wanted = tistore.open(truth.store.path).sql(sql).fetchall()
    assert scans or "nobody" in sql
    assert wanted or "nobody" in sql
    assert_same_rows(found, wanted)
    assert_same_rows(again, wanted)


def test_scores_lost_from_the_cache_meanwhile_are_computed_again(truth, streaming):
    sql = "SELECT response_id, reader, position, project('refusal') AS s FROM tokens ORDER BY ALL"
    wanted = streaming.sql(sql).fetchall()
    plain = streaming._engine._compute

    def compute_and_lose(*args):
        computed = plain(*args)
        shutil.rmtree(streaming.score_folder)
        return computed

    streaming._engine._compute = compute_and_lose

    assert streaming.sql(sql).fetchall() == wanted


def test_a_cache_that_cannot_be_written_costs_memory_but_not_the_answer(truth, streaming):
    sql = "SELECT response_id, reader, position, project('refusal') AS s FROM tokens ORDER BY ALL"
    wanted = streaming.sql(sql).fetchall()
    shutil.rmtree(streaming.score_folder)
    streaming.score_folder.write_text("in the way")

    try:
        found = tistore.open(truth.store.path).sql(sql)
    finally:
        streaming.score_folder.unlink()

    assert found.fetchall() == wanted
    assert any("could not be written" in note for note in found.notes)


@pytest.mark.parametrize(("limit", "expected"), [("1GB", 10**9), (500_000_000, 5 * 10**8)])
def test_the_limit_is_shared_out_whole(limit, expected):
    limits = replace(Limits(), memory_limit=limit)

    uses = [limits.memory_for(use) for use in ("database", "tables", "scores", "columns")]

    assert sum(use or 0 for use in uses) == pytest.approx(expected)
    assert replace(limits, memory_limit=None).memory_for("tables") is None
