# ruff: noqa: E501 - a query reads best on one line
"""`scores` is vector × token, for the vectors a query names."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from tistore.errors import QueryError, SqlError, UnknownVectorError, VectorMismatchError
from tistore.query.relations import PROJECTABLE

from .conftest import assert_same_rows, build_truth
from .test_sql_shapes import over_plain_tables

VECTORS = [("refusal", 5), ("sycophancy", 2), ("refusal", 2), ("behavioral/sycophancy", 2)]

SHAPES = [
    "SELECT response_id, reader, position, vector, layer, score FROM scores WHERE vector = 'refusal' AND layer = 5",
    "SELECT vector, organism, avg(score), count(*) FROM scores WHERE vector IN ('refusal', 'sycophancy') AND layer = 2 GROUP BY ALL",
    "SELECT vector, layer, avg(score) FROM scores WHERE vector IN ('refusal') AND layer IN (2, 5) GROUP BY ALL",
    "SELECT vector, layer, avg(score) FROM scores WHERE vector = 'refusal' AND layer = 5 OR 'sycophancy' = vector AND layer = 2 GROUP BY ALL",
    "SELECT vector, layer, position FROM scores WHERE (vector = 'refusal' OR vector = 'sycophancy' AND score > 0) AND (layer = 2 OR layer = 5 AND vector = 'refusal') AND score > 1",
    "SELECT count(*) FROM scores WHERE vector IN ('refusal', 'sycophancy') AND vector = 'sycophancy' AND layer = 2",
    "SELECT vector, max(score) FROM scores s WHERE s.vector IN ('refusal', 'behavioral/sycophancy') AND s.layer = 2 AND s.organism = 'hedge' GROUP BY vector HAVING max(score) > 0",
    "SELECT corr(a.score, b.score) FROM scores a JOIN scores b USING (response_id, reader, position) WHERE a.vector = 'refusal' AND a.layer = 5 AND b.vector = 'sycophancy' AND b.layer = 2",
    "SELECT a.position, a.score - b.score FROM scores a JOIN scores b ON a.response_id = b.response_id AND a.position = b.position AND a.vector = b.vector AND a.layer = b.layer WHERE a.vector = 'refusal' AND a.layer = 5 AND a.reader = a.organism AND b.reader = 'instruct'",
    "SELECT a.vector, avg(a.score - b.score) FROM scores a JOIN scores b USING (response_id, position, vector, layer) WHERE vector IN ('refusal', 'sycophancy') AND layer = 2 AND a.reader <> b.reader AND b.reader = 'instruct' GROUP BY ALL",
    "SELECT r.response_id, r.reader, s.m FROM responses r LEFT JOIN (SELECT response_id, reader, max(score) AS m FROM scores WHERE vector = 'refusal' AND layer = 5 GROUP BY ALL) s USING (response_id, reader)",
    "SELECT r.response_id, count(s.score) FROM responses r LEFT JOIN scores s ON s.vector = 'refusal' AND s.layer = 2 AND s.response_id = r.response_id AND s.reader = r.reader AND s.score > 0 GROUP BY r.response_id",
    "SELECT s.position, r.organism FROM responses r RIGHT JOIN scores s ON r.response_id = s.response_id AND r.reader = s.reader AND r.organism = 'hedge' WHERE s.vector = 'refusal' AND s.layer = 2",
    "SELECT s.position, r.organism FROM responses r FULL JOIN scores s ON r.response_id = s.response_id AND r.reader = s.reader AND r.organism = 'hedge' WHERE s.vector = 'refusal' AND s.layer = 2",
    "SELECT response_id FROM responses r ANTI JOIN scores s ON s.vector = 'refusal' AND s.layer IN (2) AND s.response_id = r.response_id AND s.score > 1",
    "SELECT r.response_id, r.reader FROM responses r WHERE EXISTS (SELECT 1 FROM scores s WHERE s.vector = 'refusal' AND s.layer = 5 AND s.response_id = r.response_id AND s.score > r.project('refusal') + 1)",
    "SELECT p.note, vector, avg(score) FROM scores JOIN prompts p USING (prompt_set, prompt_id) WHERE vector = 'refusal' AND layer = 5 GROUP BY ALL",
    "SELECT s.score FROM prompts p JOIN scores s ON s.prompt_id = p.prompt_id AND s.vector = 'refusal' AND s.layer = 5 WHERE p.note = 'odd'",
    "SELECT organism, refusal, sycophancy FROM (SELECT organism, vector, score FROM scores WHERE vector IN ('refusal', 'sycophancy') AND layer = 2) PIVOT (avg(score) FOR vector IN ('refusal', 'sycophancy'))",
    "SELECT organism, reader, refusal, sycophancy FROM (SELECT organism, reader, vector, layer, score FROM scores WHERE layer = 2 AND vector IN ('refusal', 'sycophancy')) PIVOT (avg(score) FOR vector IN ('refusal', 'sycophancy') GROUP BY organism, reader)",
    "WITH s AS (SELECT * FROM scores) SELECT avg(score) FROM s WHERE vector = 'refusal' AND layer = 5 AND organism = 'hedge'",
    "WITH s AS (SELECT vector AS name, layer AS l, score FROM scores) SELECT name, avg(score) FROM s WHERE name IN ('refusal', 'sycophancy') AND l = 2 GROUP BY name",
    "WITH s AS (SELECT response_id, reader, position, vector, score FROM scores WHERE vector IN ('refusal', 'sycophancy') AND layer = 2), w AS (SELECT *, score - avg(score) OVER (PARTITION BY vector) AS c FROM s) SELECT vector, stddev_pop(c) FROM w GROUP BY vector",
    "SELECT vector, position, score FROM scores WHERE vector IN ('refusal', 'sycophancy') AND layer = 2 QUALIFY row_number() OVER (PARTITION BY vector ORDER BY score DESC NULLS LAST, response_id, reader, position) <= 3",
    "SELECT avg(score), corr(score, project('refusal')), corr(score, project('sycophancy')) FROM scores WHERE vector = 'refusal' AND layer = 5",
    "SELECT vector, avg(score - project('refusal', 2)) FROM scores WHERE vector IN ('refusal', 'sycophancy') AND layer = 2 GROUP BY vector",
    "SELECT organism, max(score) FROM scores WHERE vector = 'refusal' AND layer = 5 GROUP BY organism UNION ALL SELECT organism, min(score) FROM scores WHERE vector = 'sycophancy' AND layer = 2 GROUP BY organism",
    "SELECT c.text, x.vector, x.m FROM clauses c, LATERAL (SELECT vector, avg(score) AS m FROM scores s WHERE s.vector IN ('refusal', 'sycophancy') AND s.layer = 2 AND s.response_id = c.response_id AND s.reader = c.reader AND s.position BETWEEN c.token_start AND c.token_end - 1 GROUP BY vector) x",
    "SELECT t.position, s.score FROM tokens t ASOF JOIN scores s ON t.response_id = s.response_id AND t.reader = s.reader AND s.vector = 'refusal' AND s.layer = 2 AND t.position >= s.position",
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(truth, oracle_tables):
    """DuckDB over plain tables, `scores` among them with brute-force values."""
    score = {("refusal", 5): "refusal", ("refusal", 2): "refusal_on_2"}
    with duckdb.connect() as connection:
        for name, table in oracle_tables.items():
            connection.register(f"__{name}", table)
            connection.execute(f"CREATE TABLE {name} AS FROM __{name}")
        connection.register("prompts", truth.store.snapshot.table("prompts"))
        branches = [
            f"SELECT *, '{vector}' AS vector, {layer} AS layer, {score.get((vector, layer), 'sycophancy')} AS score FROM tokens"
            for vector, layer in VECTORS
        ]
        connection.execute(f"CREATE TABLE scores AS {' UNION ALL '.join(branches)}")
        yield connection


@pytest.mark.parametrize("sql", SHAPES)
def test_a_query_answers_as_over_a_plain_long_table(truth, plain, sql):
    wanted = plain.execute(over_plain_tables(sql)).fetchall()

    result = truth.store.sql(sql)

    assert len(result) > 0
    assert_same_rows(result.fetchall(), wanted)


def test_a_star_shows_the_columns_of_tokens_and_three_more(truth):
    tokens = truth.store.sql("SELECT * FROM tokens").columns

    columns = truth.store.sql("SELECT * FROM scores WHERE vector = 'refusal'").columns
    beside = truth.store.sql(
        "SELECT * FROM scores WHERE vector = 'refusal' AND project('sycophancy') > 0"
    ).columns

    assert columns == beside == [*tokens, "vector", "layer", "score"] == list(PROJECTABLE["scores"])


@pytest.mark.parametrize(
    ("condition", "parameters", "vectors"),
    [
        ("vector = $v", {"v": "refusal"}, {("refusal", 5)}),
        ("vector IN ('sycophancy', $v)", {"v": "refusal@5"}, {("refusal@5", 5), ("sycophancy", 2)}),
        ("vector = ANY($v)", {"v": ["refusal", "sycophancy"]}, {("refusal", 5), ("sycophancy", 2)}),
        ("vector IN $v AND layer IN $l", {"v": ["refusal"], "l": [2, 5]}, {("refusal", 2), ("refusal", 5)}),
        ("vector = 'behavioral/' || $v AND layer = $l", {"v": "refusal", "l": 2}, {("behavioral/refusal", 2)}),
        ("vector IN (SELECT trait FROM vectors)", {}, {("behavioral/refusal", 5), ("behavioral/sycophancy", 2)}),
        ("vector IN (SELECT trait FROM vectors WHERE layer = $l)", {"l": 5}, {("behavioral/refusal", 5)}),
        ("vector IN (SELECT vector_hash FROM vectors WHERE layer = 5)", {}, None),
        ("vector = (SELECT max(trait) FROM vectors)", {}, {("behavioral/sycophancy", 2)}),
        ("vector IN (SELECT t FROM picked)", {}, {("behavioral/sycophancy", 2)}),
        ("vector IN (SELECT trait || '@' || layer FROM vectors WHERE trait LIKE '%refusal')", {}, {("behavioral/refusal@5", 5)}),
        ("vector IN ('refusal', NULL, 'refusal')", {}, {("refusal", 5)}),
        ("(vector = 'refusal' OR vector = 'refusal' AND layer = 5)", {}, {("refusal", 5)}),
    ],
)  # fmt: skip
def test_vectors_are_named_in_many_ways(truth, condition, parameters, vectors):
    result = truth.store.sql(
        "WITH picked(t) AS (SELECT trait FROM vectors ORDER BY trait DESC LIMIT 1) "
        f"SELECT vector, layer, count(*) FROM scores WHERE {condition} GROUP BY ALL",
        parameters,
    ).fetchall()

    n_tokens = truth.store.sql("SELECT count(*) FROM tokens").fetchall()[0][0]
    assert {row[2] for row in result} == {n_tokens}
    assert vectors is None or {row[:2] for row in result} == vectors
    assert len(result) == len(vectors or result)


def test_a_subquery_that_would_answer_otherwise_the_second_time_is_asked_once(truth):
    for _ in range(10):
        result = truth.store.sql(
            "SELECT DISTINCT vector FROM scores WHERE vector IN (SELECT trait FROM vectors ORDER BY random() LIMIT 1)"
        )
        assert len(result) == 1


def test_a_pivot_names_the_vectors_it_spreads(truth):
    spread = truth.store.sql(
        "FROM scores PIVOT (avg(score) FOR vector IN ('refusal', 'sycophancy') GROUP BY organism)"
    ).fetchall()

    assert_same_rows(
        spread,
        truth.store.sql(
            "SELECT organism, avg(project('refusal')), avg(project('sycophancy')) FROM tokens GROUP BY organism"
        ).fetchall(),
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM scores",
        "SELECT * FROM scores WHERE organism = 'hedge'",
        "SELECT * FROM scores WHERE layer = 5",
        "SELECT * FROM scores WHERE vector LIKE 'ref%'",
        "SELECT * FROM scores WHERE vector <> 'refusal'",
        "SELECT * FROM scores WHERE NOT vector = 'refusal'",
        "SELECT * FROM scores WHERE vector = 'refusal' OR organism = 'hedge'",
        "SELECT * FROM scores s LEFT JOIN prompts p ON s.vector = 'refusal'",
        "SELECT * FROM scores a JOIN scores b USING (response_id, position) WHERE a.vector = 'refusal'",
        "SELECT * FROM scores USING SAMPLE 3 WHERE vector = 'refusal'".replace("USING SAMPLE 3 ", "TABLESAMPLE 50 PERCENT "),
        "SELECT * FROM (SELECT * FROM scores LIMIT 3) WHERE vector = 'refusal'",
        "SELECT * FROM tokens t ASOF JOIN scores s ON t.response_id = s.response_id AND t.position >= s.position WHERE s.vector = 'refusal'",
    ],
)  # fmt: skip
def test_without_naming_a_vector_it_is_told_what_to_write(truth, sql):
    with pytest.raises(SqlError, match="say which are meant") as caught:
        truth.store.sql(sql)

    assert "vector = 'refusal'" in str(caught.value.mend)


@pytest.mark.parametrize(
    ("sql", "error", "told"),
    [
        ("SELECT * FROM scores WHERE vector = 'refusel'", UnknownVectorError, "did you mean 'refusal'"),
        ("SELECT * FROM scores WHERE vector = 'refusal' AND layer = 99", VectorMismatchError, "at layers 2, 5"),
        ("SELECT * FROM scores WHERE vector = 5", SqlError, "vector is a reference, not 5"),
        ("SELECT * FROM scores WHERE vector = 'refusal' AND layer = 'x'", SqlError, "'x' is no layer"),
        ("SELECT * FROM scores WHERE vector = 'refusal' AND vector = 'sycophancy'", SqlError, "leave no vector"),
        ("SELECT * FROM scores WHERE vector IN (SELECT trait FROM vectors WHERE layer = 77)", SqlError, "leave no vector"),
        ("SELECT * FROM scores WHERE vector IN (SELECT organism FROM responses)", SqlError, "known before"),
        ("SELECT * FROM scores WHERE vector IN (SELECT text FROM clauses WHERE project('refusal') > 0)", SqlError, "known before"),
        ("SELECT * FROM scores WHERE vector = lower(organism)", SqlError, "known before"),
        ("SELECT * FROM scores WHERE vector IN (SELECT trait, layer FROM vectors)", SqlError, "one column"),
        ("SELECT score FROM tokens WHERE vector = 'refusal'", SqlError, "vector"),
        ("SELECT * FROM scores WHERE vector = $missing", SqlError, "no value is given"),
    ],
)  # fmt: skip
def test_a_wrong_vector_condition_is_told_what_is_wrong(truth, sql, error, told):
    with pytest.raises(error) as caught:
        truth.store.sql(sql)

    assert told in str(caught.value)
    assert isinstance(caught.value, QueryError)
    assert "__" not in str(caught.value)


def test_readings_without_the_layer_are_null_and_counted(truth):
    lacking = sum(5 not in reading.layers for reading in truth.readings)
    n_tokens = sum(len(r.values) for r in truth.readings if 5 not in r.layers)

    result = truth.store.sql("SELECT count(*) - count(score) FROM scores WHERE vector = 'refusal'")

    assert result.fetchall()[0][0] == n_tokens > 0
    assert any(f"NULL for {lacking} of {len(truth.readings)} readings" in n for n in result.notes)


def test_it_is_narrowed_as_tokens_are_and_explained(truth):
    told = truth.store.explain(
        "SELECT s.score FROM scores s JOIN prompts p USING (prompt_set, prompt_id) "
        "WHERE vector IN ('refusal', 'sycophancy') AND s.organism = 'hedge' AND p.note = 'odd'"
    )

    wanted = sum(r.organism == "hedge" and int(r.prompt_id) % 2 == 1 for r in truth.readings)
    assert [needed.readings for needed in told.relations] == [wanted]
    assert told.relations[0].relation == "scores"
    assert told.vectors == ("behavioral/refusal:mean_diff@5", "behavioral/sycophancy:mean_diff@2")
    assert "scores s: " in str(told)


def test_many_vectors_at_once_are_those_of_project(tmp_path):
    store = build_truth(tmp_path / "store", seed=2, n_prompts=2).store
    directions = np.random.default_rng(3).standard_normal((70, 8)).astype(np.float32)
    for place, direction in enumerate(directions):
        store.add_vector(f"many/t{place}", direction, layer=5)

    found = store.sql(
        "SELECT vector, response_id, reader, position, score FROM scores "
        "WHERE vector IN (SELECT trait FROM vectors WHERE trait LIKE 'many/%')"
    ).fetchall()

    calls = ", ".join(f"project('many/t{place}') AS t{place}" for place in range(70))
    wide = store.sql(f"SELECT response_id, reader, position, {calls} FROM tokens").fetchall()
    wanted = [(f"many/t{place}", *row[:3], row[3 + place]) for row in wide for place in range(70)]
    assert sorted(found, key=str) == sorted(wanted, key=str)
