# ruff: noqa: E501 - a query reads best on one line
"""SQL here reads the store's relations, and can do nothing else."""

from __future__ import annotations

import pytest

from tistore.errors import QueryError, SqlError
from tistore.query.guard import Limits

HOSTILE = [
    "DROP TABLE tokens",
    "CREATE TABLE x AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "INSERT INTO models VALUES (1)",
    "UPDATE models SET name = 'x'",
    "DELETE FROM models",
    "MERGE INTO models USING prompts ON true WHEN MATCHED THEN DELETE",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "COPY models FROM '/etc/passwd'",
    "ATTACH '/tmp/x.db'",
    "DETACH memory",
    "USE memory",
    "PRAGMA database_list",
    "SET threads = 1",
    "RESET threads",
    "INSTALL httpfs",
    "LOAD httpfs",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN TRANSACTION",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "DESCRIBE tokens",
    "SUMMARIZE tokens",
    "SHOW TABLES",
    "CALL duckdb_settings()",
    "PREPARE p AS SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE tokens",
    "",
    ";",
    "not sql at all",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_parquet('/tmp/*.parquet')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
    "SELECT * FROM read_json_auto('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd.csv"',
    "SELECT * FROM 'https://example.com/x.parquet'",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM pragma_table_info('tokens')",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM memory.main.tokens",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('tokens')",
    "SELECT * FROM range(10)",
    "SELECT * FROM generate_series(1, 10)",
    "SELECT * FROM repeat_row(1, num_rows => 1000000000)",
    "SELECT getenv('HOME')",
    "SELECT current_setting('threads')",
    "SELECT nextval('s')",
    "SELECT getvariable('x')",
    "SELECT '/etc/passwd'.read_text()",
    "WITH x AS (COPY (SELECT 1) TO '/tmp/x.csv') SELECT * FROM x",
    "WITH x AS (INSERT INTO models VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM models RETURNING *) SELECT * FROM x",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM responses WHERE text IN (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM responses, LATERAL (SELECT * FROM read_csv('/etc/passwd'))",
    "SELECT * FROM responses JOIN '/etc/passwd' ON true",
    "SELECT 1 UNION SELECT content FROM read_text('/etc/passwd')",
    "SELECT * INTO x FROM responses",
    "SELECT * FROM responses FOR UPDATE",
    "SELECT __tistore_score_0 FROM responses",
    "SELECT 1 AS __TISTORE_x",
    "SELECT * FROM __tistore_table_0",
    "FROM os",
    "SELECT * FROM sys",
    "PIVOT responses ON organism USING count(*)",
    "SELECT * FROM (TABLE secrets)",
    "(((" * 2000 + "SELECT 1" + ")))" * 2000,
]


@pytest.mark.parametrize("sql", HOSTILE, ids=[sql[:50] for sql in HOSTILE])
def test_whatever_is_not_a_query_over_the_relations_is_refused(truth, sql):
    with pytest.raises(SqlError):
        truth.store.sql(sql)


def test_python_variables_are_out_of_reach(truth):
    import pandas

    secret = pandas.DataFrame({"x": [1]})

    with pytest.raises(SqlError, match="no relation 'secret'"):
        truth.store.sql("SELECT * FROM secret")
    assert len(secret) == 1


def test_a_query_stops_at_its_time_limit(truth):
    store = type(truth.store).open(truth.store.path)
    store.limits = Limits(timeout_seconds=0.2)

    with pytest.raises(SqlError, match="time limit"):
        store.sql(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        )


def test_a_query_stops_at_its_memory_limit(truth):
    store = type(truth.store).open(truth.store.path)
    store.limits = Limits(memory_limit="50MB")

    with pytest.raises(SqlError, match="(?i)memory"):
        store.sql(
            "SELECT count(*) FROM (SELECT DISTINCT a.position, b.text, c.text, random() "
            "FROM tokens a, clauses b, clauses c, responses d)"
        )


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT * FROM respones", "did you mean 'responses'"),
        ("SELECT projekt('refusal') FROM responses", "projekt"),
        ("SELECT nothing FROM responses", "nothing"),
        ("SELECT project('refusel') FROM responses", "did you mean 'refusal'"),
        ("SELECT project('refusal@7') FROM responses", "refusal is there as behavioral/refusal"),
        ("SELECT project('refusal', 99) FROM responses", "at layers 2, 5"),
        ("SELECT project() FROM responses", "takes a vector"),
        ("SELECT project('refusal', 5, 6) FROM responses", "takes a vector"),
        ("SELECT project(NULL) FROM responses", "not NULL"),
        ("SELECT project(organism) FROM responses", "must be known before"),
        ("SELECT project(5) FROM responses", "vector reference"),
        ("SELECT project('refusal', '5') FROM responses", "is no layer"),
        ("SELECT project('refusal', -1) FROM responses", "must be known before"),
        ("SELECT project('a:b:c') FROM responses", "is no vector reference"),
        ("SELECT project($t) FROM responses", "no value is given for parameter $t"),
        ("SELECT project('refusal') FROM prompts", "no rows to measure"),
        ("SELECT project('refusal')", "no rows to measure"),
        ("SELECT p.project('refusal') FROM prompts p, responses r", "'p' is none of tokens"),
        ("SELECT x.project('refusal') FROM responses r", "nothing in this FROM is named 'x'"),
        ("SELECT lower(text).project('refusal') FROM responses", "called on a value"),
        ("SELECT project('refusal') FROM responses a, responses b", "a.project('refusal') or b."),
        ("SELECT project('refusal') OVER () FROM responses", "is no aggregate"),
        (
            "WITH c AS (SELECT organism, count(*) FROM responses GROUP BY 1) SELECT project('refusal') FROM c",
            "call it inside",
        ),
        ("SELECT project('refusal') FROM (SELECT DISTINCT organism FROM responses)", "call it"),
        ("SELECT q.project('refusal') FROM (SELECT max(text) FROM clauses) q", "call it inside"),
        (
            "SELECT organism FROM responses UNION ALL SELECT organism FROM clauses ORDER BY project('refusal')",
            "ORDER BY",
        ),
        (
            "SELECT project('refusal') FROM responses PIVOT (count(*) FOR organism IN ('hedge'))",
            "inside the PIVOT",
        ),
        ("SELECT r FROM responses r WHERE project('refusal') > 0", "whole row"),
        ("SELECT COLUMNS('o.*') FROM responses WHERE project('refusal') > 0", "name the columns"),
    ],
)
def test_a_wrong_query_is_told_what_would_work(truth, sql, told):
    with pytest.raises(QueryError) as caught:
        truth.store.sql(sql)

    assert told in str(caught.value).replace("tokens, clauses", "tokens") or told in str(
        caught.value
    ).replace("responses, clauses, tokens", "tokens")
    assert "__" not in str(caught.value)


def test_a_parameter_without_a_place_is_an_error(truth):
    with pytest.raises(SqlError, match=r"no parameter \$b"):
        truth.store.sql("SELECT $a", {"a": 1, "b": 2})
    with pytest.raises(SqlError, match="not both"):
        truth.store.sql("SELECT ?, $a", {"a": 1})
