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


FEWER_READINGS = [
    "WITH responses AS (SELECT * FROM responses WHERE organism = 'x'), u AS (SELECT response_id FROM responses UNION ALL SELECT response_id FROM responses) SELECT project('refusal') FROM tokens WHERE response_id NOT IN (SELECT u.response_id FROM u)",
    "SELECT (SELECT max(t.project('refusal')) FROM (SELECT *, 'instruct' AS baseline FROM tokens) t WHERE t.baseline = 'instruct') FROM response_diffs WHERE baseline <> 'instruct' OR n_tokens > 2",
    "WITH a AS (SELECT * FROM responses WHERE organism = 'hedge'), b AS (SELECT * FROM a), c(x) AS (SELECT response_id FROM b) SELECT project('refusal') FROM tokens WHERE response_id IN (SELECT x FROM c)",
    "WITH a AS (SELECT * FROM responses WHERE organism = 'hedge'), b AS (SELECT a.* FROM a JOIN prompts USING (prompt_id)) SELECT project('refusal') FROM tokens t JOIN b USING (response_id, reader)",
    "SELECT avg(project('refusal')) FROM tokens WHERE organism LIKE 'he%'",
    "SELECT avg(project('refusal')) FROM tokens WHERE response_id IN (SELECT response_id FROM responses WHERE prompt_id = '1')",
    "WITH picked AS (SELECT response_id FROM responses WHERE prompt_id = '1') SELECT avg(project('refusal')) FROM tokens WHERE response_id IN (SELECT response_id FROM picked)",
    "WITH picked(x) AS (SELECT response_id FROM responses WHERE prompt_id = '1') SELECT avg(project('refusal')) FROM tokens WHERE response_id IN (SELECT x FROM picked)",
    "WITH picked AS (SELECT response_id FROM responses WHERE prompt_id = '1') SELECT avg(project('refusal')) FROM tokens JOIN picked USING (response_id)",
    "WITH picked AS (SELECT response_id FROM responses WHERE prompt_id = '1') SELECT avg(t.project('refusal')) FROM tokens t JOIN picked p ON t.response_id = p.response_id",
    "WITH top AS (SELECT response_id, reader, project('refusal') AS s FROM responses WHERE organism = 'hedge' ORDER BY s DESC NULLS LAST LIMIT 2) SELECT position, s, project('sycophancy') FROM tokens JOIN top USING (response_id, reader)",
    "SELECT t.project('refusal') FROM tokens t JOIN prompts p USING (prompt_set, prompt_id) WHERE p.note = 'even'",
    "SELECT project('refusal') FROM tokens JOIN prompts USING (prompt_set, prompt_id) WHERE note = 'even' AND organism = 'hedge'",
    "WITH evens AS (SELECT prompt_id FROM prompts WHERE note = 'even') SELECT project('refusal') FROM tokens WHERE prompt_id IN (SELECT prompt_id FROM evens)",
    "WITH evens AS (SELECT prompt_id FROM prompts WHERE note = 'even') SELECT project('refusal') FROM tokens JOIN evens USING (prompt_id)",
    "SELECT a.project('refusal') - b.project('refusal') FROM tokens a JOIN tokens b USING (response_id, position) WHERE a.reader = a.organism AND b.reader = 'instruct' AND a.organism = 'hedge'",
    "SELECT r.response_id, (SELECT max(t.project('refusal')) FROM tokens t WHERE t.response_id = r.response_id) FROM responses r WHERE r.organism = 'hedge'",
    "SELECT r.response_id FROM responses r WHERE r.organism = 'hedge' AND EXISTS (SELECT 1 FROM tokens t WHERE t.response_id = r.response_id AND t.project('refusal') > 0.5)",
    "SELECT r.response_id FROM responses r WHERE r.organism = 'hedge' AND NOT EXISTS (SELECT 1 FROM tokens t WHERE t.response_id = r.response_id AND t.project('refusal') > 0.5)",
    "SELECT r.response_id, x.m FROM responses r, LATERAL (SELECT max(t.project('refusal')) AS m FROM tokens t WHERE t.response_id = r.response_id) x WHERE r.organism = 'hedge'",
    "SELECT r.response_id, x.m FROM responses r LEFT JOIN LATERAL (SELECT max(t.project('refusal')) AS m FROM tokens t WHERE t.response_id = r.response_id) x ON true WHERE r.organism = 'hedge'",
    "SELECT a.response_id, b.project('refusal') FROM responses a LEFT JOIN responses b ON a.response_id = b.response_id AND b.reader = 'instruct' WHERE a.organism = 'hedge'",
    "SELECT a.response_id, b.project('refusal') FROM responses a LEFT JOIN tokens b USING (response_id) WHERE a.organism = 'hedge'",
    "SELECT a.project('refusal') FROM responses a SEMI JOIN prompts p ON a.prompt_id = p.prompt_id AND p.note = 'odd'",
    "SELECT a.project('refusal') FROM responses a SEMI JOIN prompts USING (prompt_set, prompt_id) WHERE a.organism = 'hedge'",
    "SELECT count(*) FROM responses a ANTI JOIN tokens t ON a.response_id = t.response_id AND t.project('refusal') > 1 WHERE a.organism = 'hedge'",
    "WITH t AS (SELECT *, lower(organism) AS low, project('refusal') > 0 AND n_tokens > 1 AS up FROM responses) SELECT up, organism FROM t WHERE organism = 'hedge'",
    "WITH t AS (SELECT organism, round(project('refusal'), 2) AS s FROM responses) SELECT s FROM t WHERE organism = 'hedge'",
    "SELECT project('refusal') FROM responses WHERE (organism, reader) IN (SELECT organism, organism FROM responses WHERE prompt_id = '2')",
    "SELECT project('refusal') FROM responses r WHERE EXISTS (SELECT 1 FROM prompts p WHERE p.prompt_id = r.prompt_id AND p.note = 'odd')",
    "SELECT project('refusal') FROM responses r WHERE NOT EXISTS (SELECT 1 FROM prompts p WHERE p.prompt_id = r.prompt_id AND p.note = 'odd')",
    "SELECT project('refusal') FROM responses WHERE prompt_id NOT IN (SELECT prompt_id FROM prompts WHERE note = 'odd')",
    "SELECT score FROM scores WHERE vector = 'refusal' AND organism = 'hedge'",
    "SELECT score FROM scores s JOIN prompts p USING (prompt_set, prompt_id) WHERE vector = 'refusal' AND p.note = 'odd'",
    "WITH a AS (SELECT response_id FROM responses WHERE organism = 'hedge'), b AS (SELECT response_id FROM a) SELECT project('refusal') FROM tokens JOIN b USING (response_id)",
    "WITH a AS (SELECT response_id, avg(project('refusal')) AS m FROM clauses WHERE organism = 'hedge' GROUP BY response_id HAVING m > 0) SELECT t.project('sycophancy'), m FROM tokens t JOIN a USING (response_id)",
    "SELECT t.project('refusal') FROM tokens t JOIN (SELECT DISTINCT response_id FROM responses WHERE n_tokens > 5) q ON q.response_id = t.response_id",
    "SELECT avg(project('refusal')) FROM responses WHERE organism = 'hedge' AND random() < 2",
    "SELECT avg(project('refusal')) FROM response_diffs WHERE organism = 'hedge' AND baseline = 'instruct'",
    "SELECT avg(d.project('refusal')) FROM token_diffs d JOIN responses r USING (response_id, reader) WHERE r.n_tokens > 5",
    "SELECT avg(d.project('refusal')) FROM token_diffs d JOIN prompts p USING (prompt_set, prompt_id) LEFT JOIN annotations a USING (response_id) WHERE p.note = 'odd'",
    "SELECT x.project('refusal') FROM (SELECT r.response_id, r.reader FROM responses r JOIN prompts p USING (prompt_id) WHERE p.note = 'odd') x",
    "SELECT c.project('refusal') FROM clauses c JOIN (SELECT response_id, max(n_tokens) AS most FROM responses WHERE prompt_id = '0' GROUP BY 1) m ON m.response_id = c.response_id AND c.n_tokens <= m.most",
    "SELECT r.project('refusal') FROM responses r LEFT JOIN prompts p ON r.prompt_id = p.prompt_id AND p.note = 'odd' WHERE r.organism = 'hedge' AND p.note IS NULL",
    "SELECT r.organism, (SELECT avg(project('refusal')) FROM tokens t WHERE t.reader = r.organism) FROM responses r WHERE r.organism = 'hedge' GROUP BY r.organism",
    "SELECT o.organism FROM (SELECT DISTINCT organism FROM responses WHERE organism <> 'instruct') o WHERE (SELECT avg(t.project('refusal')) FROM tokens t WHERE t.organism = o.organism) > -9",
    "SELECT organism, (SELECT avg(t.project('refusal')) FROM tokens t WHERE t.response_id = r.response_id) FROM responses r WHERE prompt_id = '1'",
    "SELECT t.project('refusal') FROM tokens t, (VALUES ('hedge')) v(o) WHERE t.organism = v.o AND t.prompt_id = '1'",
    "SELECT t.project('refusal') FROM tokens t JOIN (SELECT response_id FROM responses WHERE organism = 'hedge' UNION ALL SELECT response_id FROM responses WHERE organism = 'flattery') u USING (response_id)",
    "SELECT b.project('refusal') FROM responses a LEFT JOIN responses b ON a.response_id = b.response_id AND a.reader <> b.reader LEFT JOIN prompts p ON p.prompt_id = b.prompt_id AND p.note = 'odd'",
    "SELECT a.organism FROM responses a LEFT JOIN responses b ON a.prompt_id = b.prompt_id AND b.organism = 'hedge' AND b.project('refusal') > 0 AND a.n_tokens > 99 WHERE a.reader IS NOT NULL AND b.organism IS DISTINCT FROM 'hedge' AND length(a.organism) > 0 AND a.n_tokens >= 0",
    "SELECT organism, project('refusal') FROM responses WHERE organism = 'hedge' QUALIFY rank() OVER (ORDER BY project('refusal')) < 3",
]  # fmt: skip

AS_MANY_READINGS = [
    "SELECT count(*), sum(r.project('refusal')) FROM responses r LEFT JOIN prompts p ON p.prompt_id = r.prompt_id AND p.note = 'odd' WHERE r.prompt_id = coalesce(p.prompt_id, r.prompt_id)",
    "SELECT d.project('refusal') FROM response_diffs d WHERE d.project('refusal') > (SELECT avg(t.project('refusal')) FROM tokens t WHERE t.position > d.n_tokens)",
    "SELECT count(*), avg(project('refusal')) FROM responses WHERE random() < 2",
    "SELECT project('refusal') FROM responses r LEFT JOIN prompts p ON r.prompt_id = p.prompt_id AND p.note = 'odd'",
    "SELECT r.project('refusal') FROM responses r LEFT JOIN prompts p ON r.prompt_id = p.prompt_id AND p.note = 'odd' WHERE p.note IS NULL",
    "SELECT r.project('refusal') FROM prompts p FULL JOIN responses r ON r.prompt_id = p.prompt_id AND r.organism = 'hedge' WHERE r.organism IS DISTINCT FROM 'hedge'",
    "SELECT p.prompt_id, r.project('refusal') FROM responses r RIGHT JOIN prompts p ON r.prompt_id = p.prompt_id AND r.organism = 'x' WHERE p.note = 'odd'",
    "SELECT count(*) FROM responses a ANTI JOIN responses b ON a.prompt_id = b.prompt_id AND b.project('refusal') > 0 AND b.reader <> a.reader",
    "SELECT r.project('refusal') FROM (SELECT * FROM responses ORDER BY response_id, reader LIMIT 5) r WHERE organism = 'hedge'",
    "SELECT r.s FROM (SELECT organism, rank() OVER (ORDER BY project('refusal')) AS s FROM responses) r WHERE organism = 'hedge'",
    "SELECT a.s FROM (SELECT organism, count(*) OVER () AS s, project('refusal') FROM responses) a WHERE organism = 'hedge'",
    "SELECT a.project('refusal') FROM responses a ASOF JOIN responses b ON a.reader = b.reader AND a.prompt_id >= b.prompt_id WHERE b.organism = 'hedge'",
    "SELECT project('refusal') FROM responses WHERE response_id IN (SELECT response_id FROM responses ORDER BY prompt_id, response_id LIMIT 2)",
    "SELECT project('refusal') FROM responses WHERE response_id IN (SELECT response_id FROM tokens WHERE position > 5)",
    "SELECT project('refusal') FROM responses WHERE response_id IN (SELECT response_id FROM tokens WHERE project('sycophancy') > 0)",
    "WITH top AS (SELECT response_id FROM responses ORDER BY project('refusal') DESC NULLS LAST, response_id, reader LIMIT 2) SELECT project('refusal') FROM tokens WHERE response_id IN (SELECT response_id FROM top)",
    "SELECT project('refusal') FROM tokens WHERE organism = 'hedge' OR project('refusal') > 0",
    "SELECT project('refusal') FROM tokens WHERE organism = 'hedge' OR position > 0",
    "SELECT r.organism, (SELECT avg(project('refusal')) FROM tokens t WHERE t.response_id = r.response_id OR t.reader = 'instruct') FROM responses r WHERE r.organism = 'hedge' AND r.project('refusal') IS NULL AND 1 = 0 OR r.n_tokens > 3",
    "SELECT t.project('refusal') FROM tokens t LEFT JOIN LATERAL (SELECT p.note FROM prompts p WHERE p.prompt_id = t.prompt_id AND p.note = 'odd') x ON true",
    "SELECT t.project('refusal') FROM tokens t, (SELECT 'hedge' AS organism) x WHERE x.organism = 'hedge' AND t.position >= 0",
    "WITH RECURSIVE n(i, o) AS (SELECT 0, 'hedge' UNION ALL SELECT i + 1, o FROM n WHERE i < 2) SELECT t.project('refusal') FROM tokens t JOIN n ON t.position = n.i AND t.organism = n.o",
    "WITH t AS (SELECT organism, project('refusal') AS s FROM responses) SELECT (SELECT max(s) FROM t WHERE organism = 'hedge'), s FROM t",
    "SELECT x.o FROM (SELECT max(organism) AS o, avg(project('refusal')) FROM responses) x WHERE x.o = 'hedge'",
    "SELECT project('refusal') FROM responses TABLESAMPLE 100 PERCENT WHERE organism = 'hedge'",
]  # fmt: skip


@pytest.fixture
def apart(tmp_path):
    """Every organism in segments of its own."""
    return build_truth(tmp_path / "store", seed=3, n_prompts=2, per_commit=1).store


@pytest.fixture
def read_segments(monkeypatch):
    """Segments whose activations are read while the test runs."""
    seen: list[Segment] = []
    whole = Segment.stream

    def stream(segment, *args):
        seen.append(segment)
        return whole(segment, *args)

    monkeypatch.setattr(Segment, "stream", stream)
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


@pytest.fixture(scope="module")
def finely_cut(tmp_path_factory):
    """A store with a segment for every reading."""
    path = tmp_path_factory.mktemp("fine") / "store"
    return build_truth(path, seed=3, n_prompts=3, per_commit=1).store


def answer_and_count(store, sql):
    """A query's answer, and how many readings each of its relations needed."""
    answer = sorted(map(str, store.sql(sql).fetchall()))
    return answer, [needed.readings for needed in store.explain(sql).relations]


@pytest.mark.parametrize(
    ("sql", "is_narrowed"),
    [*((sql, True) for sql in FEWER_READINGS), *((sql, False) for sql in AS_MANY_READINGS)],
)
def test_narrowing_never_changes_an_answer(finely_cut, monkeypatch, sql, is_narrowed):
    narrowed, n_needed = answer_and_count(finely_cut, sql)

    monkeypatch.setattr("tistore.query.narrow.Narrower._plan", lambda *args: iter(()))
    everything, n_all = answer_and_count(finely_cut, sql)
    assert narrowed == everything
    assert (sum(n_needed) < sum(n_all)) == is_narrowed


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

    with pytest.raises(ReadBudgetError, match="budget is 100 B"):
        apart.sql(sql, max_read_bytes=100)
    assert not read_segments

    apart.sql(sql)
    assert apart.sql(sql, max_read_bytes=0).fetchall()


@pytest.mark.parametrize(
    "inner",
    [
        "NOT EXISTS (SELECT 1 FROM responses r WHERE r.response_id = q.response_id "
        "AND r.organism = 'flattery')",
        "(SELECT count(*) FROM responses r WHERE r.response_id = q.response_id "
        "AND r.organism = 'flattery') = 0",
        "(SELECT count(*) + 0 * count(project('refusal')) FROM responses r "
        "WHERE r.response_id = q.response_id AND r.organism = 'flattery') = 0",
    ],
)
def test_a_condition_does_not_narrow_the_query_it_is_made_of(truth, inner):
    """The rows that make it fail would be left out for not being there when it holds."""
    of = {reading.response_id: reading.organism for reading in truth.readings}

    for source in ("responses", "(SELECT DISTINCT response_id FROM responses)"):
        found = truth.store.sql(f"SELECT DISTINCT q.response_id FROM {source} AS q WHERE {inner}")

        wanted = {response for response, organism in of.items() if organism != "flattery"}
        assert {response for (response,) in found.fetchall()} == wanted
