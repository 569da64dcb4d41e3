# ruff: noqa: E501 - a statement reads best on one line
"""
SQL from a stranger reads the store and does nothing else, and it ends.

Every statement is refused, or harmless: it may run and answer, or fail. Either way it writes
nothing, reads no file, changes no setting, and is over a second after its time limit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import tistore
from tistore.errors import QueryError, SqlError
from tistore.query.limits import Limits
from tistore.query.store import Store

LIMIT_SECONDS = 1.0
THREADS = len(os.sched_getaffinity(0))
"""How many seconds of processor time a second has."""
CANARY = "the canary sings at midnight"

# {canary} is a file outside the store, {store} the store, {out} a file that is not there.
READS_FILES = [
    "SELECT * FROM read_text('{canary}')",
    "SELECT * FROM read_blob('{canary}')",
    "SELECT * FROM read_csv('{canary}')",
    "SELECT * FROM read_csv_auto('{canary}', header = false)",
    "SELECT * FROM read_json('{canary}')",
    "SELECT * FROM read_ndjson_objects('{canary}')",
    "SELECT * FROM read_parquet('{store}/segments/*/tokens.parquet')",
    "SELECT * FROM parquet_scan('{store}/segments/*/tokens.parquet')",
    "SELECT * FROM parquet_schema('{store}/segments/*/tokens.parquet')",
    "SELECT * FROM glob('{store}/**')",
    "SELECT * FROM sniff_csv('{canary}')",
    "SELECT * FROM read_duckdb('{canary}')",
    "SELECT * FROM '{canary}'",
    'SELECT * FROM "{canary}"',
    "FROM '{canary}'",
    "SELECT * FROM $${canary}$$",
    "SELECT * FROM E'{canary}'",
    "SELECT * FROM ('{canary}')",
    "SELECT * FROM ['{canary}']",
    "SELECT * FROM models JOIN '{canary}' ON true",
    "SELECT * FROM models, LATERAL (FROM '{canary}')",
    "SELECT (SELECT content FROM read_text('{canary}'))",
    "SELECT 1 WHERE EXISTS (FROM read_text('{canary}'))",
    "SELECT list_transform(['{canary}'], lambda x: (SELECT content FROM read_text(x)))",
    "SELECT [x FOR x IN (SELECT list(content) FROM read_text('{canary}'))]",
    "SELECT '{canary}'.read_text()",
    "SELECT list_aggregate(['{canary}'], 'read_text')",
    "SELECT list_aggr(['{canary}'], 'glob')",
    "SELECT * FROM query('SELECT * FROM read_text(''{canary}'')')",
    "SELECT * FROM query_table('{canary}')",
    "SELECT * FROM query_table(['models', '{canary}'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{canary}'')'))",
    "SELECT json_serialize_plan('SELECT * FROM read_text(''{canary}'')')",
    "SELECT 1 UNION ALL SELECT content FROM read_text('{canary}')",
    "SELECT 1 ORDER BY (SELECT content FROM read_text('{canary}'))",
    "SELECT 1 LIMIT (SELECT len(content) FROM read_text('{canary}'))",
    "SELECT 1 FROM models QUALIFY (SELECT true FROM read_text('{canary}'))",
    "SELECT count(*) FILTER (WHERE EXISTS (FROM read_text('{canary}'))) FROM models",
    "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT len(content) FROM read_text('{canary}')) SELECT * FROM r",
    "SELECT * FROM (VALUES ((SELECT content FROM read_text('{canary}'))))",
    "SELECT * FROM models PIVOT (count(*) FOR name IN (SELECT content FROM read_text('{canary}')))",
    "SELECT * FROM scores WHERE vector IN (SELECT content FROM read_text('{canary}'))",
    "SELECT * FROM scores WHERE vector = (SELECT content FROM '{canary}')",
    "SELECT project('refusal') FROM tokens WHERE organism = (SELECT content FROM read_text('{canary}'))",
    "SELECT project((SELECT content FROM read_text('{canary}'))) FROM tokens",
    "TABLE '{canary}'",
    "SELECT * FROM read\u200b_text('{canary}')",
    "SELECT * FROM r\u0435ad_text('{canary}')",  # a Cyrillic e
    "SELECT * FROM \uff52ead_text('{canary}')",  # a wide r
    "SELECT * FROM READ_TEXT('{canary}')",
    "SELECT * FROM \"read_text\"('{canary}')",
    "SELECT * FROM system.main.read_text('{canary}')",
    "SELECT * FROM read_text/**/('{canary}')",
    "SELECT * FROM /* SELECT 1 */ read_text('{canary}') -- harmless",
]

WRITES = [
    "COPY (SELECT 1) TO '{out}'",
    "COPY models TO '{out}' (FORMAT parquet)",
    "COPY models FROM '{canary}'",
    "WITH x AS (COPY (SELECT 1) TO '{out}') SELECT * FROM x",
    "WITH x AS (SELECT 1), y AS (COPY (SELECT 1) TO '{out}') SELECT * FROM x",
    "SELECT * FROM (COPY (SELECT 1) TO '{out}')",
    "WITH x AS (INSERT INTO models VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE models SET name = 'x' RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM models RETURNING *) SELECT * FROM x",
    "INSERT INTO models SELECT * FROM models",
    "UPDATE models SET name = 'x'",
    "DELETE FROM tokens",
    "TRUNCATE tokens",
    "DROP VIEW tokens",
    "DROP TABLE IF EXISTS __tistore_table_0",
    "ALTER TABLE models ADD COLUMN x INT",
    "CREATE TABLE x AS FROM models",
    "CREATE OR REPLACE VIEW models AS SELECT 1",
    "CREATE MACRO project(x) AS 1",
    "CREATE FUNCTION repeat(a, b) AS 1",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE SEQUENCE s",
    "CREATE SCHEMA s",
    "CREATE SECRET s (TYPE s3)",
    "CREATE TRIGGER t AFTER INSERT ON models EXECUTE SELECT 1",
    "COMMENT ON TABLE models IS 'x'",
    "ATTACH '{out}' AS x",
    "ATTACH '{canary}' (READ_ONLY)",
    "DETACH memory",
    "USE memory",
    "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{store}'",
    "SELECT * INTO x FROM models",
    "MERGE INTO models USING prompts ON true WHEN MATCHED THEN DELETE",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM ANALYZE",
    "ANALYZE",
    "BEGIN",
    "SELECT nextval('s')",
    "SELECT setval('s', 1)",
    "SELECT write_log('x')",
    "SELECT setseed(0.5)",
    "SELECT add_parquet_key('a', 'b')",
    "CALL enable_profiling()",
    "CALL enable_logging()",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM truncate_duckdb_logs()",
    "SELECT * FROM register_external_resource('a', 'b')",
]

CHANGES_SETTINGS = [
    "SET threads = 1",
    "SET SESSION enable_progress_bar = true",
    "SET GLOBAL enable_external_access = true",
    "SET lock_configuration = false",
    "SET memory_limit = '100GB'",
    "SET max_execution_time = 0",
    "SET VARIABLE x = 1",
    "SET VARIABLE x = (SELECT content FROM read_text('{canary}'))",
    "RESET threads",
    "RESET VARIABLE x",
    "PRAGMA enable_profiling",
    "PRAGMA memory_limit = '9GB'",
    "PRAGMA database_list",
    "SELECT set_config('threads', '1', false)",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{canary}'",
    "FORCE INSTALL httpfs FROM community",
    "UPDATE EXTENSIONS",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "CALL pragma_version()",
]

TELLS_TALES = [
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_settings",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM duckdb_variables()",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM duckdb_tables()",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM pragma_database_size()",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM pg_tables",
    "SELECT * FROM sqlite_master",
    "WITH duckdb_settings AS (SELECT 1) SELECT * FROM duckdb_settings, (SELECT * FROM duckdb_settings())",
    "SELECT * FROM memory.main.models",
    "SELECT * FROM temp.models",
    "SELECT * FROM models AT (VERSION => 1)",
    "SELECT current_setting('temp_directory')",
    "SELECT getenv('HOME')",
    "SELECT getvariable('x')",
    "SELECT main.getvariable('x')",
    "SELECT 'threads'.current_setting()",
    "SELECT list_transform(['threads'], lambda x: current_setting(x))",
    "SELECT list_reduce(['a', 'b'], lambda a, b: getvariable(a))",
    "SELECT invoke(lambda x: getvariable(x), 'x')",
    "SELECT COLUMNS(lambda c: getvariable(c) IS NULL) FROM models",
    "SELECT current_query()",
    "SELECT in_search_path('memory', 'main')",
    "SELECT pg_get_viewdef(1)",
    "SELECT pg_conf_load_time()",
    "SELECT has_table_privilege('models', 'select')",
    "SELECT parse_duckdb_log_message('FileSystem', '{}')",
    "SELECT txid_current()",
    "DESCRIBE models",
    "SUMMARIZE models",
    "SHOW ALL TABLES",
    "SELECT * FROM (DESCRIBE models)",
    "SELECT * FROM (SHOW TABLES)",
    "SELECT * FROM (SUMMARIZE models)",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT * FROM models",
    "SELECT * FROM __tistore_table_0",
    "SELECT __tistore_sized_repeat('x', 3)",
    "SELECT * FROM store",
    "SELECT * FROM secret_frame",
    "SELECT * FROM python_arrow_scan(1, 2, 3)",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM seq_scan('models')",
]

SMUGGLES = [
    "SELECT 1; COPY (SELECT 1) TO '{out}'",
    "SELECT 1;;; DROP VIEW models",
    "SELECT 1 -- x\n; COPY (SELECT 1) TO '{out}'",
    "SELECT 1 /* ; */ ; SELECT 2",
    "/* SELECT */ COPY (SELECT 1) TO '{out}'",
    "-- SELECT 1\nATTACH '{out}'",
    "SELECT $$a$$; SELECT $b$c$b$",
    "SELECT 'a\\'; COPY (SELECT 1) TO '{out}'; --'",
    'SELECT "a""; ATTACH \'{out}\'; --"',
    "SELECT 1\x00; COPY (SELECT 1) TO '{out}'",
    "SELECT 1 \uff1b COPY (SELECT 1) TO '{out}'",
    "SELECT 1 \u037e COPY (SELECT 1) TO '{out}'",  # a Greek question mark
    "SELECT '\u2019; ATTACH '{out}'; --'",
    "\ufeffCOPY (SELECT 1) TO '{out}'",
    "(SELECT 1); (SELECT 2)",
    "BEGIN; SELECT 1; COMMIT",
    "SELECT 1 \\copy models to '{out}'",
    ".shell touch {out}",
]

# Each is refused, or runs and does no harm; which of the two is DuckDB's affair.
HARMLESS = [
    "SELECT 'COPY (SELECT 1) TO ''{out}'''",
    "SELECT $$; ATTACH '{out}'$$",
    "SELECT '{canary}' AS path, parse_filename('{canary}')",
    'SELECT 1 AS "; DROP VIEW models"',
    "SELECT 1 -- COPY (SELECT 1) TO '{out}'",
    "VALUES (1), (2)",
    "TABLE models",
    "FROM models",
    "SELECT random(), uuid(), now(), current_date, current_user, current_schema",
    "SELECT COLUMNS(*) FROM models",
    "SELECT COLUMNS(lambda c: c LIKE 'n%') FROM models",
    "SELECT list_aggregate([1, 2, 3], 'sum')",
    "SELECT list_aggregate([1, 2, 3], 'nothing of the kind')",
    'SELECT from_json(\'{{"a": 1}}\', \'{{"a": "INT"}}\')',
    "SELECT '{{\"a\": [1, 2]}}'::JSON -> 'a'",
    "SELECT error('told')",
    "SELECT 1 / 0, 'x'::INT",
    "SELECT power(10, 1e308), factorial(33), gamma(1e308), 2::HUGEINT ** 126",
    "SELECT 99999999999999999999999999999999999999::DECIMAL(38, 0) * 10::DECIMAL(38, 0)",
    "SELECT 1e400, 'nan'::DOUBLE, 9223372036854775807 + 1",
    "SELECT 1" + "0" * 10_000,
    "SELECT * FROM range(3), generate_series(1, 2)",
    "SELECT regexp_matches('x', '((a{{0,100}}){{0,100}}){{0,100}}b')",
    "SELECT regexp_matches('" + "a" * 50_000 + "', '(a*)*b')",
    "SELECT '" + "a" * 50_000 + "' LIKE '" + "%a" * 10_000 + "b'",
    "SELECT '" + "[" * 100_000 + "'::JSON",
    "SELECT DATE '2020-01-01' + INTERVAL 999999 YEAR",
    "SELECT bar(1, 0, 1, 100000000)",
    "SELECT * FROM models ORDER BY ALL LIMIT 99999999999",
    "SELECT '\U0001f4a3' || chr(0) || chr(1114111)",
]

NESTED = {
    "parentheses": "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
    "a few parentheses": "SELECT " + "(" * 150 + "1" + ")" * 150,
    "lists": "SELECT " + "[" * 3_000 + "1" + "]" * 3_000,
    "calls": "SELECT " + "abs(" * 3_000 + "1" + ")" * 3_000,
    "NOT": "SELECT " + "NOT " * 10_000 + "true",
    "minus": "SELECT " + "- " * 10_000 + "1",
    "CASE": "SELECT " + "CASE WHEN true THEN " * 1_000 + "1" + " END" * 1_000,
    "subqueries": "SELECT * FROM " + "(SELECT * FROM " * 1_000 + "models" + ")" * 1_000,
    "sum": "SELECT " + " + ".join(["1"] * 15_000),
    "OR": "SELECT 1 FROM models WHERE " + " OR ".join(["name = 'x'"] * 9_000),
    "UNION": " UNION ALL ".join(["SELECT 1"] * 5_000),
    "struct": "SELECT " + "{{'a': " * 2_000 + "1" + "}}" * 2_000,
    "open": "SELECT " + "(" * 30_000,
    "text of 10 MB": "SELECT '" + "x" * 10_000_000 + "'",
    "text of 3 MB": "SELECT " + ", ".join(["1"] * 1_000_000),
    "IN list": "SELECT 1 FROM models WHERE 1 IN (" + ",".join(["1"] * 50_000) + ")",
    "output columns of each other": "SELECT 1 AS a0, "
    + ", ".join(f"a{i} + a{i} AS a{i + 1}" for i in range(40)),
    "CTEs of each other": "WITH c0 AS NOT MATERIALIZED (SELECT 'x' AS v), "
    + ", ".join(f"c{i + 1} AS NOT MATERIALIZED (SELECT a.v FROM c{i} a, c{i} b)" for i in range(30))
    + " SELECT score FROM scores WHERE vector IN (SELECT v FROM c30)",
    "stars": "SELECT " + ", ".join(["COLUMNS(*)"] * 2_000) + " FROM tokens",
    "joins": "SELECT * FROM " + ", ".join(f"models m{i}" for i in range(250)),
    "tables": "SELECT * FROM " + ", ".join(f"(SELECT * FROM models) m{i}" for i in range(400)),
    "PIVOT": "SELECT * FROM (SELECT position p, token_id t FROM tokens) PIVOT (count(*) FOR "
    "p IN (" + ",".join(map(str, range(120))) + ") t IN (" + ",".join(map(str, range(120))) + "))",
    "CUBE": "SELECT 1 FROM tokens GROUP BY CUBE ("
    + ", ".join(f"position + {i}" for i in range(16))
    + ")",
}

LARGE = [
    "SELECT repeat('x', 2000000000)",
    "SELECT length(repeat('x', 2000000000 + sample)) FROM responses",
    "SELECT sum(length(repeat(token, 100000000))) FROM tokens",
    "SELECT len(repeat([1], 1000000000))",
    "SELECT repeat(repeat(repeat('x', 10000), 10000), 10000)",
    "SELECT repeat(s, 10000) FROM (SELECT repeat(token, 9999) AS s FROM tokens WHERE position > 0)",
    "SELECT main.repeat('x', 2000000000)",
    "SELECT 'x'.repeat(2000000000)",
    "SELECT repeat('x', CASE WHEN random() < 0.5 THEN 1 ELSE 2000000000 END)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT rpad('x', 2000000000, 'y')",
    "SELECT printf('%2000000000d', 1)",
    "SELECT printf('%*d', 2000000000, 1)",
    "SELECT printf(token, 1) FROM tokens",
    "SELECT format('{{:2000000000d}}', 1)",
    "SELECT format('{{:{{}}}}', 1, 2000000000)",
    "SELECT len(range(2000000000))",
    "SELECT len(generate_series(1, 2000000000))",
    "SELECT len(range(TIMESTAMP '1000-01-01', TIMESTAMP '3000-01-01', INTERVAL 1 SECOND))",
    "SELECT count(*) FROM (SELECT unnest(range(100000000)))",
    "SELECT sum(len(range(50000000 + position))) FROM tokens",
    "SELECT list_resize([1], 2000000000, 0)",
    "SELECT array_resize(['abcdefgh'], 100000000, 'abcdefgh')",
    "SELECT bitstring('1', 2000000000)",
    "SELECT list_reduce(list_transform(range(100), lambda x: 'x'), lambda a, b: a || a)",
    "SELECT list_reduce([[1], [2], [3]], lambda a, b: list_concat(a, a))",
    "SELECT len(" + "replace(" * 9 + "'aaaaaaaaaa'" + ", 'a', 'aaaaaaaaaa')" * 9 + ")",
    "SELECT len(" + "hex(" * 20 + "'aaaaaaaaaa'" + ")" * 20 + ")",
    "SELECT levenshtein('" + "a" * 300_000 + "', '" + "b" * 300_000 + "')",
    "SELECT damerau_levenshtein('" + "a" * 30_000 + "', '" + "b" * 30_000 + "')",
    "SELECT sleep_ms(20000)",
    "SELECT pg_sleep(20)",
    "SELECT list_transform([20], lambda x: pg_sleep(x))",
]

BOMBS = [
    "SELECT count(*) FROM tokens a, tokens b, tokens c, tokens d WHERE a.position + b.position + c.position = -d.position - 1",
    "SELECT * FROM tokens a, tokens b, tokens c",
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n, tokens) SELECT max(i) FROM n",
    "WITH RECURSIVE d(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM d) SELECT max(length(s)) FROM d",
    "WITH RECURSIVE d(s) AS (SELECT [1] UNION ALL SELECT list_concat(s, s) FROM d) SELECT max(len(s)) FROM d",
    "SELECT string_agg(a.text || b.text || c.text, '') FROM responses a, responses b, responses c, tokens d",
    "SELECT quantile_cont(random(), 0.5) FROM tokens a, tokens b, tokens c",
    "SELECT histogram(random()) FROM tokens a, tokens b, tokens c",
    "SELECT count(*) FROM (SELECT DISTINCT random() FROM tokens a, tokens b, tokens c)",
    "SELECT len(list(a.position || b.token)) FROM tokens a, tokens b, tokens c",
    "SELECT array_agg(a.text ORDER BY random()) FROM clauses a, tokens b, tokens c",
    "SELECT max(s) FROM (SELECT list(a.position) OVER (ORDER BY a.position ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS s FROM tokens a, tokens b)",
    "SELECT a.position, (SELECT count(*) FROM tokens b, tokens c, tokens d WHERE b.position + c.position + d.position > a.position) FROM tokens a",
    "SELECT count(*) FROM range(10000000000)  a, range(10000000000) b",
    "SELECT list_transform(range(3000), lambda x: list_sum(list_transform(range(9000), lambda y: x * y)))",
    "SELECT count(*) FROM tokens GROUP BY "
    + ", ".join(f"ROLLUP (position + {i}, sample + {i})" for i in range(10)),
    "SELECT count(*) FROM (SELECT a.position p FROM tokens a, tokens b, responses c) a JOIN (SELECT a.position p FROM tokens a, tokens b, responses c) b ON a.p > b.p",
    "SELECT unnest(list_transform(range(3000), lambda x: range(3000)), recursive := true)",
    "SELECT score FROM scores WHERE vector IN (WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT 'behavioral/refusal' FROM n)",
    "SELECT project('refusal') FROM tokens a, tokens b, tokens c WHERE a.project('refusal') > b.project('refusal') + c.project('refusal')",
    "SELECT regexp_extract_all('" + "ab" * 100_000 + "', '(.*?b){{1,900}}.*?c')",
]

REFUSED = [
    *READS_FILES, *WRITES, *CHANGES_SETTINGS, *TELLS_TALES, *SMUGGLES, *LARGE,
]  # fmt: skip


class Yard:
    """A store, a canary beside it, and everything that must stay as it was."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder
        self.path = folder / "store"
        shutil.copytree(source, self.path)
        (folder / "canary.csv").write_text(f"a,b\n{CANARY},1\n")
        (folder / "work").mkdir()
        (folder / "tmp").mkdir()
        self.store: Store = tistore.open(self.path)
        self.store.limits = Limits(timeout_seconds=LIMIT_SECONDS)
        self.store.sql("SELECT count(*) FROM tokens")  # opens the database
        self.files_before, self.settings_before = self.files(), self.settings()

    def fill(self, sql: str) -> str:
        """Put paths into a statement; those that hold no path are long, and stay as they are."""
        return (
            sql.replace("{canary}", str(self.folder / "canary.csv"))
            .replace("{store}", str(self.path))
            .replace("{out}", str(self.folder / "out.csv"))
            .replace("{{", "{")
            .replace("}}", "}")
        )

    def files(self) -> dict[str, str]:
        """Every file of the yard but cached scores, by its content."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and self.path / "scores" not in path.parents
        }

    def settings(self) -> list[tuple]:
        """DuckDB's settings, variables and relations, as a new question finds them."""
        database = self.store._engine._database
        with database.cursor() as cursor:
            return [
                cursor.execute(f"SELECT * FROM {what} ORDER BY ALL").fetchall()
                for what in (
                    "(SELECT name, value FROM duckdb_settings())",
                    "duckdb_variables()",
                    "(SELECT table_name FROM duckdb_tables())",
                    "(SELECT view_name FROM duckdb_views() WHERE NOT internal)",
                    "(SELECT function_name FROM duckdb_functions() WHERE NOT internal)",
                    "(SELECT database_name, path FROM duckdb_databases())",
                )
            ]

    def ask(self, sql: str) -> tuple[str, float]:
        """What came of a statement, as text, and the seconds of processor time it took."""
        # A clock on the wall would also count what the machine's other work takes.
        begun = time.process_time()
        try:
            result = self.store.sql(sql)
        except QueryError as error:
            return f"{type(error).__name__}: {error}", (time.process_time() - begun) / THREADS
        seconds = (time.process_time() - begun) / THREADS
        return str(result.to_arrow().slice(0, 1000))[:100_000], seconds


@pytest.fixture(scope="module")
def yard(truth, tmp_path_factory):
    return Yard(tmp_path_factory.mktemp("yard"), truth.store.path)


@pytest.fixture(autouse=True)
def nothing_changes(yard, monkeypatch):
    """Around every test: files, settings and relations stay as they are, and work comes to an end."""
    monkeypatch.chdir(yard.folder / "work")
    monkeypatch.setenv("TMPDIR", str(yard.folder / "tmp"))

    yield

    for thread in threading.enumerate():
        if thread.name == "tistore-sql":
            thread.join(20)
            assert not thread.is_alive(), "left behind for more than 20 s"
    assert yard.files() == yard.files_before
    assert yard.settings() == yard.settings_before


def _short(sql: str) -> str:
    return sql[:60].replace("\x00", " ")


@pytest.mark.parametrize("sql", REFUSED, ids=map(_short, REFUSED))
def test_what_reaches_out_is_refused(yard, sql):
    told, seconds = yard.ask(yard.fill(sql))

    assert told.startswith(("SqlError: ", "UnknownVectorError: ")), told[:200]
    assert "Permission Error" not in told  # refused here, before DuckDB had to
    assert CANARY not in told
    assert seconds <= LIMIT_SECONDS + 1


@pytest.mark.parametrize("sql", HARMLESS, ids=map(_short, HARMLESS))
def test_what_only_looks_dangerous_does_nothing(yard, sql):
    told, seconds = yard.ask(yard.fill(sql))

    assert CANARY not in told
    assert "Traceback" not in told
    assert seconds <= LIMIT_SECONDS + 1


@pytest.mark.parametrize("name", NESTED)
def test_what_would_keep_the_planner_busy_is_refused_at_once(yard, name):
    told, seconds = yard.ask(yard.fill(NESTED[name]))

    assert told.startswith("SqlError: "), told[:200]
    assert seconds <= LIMIT_SECONDS + 1


@pytest.mark.parametrize("sql", BOMBS, ids=map(_short, BOMBS))
def test_what_would_run_for_ever_ends_with_its_limit(yard, sql):
    told, seconds = yard.ask(yard.fill(sql))

    assert seconds <= LIMIT_SECONDS + 1, told[:200]
    assert CANARY not in told


def test_python_is_out_of_reach(yard):
    import pyarrow as pa

    secret_frame = pa.table({"x": [CANARY]})

    for sql in ("SELECT * FROM secret_frame", "FROM secret_frame", "SELECT secret_frame.x"):
        told, _ = yard.ask(sql)
        assert told.startswith("SqlError: ")
        assert CANARY not in told
    assert secret_frame.num_rows == 1


def test_the_store_answers_after_all_that(yard):
    with pytest.raises(SqlError, match="time limit"):
        yard.store.sql(BOMBS[2])

    assert yard.store.sql("SELECT avg(project('refusal')) FROM tokens").fetchall()


def test_there_are_enough_of_them():
    assert len(REFUSED) + len(HARMLESS) + len(NESTED) + len(BOMBS) >= 120
