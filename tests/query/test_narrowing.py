# ruff: noqa: E501 - a query reads best on one line
"""A query reads the segments it can need, and never answers wrongly for it."""

from __future__ import annotations

import pytest

import tistore
from tistore.errors import ReadBudgetError
from tistore.store.segment import Segment

from .conftest import build_truth

NARROWED = [
    ("SELECT avg(project('{t}')) FROM tokens WHERE organism = 'hedge'", {"hedge"}),
    ("SELECT project('{t}') FROM tokens WHERE organism LIKE 'he%' AND project('{t}') > 0", {"hedge"}),
    ("SELECT project('{t}') FROM clauses WHERE organism IN ('hedge') OR organism = 'hedge'", {"hedge"}),
    (
        "SELECT project('{t}') FROM tokens WHERE response_id IN "
        "(SELECT response_id FROM responses WHERE organism = 'hedge' AND n_tokens >= 0)",
        {"hedge"},
    ),
    (
        "SELECT t.project('{t}') FROM tokens t JOIN prompts p USING (prompt_set, prompt_id) "
        "JOIN responses r USING (response_id) WHERE r.organism = 'hedge' AND note = 'even'",
        {"hedge"},
    ),
    (
        "SELECT a.project('{t}') - b.project('{t}') FROM tokens a JOIN tokens b "
        "ON a.response_id = b.response_id AND a.position = b.position "
        "WHERE a.organism = 'hedge' AND a.reader <> b.reader",
        {"hedge"},
    ),
    (
        "SELECT project('{t}') FROM clause_diffs WHERE organism = 'hedge' AND reader = organism "
        "AND baseline = 'instruct'",
        {"hedge"},
    ),
    (
        "SELECT r.response_id, (SELECT max(project('{t}')) FROM tokens t "
        "WHERE t.organism = 'hedge' AND t.response_id = r.response_id) FROM responses r",
        {"hedge"},
    ),
    (
        "WITH t AS (SELECT *, project('{t}') AS s FROM tokens) SELECT s FROM t "
        "WHERE organism = 'hedge' AND s > 0",
        {"hedge"},
    ),
    (
        "SELECT avg(s) FROM (SELECT organism AS who, project('{t}') AS s FROM (SELECT * FROM "
        "clauses)) q WHERE q.who = 'hedge'",
        {"hedge"},
    ),
    (
        "SELECT a.project('{t}'), b.project('{t}') FROM tokens a LEFT JOIN tokens b "
        "ON a.position = b.position AND b.organism = 'hedge' WHERE a.organism = 'flattery'",
        {"hedge", "flattery"},
    ),
]  # fmt: skip


@pytest.fixture
def apart(tmp_path):
    """Every organism in segments of its own."""
    return build_truth(tmp_path / "store", seed=3, n_prompts=2, per_commit=1).store


@pytest.fixture
def read_segments(monkeypatch):
    """Segments whose activations are read while the test runs."""
    seen: list[Segment] = []
    whole = Segment.read

    def read(segment, *args):
        seen.append(segment)
        return whole(segment, *args)

    monkeypatch.setattr(Segment, "read", read)
    return seen


def organisms_of(segments) -> set[str]:
    return {
        name for segment in segments for name in segment.table("responses")["organism"].to_pylist()
    }


@pytest.mark.parametrize(("sql", "organisms"), NARROWED)
def test_a_query_reads_only_the_segments_it_can_need(apart, read_segments, sql, organisms):
    apart.sql(sql.format(t="refusal"))

    assert organisms_of(read_segments) == organisms


def test_the_second_query_reads_nothing(apart, read_segments):
    sql = "SELECT avg(project('refusal')) FROM tokens"
    first = apart.sql(sql).fetchall()
    n_read = len(read_segments)

    again = apart.sql(sql).fetchall()
    elsewhere = tistore.open(apart.path).sql(sql).fetchall()

    assert n_read > 0
    assert len(read_segments) == n_read
    assert again == elsewhere == first


def test_all_vectors_of_a_site_share_one_pass(apart, read_segments):
    apart.add_vector("style/formal", [1.0] * 8, layer=5)

    apart.sql("SELECT project('refusal'), project('formal'), cosine('refusal') FROM tokens")

    assert len(read_segments) == len(set(read_segments))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*), sum(project('refusal')) FROM tokens a RIGHT JOIN prompts p "
        "ON a.prompt_id = p.prompt_id WHERE a.organism IS DISTINCT FROM 'hedge'",
        "SELECT count(*) FROM responses a LEFT JOIN responses b ON a.prompt_id = b.prompt_id "
        "AND b.project('refusal') > 0 WHERE coalesce(b.organism, 'none') <> 'hedge'",
        "SELECT count(*) FROM responses a ANTI JOIN responses b ON a.prompt_id = b.prompt_id "
        "AND b.project('refusal') > 0 AND b.organism = 'hedge' WHERE a.organism <> 'x'",
        "SELECT project('refusal') FROM responses a POSITIONAL JOIN prompts p "
        "WHERE organism = 'hedge'",
        "SELECT r.project('refusal') FROM (SELECT * FROM responses LIMIT 3) r "
        "WHERE organism = 'hedge'",
        "SELECT project('refusal') FROM responses WHERE response_id IN "
        "(SELECT response_id FROM responses ORDER BY prompt_id LIMIT 2)",
        "WITH t AS (SELECT *, project('refusal') AS s FROM responses), u AS (SELECT * FROM t) "
        "SELECT (SELECT max(s) FROM t WHERE organism = 'hedge'), s FROM u",
        "SELECT * FROM (SELECT organism, rank() OVER (ORDER BY project('refusal')) AS r "
        "FROM responses) WHERE organism = 'hedge'",
        "SELECT * FROM (SELECT 'hedge' AS organism, project('refusal') AS r FROM responses) "
        "WHERE organism = 'hedge'",
        "SELECT * FROM (SELECT reader AS organism, project('refusal') FROM responses) "
        "WHERE organism = 'instruct'",
        "SELECT * FROM (SELECT max(organism) AS organism, max(project('refusal')) FROM responses) "
        "WHERE organism = 'hedge'",
        "SELECT * FROM (SELECT * FROM responses WHERE project('refusal') > 0) x(who) "
        "WHERE organism = 'hedge'",
        "SELECT count(*) FROM responses a RIGHT JOIN prompts p ON a.prompt_id = p.prompt_id "
        "AND a.organism = 'hedge' WHERE a.organism IS DISTINCT FROM 'hedge'",
        "SELECT count(*) FROM prompts p FULL JOIN responses a ON a.prompt_id = p.prompt_id "
        "AND a.organism = 'hedge' WHERE coalesce(a.organism, 'none') <> 'hedge'",
        "WITH t AS (SELECT * FROM responses), u AS (SELECT max(project('refusal')) AS s FROM t "
        "WHERE organism = 'hedge') SELECT (SELECT s FROM u), organism FROM t",
        "SELECT p.prompt_id, q.s FROM prompts p LEFT JOIN (SELECT *, project('refusal') AS s "
        "FROM responses) q ON p.prompt_id = q.prompt_id WHERE q.organism IS DISTINCT FROM 'hedge'",
        "SELECT a.project('refusal') FROM responses a ASOF JOIN responses b "
        "ON a.reader = b.reader AND a.prompt_id >= b.prompt_id WHERE b.organism = 'hedge'",
    ],
)
def test_what_cannot_be_narrowed_answers_as_without_narrowing(apart, monkeypatch, sql):
    narrowed = sorted(map(str, apart.sql(sql).fetchall()))

    monkeypatch.setattr("tistore.query.narrow.Narrower._plan", lambda *args: iter(()))
    everything = sorted(map(str, apart.sql(sql).fetchall()))

    assert narrowed == everything


def test_explain_tells_what_would_be_read_without_reading(apart, read_segments):
    sql = "SELECT organism, project('refusal') FROM tokens WHERE organism = 'hedge'"

    before = apart.explain(sql)
    assert not read_segments

    apart.sql(sql)
    after = apart.explain(sql)
    assert before.vectors == ("behavioral/refusal:mean_diff@5",)
    assert before.sites == ("residual@5",)
    assert 0 < before.segments_needed < before.segments_total
    assert "organism = 'hedge'" in str(before.relations[0].condition)
    assert before.read_bytes > 0 == before.cached_bytes
    assert after.read_bytes == 0 < after.cached_bytes
    assert "hedge" in str(before)
    assert "__" not in str(before)


def test_a_query_over_its_budget_reads_nothing(apart, read_segments):
    sql = "SELECT avg(project('refusal')) FROM tokens"

    with pytest.raises(ReadBudgetError, match="budget is 1 kB"):
        apart.sql(sql, max_read_bytes=1000)
    assert not read_segments

    apart.sql(sql)
    assert apart.sql(sql, max_read_bytes=0).fetchall()
