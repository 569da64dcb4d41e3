# ruff: noqa: E501 - a query reads best on one line
"""SQL here reads the store's relations, and can do nothing else."""

from __future__ import annotations

import re

import duckdb
import pytest

import tistore
from tistore.errors import QueryError, SqlError
from tistore.query.allowed import FUNCTIONS, TABLE_FUNCTIONS
from tistore.query.dynamics import FUNCTIONS as HOUSE_FUNCTIONS
from tistore.query.fence import check_statement
from tistore.query.guard import RESERVED, connect
from tistore.query.limits import Limits
from tistore.query.value_sizes import BOUNDED, MOST, WIDE

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
    "SELECT * FROM tokens, range(position)",
    "SELECT * FROM generate_series(1, (SELECT 10))",
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


# Looked at and left out: they reach files, settings, the catalog or other statements, keep state,
# wait, or take DuckDB's insides apart.
REFUSED_FAMILIES = (
    "__", "collate_", "icu_", "pg_", "has_", "inet_", "duckdb_", "pragma_", "read_", "parquet_",
    "json_serialize", "json_copy_", "variant_", "st_", "disable_", "enable_", "verify_",
    "create_external", "register_external", "deregister_external", "destroy_external",
)  # fmt: skip
REFUSED = set(
    """
    add_parquet_key array_to_string_comma_default arrow_scan arrow_scan_dumb
    bitstring_byte_comparable can_cast_implicitly cast_to_type checkpoint col_description
    collations combine combine_aggr constant_or_null copy_database create_sort_key
    current_catalog current_connection_id current_database current_query current_query_id
    current_role current_schema current_schemas current_setting current_transaction_id
    current_user currval database_list database_size decimal_average decimal_division
    extension_versions finalize force_checkpoint format_pg_type format_type functions
    get_block_size get_type getvariable glob histogram_values hive_partition_component
    import_database in_search_path index_key json_deserialize_sql json_each
    json_execute_serialized_sql json_tree make_type map_to_pg_oid metadata_info nextval
    obj_description pandas_scan parse_duckdb_log_message platform python_arrow_scan
    python_map_function query query_table remap_struct repeat_row replace_type seq_scan
    session_user setseed setval shobj_description show show_databases show_tables
    show_tables_expanded sleep_ms sniff_csv stats storage_info summary table_info
    test_all_types test_vector_types timetz_byte_comparable to_aggregate_state
    truncate_duckdb_logs txid_current unpivot_list user user_agent vector_type version
    vertex_extract which_secret write_log
    """.split()
)


def test_every_function_of_duckdb_is_allowed_or_was_looked_at_and_refused():
    """A new DuckDB's functions are refused until somebody has put them on either list."""
    with duckdb.connect() as plain:
        rows = plain.execute("SELECT DISTINCT function_name FROM duckdb_functions()").fetchall()
    names = {name.lower() for (name,) in rows if re.fullmatch(r"\w+", name)}
    known = FUNCTIONS | TABLE_FUNCTIONS

    refused = {name for name in names - known if name.startswith(REFUSED_FAMILIES)} | REFUSED
    assert names - known - refused == set()
    assert (known | REFUSED) - names == set()
    assert not known & refused
    assert not HOUSE_FUNCTIONS & names


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_function_is_refused_wherever_it_stands(truth, name):
    for sql in (
        f"SELECT {name}('x')",
        f"SELECT * FROM {name}('x')",
        f"SELECT list_transform([1], lambda x: {name}(x))",
        f"SELECT organism FROM responses WHERE {name}(organism) IS NULL",
        f"SELECT organism.{name}() FROM responses",
        f"SELECT system.main.{name}('x')",
        f"SELECT count(*) OVER (ORDER BY {name}(1)) FROM responses",
    ):
        with pytest.raises(SqlError):
            truth.store.sql(sql)


# What the first fence refuses; the second has to without it.
BEHIND_THE_FIRST_FENCE = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd.csv"',
    "SELECT * FROM (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_settings",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM memory.main.tokens",
    "SELECT * FROM sqlite_master",
    "WITH duckdb_tables AS (SELECT 1) SELECT * FROM duckdb_tables",
    "SELECT * FROM tokens AT (VERSION => 1)",
    "WITH x AS (COPY (SELECT 1) TO '/tmp/x.csv') SELECT * FROM x",
    "WITH x AS (INSERT INTO models VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM models RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE models SET name = 'x' RETURNING *) SELECT * FROM x",
    "SELECT * FROM (DESCRIBE tokens)",
    "SELECT * FROM (SUMMARIZE tokens)",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "DESCRIBE tokens",
    "SUMMARIZE tokens",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE tokens",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "ATTACH '/tmp/x.db'",
    "EXPLAIN SELECT 1",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "SET threads = 1",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CHECKPOINT",
    "PIVOT responses ON organism USING count(*)",
    "",
    "SELECT getvariable('x')",
    "SELECT current_setting('threads')",
    "SELECT sleep_ms(1)",
    "SELECT repeat('x', 2000000000)",
    "SELECT repeat(token, 3) FROM tokens",
    "SELECT token.repeat(3) FROM tokens",
    "SELECT system.main.repeat('x', 3)",
    "SELECT range(2000000000)",
    "SELECT printf(token, 1) FROM tokens",
    "SELECT list_transform([1], lambda x: getvariable('x'))",
    "SELECT levenshtein('a', 'b')",
    "SELECT * FROM tokens, range(position)",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT " + "[" * 900 + "1" + "]" * 900,
]


@pytest.mark.parametrize("sql", BEHIND_THE_FIRST_FENCE, ids=lambda sql: sql[:50])
def test_the_second_fence_stands_alone(sql):
    with connect(Limits()) as connection, pytest.raises(SqlError):
        check_statement(connection, sql)


def test_a_query_has_limits_unless_they_are_taken_away(truth):
    assert Limits().timeout_seconds == 300
    assert Limits().memory_limit == "1GB"
    asked = "SELECT name, value FROM duckdb_settings() WHERE name IN ('memory_limit', 'threads')"
    with connect(Limits(memory_limit=50_000_000, threads=1)) as connection:
        assert dict(connection.execute(asked).fetchall()) == {
            "memory_limit": "23.8 MiB",  # half of what a query may use
            "threads": "1",
        }

    store = tistore.open(truth.store.path)
    store.limits = Limits(memory_limit=None, timeout_seconds=None)
    assert store.sql("SELECT count(*) FROM models").fetchall()


def test_no_setting_can_be_changed_behind_the_guard():
    with connect(Limits()) as connection, connection.cursor() as cursor:
        for setting in ("threads = 3", "enable_external_access = true", "memory_limit = '9GB'",
                        "lock_configuration = false", "max_execution_time = 0"):  # fmt: skip
            with pytest.raises(duckdb.Error, match="locked|cannot|Cannot"):
                cursor.execute(f"SET {setting}")
        with pytest.raises(duckdb.Error):
            cursor.execute("COPY (SELECT 1) TO '/tmp/tistore-must-not-be-there.csv'")


SIZED = [
    "SELECT position, repeat(token, position) AS x FROM tokens",
    "SELECT repeat('ab', position + 1) || repeat(token, 2) FROM tokens",
    "SELECT repeat([position, 7], sample + 1) FROM tokens",
    "SELECT lpad(token, (position + 2)::INT, '-'), rpad(token, 9, token || '.') FROM tokens",
    "SELECT range(position), range(2, position), range(position, 0, -2) FROM tokens",
    "SELECT generate_series(position), generate_series(1, position, 3) FROM tokens",
    "SELECT range(DATE '2020-01-01', DATE '2020-02-01', INTERVAL 1 WEEK) FROM tokens",
    "SELECT unnest(range(position)) AS i, position FROM tokens",
    "SELECT list_resize([1, 2], position), array_resize([token], 3, 'x') FROM tokens",
    "SELECT bitstring('101', (position + 3)::INT)::VARCHAR FROM tokens",
    "SELECT levenshtein(token, organism), damerau_levenshtein(token, 'abc') FROM tokens",
    "SELECT jaro_similarity(token, organism), jaro_winkler_similarity(token, 'agree') FROM tokens",
    "SELECT organism, repeat('*', count(*)::INT) FROM tokens GROUP BY organism",
    "SELECT repeat(organism, sample + 1), count(*) FROM tokens GROUP BY repeat(organism, sample + 1)",
    "SELECT repeat(NULL, position), lpad(token, NULL, 'x'), range(NULL) FROM tokens",
    "SELECT repeat(token, -position), range(-position), range(3), range(1, 7, 2) FROM tokens",
    "SELECT printf('%5.2f|%s', position / 3, token), format('{:>9}', token) FROM tokens",
    "SELECT quantile_cont(position, list_transform(range(3), lambda i: i / 4)) FROM tokens",
    "SELECT i, count(*) FROM tokens JOIN range(4) r(i) ON position = i GROUP BY i",
    "SELECT list_reduce([1, 2, position], lambda a, b: a * 2 + b) FROM tokens",
    "SELECT replace(replace(token, 'a', 'bb'), 'e', ''), regexp_replace(token, '[aeiou]', '_', 'g') FROM tokens",
    "WITH a AS NOT MATERIALIZED (SELECT 1 AS x) SELECT * FROM a, a b",
]


@pytest.mark.parametrize("sql", SIZED)
def test_looking_at_sizes_changes_no_answer(truth, oracle_tables, sql):
    with duckdb.connect() as plain:
        plain.register("tokens", oracle_tables["tokens"])
        wanted = plain.execute(sql).fetchall()

    found = truth.store.sql(sql).fetchall()

    assert sorted(map(repr, found)) == sorted(map(repr, wanted))


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_one_value_is_bounded_written_out_or_not(truth, name):
    value = {"list_resize": "[1]", "array_resize": "[1]", "bitstring": "'1'", "repeat": "'x'"}
    first = "" if name in ("range", "generate_series") else value.get(name, "'x'") + ", "
    last = ", 'x'" if name in ("lpad", "rpad") else ""
    written = f"SELECT length({name}({first}{{0}}{last})::VARCHAR) AS n"

    assert truth.store.sql(written.format(MOST - 1)).fetchall()
    assert truth.store.sql(written.format(f"sample + {MOST - 2}") + " FROM responses").fetchall()
    for size in (MOST + 1, 2**31, f"{MOST} + 1", f"(SELECT {MOST} + 1)", "($n + 1)"):
        parameters = {"n": MOST} if "$n" in str(size) else None
        with pytest.raises(SqlError, match="may make 10000"):
            truth.store.sql(written.format(size), parameters)
    with pytest.raises(SqlError, match="may make 10000"):
        truth.store.sql(written.format(f"sample + {MOST + 1}") + " FROM responses")


@pytest.mark.parametrize("name", sorted(WIDE))
def test_long_texts_are_not_compared_letter_by_letter(truth, name):
    text = "x" * 6000
    with pytest.raises(SqlError, match="texts of 5000"):
        truth.store.sql(f"SELECT {name}($a, $a)", {"a": text})


def test_names_of_the_guards_own_stay_out_of_answers(truth):
    result = truth.store.sql(
        "SELECT repeat(token, position), max(range(position)) OVER () FROM tokens"
    )

    assert [name.lower() for name in result.columns] == [
        "repeat(token, position)",
        "max(range(0, position)) over ()",
    ]
    assert not [name for name in result.columns if RESERVED in name]
