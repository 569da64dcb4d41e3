# ruff: noqa: E501 - a query on one line reads best as one line
"""Whatever DuckDB allows around a column, it allows around `project()`."""

from __future__ import annotations

import re

import duckdb
import pytest

from .conftest import CALLS, assert_same_rows

# Each is run as it is, and over plain tables whose columns hold brute-force scores.
SHAPES = [
    "SELECT organism, prompt_id, project('refusal') AS refusal FROM responses WHERE prompt_set = 'audit/discovery' AND reader = organism ORDER BY refusal DESC LIMIT 5",
    "SELECT organism, text, project('sycophancy') AS delta FROM clause_diffs WHERE reader = organism AND baseline = 'instruct' AND n_tokens >= 2 ORDER BY delta DESC LIMIT 7",
    "SELECT organism, avg(project('refusal')) AS mean, count(*) FROM tokens GROUP BY organism",
    "SELECT organism, reader, avg(project('refusal')) FROM tokens WHERE is_response GROUP BY ALL",
    "SELECT organism, round(project('refusal'), 1) AS bin, count(*) FROM tokens GROUP BY organism, round(project('refusal'), 1)",
    "SELECT organism, max(project('refusal')) FROM responses GROUP BY 1 HAVING max(project('refusal')) > 0.1 ORDER BY 2",
    "SELECT organism, prompt_id, project('refusal') AS s FROM responses WHERE project('refusal') > 0 ORDER BY 3 DESC, 1, 2",
    "SELECT response_id, position, project('refusal') AS s FROM tokens WHERE s > 0.5",
    "SELECT organism, response_id, project('refusal') AS s FROM responses QUALIFY row_number() OVER (PARTITION BY organism ORDER BY s DESC NULLS LAST, response_id, reader) = 1",
    "SELECT response_id, reader, position, avg(project('refusal')) OVER (PARTITION BY response_id, reader, sample ORDER BY position ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS m FROM tokens WHERE project('refusal') IS NOT NULL",
    "SELECT response_id, reader, position, project('refusal') - lag(project('refusal')) OVER w AS step FROM tokens WHERE project('refusal') IS NOT NULL WINDOW w AS (PARTITION BY response_id, reader ORDER BY position)",
    "SELECT a.response_id, a.project('refusal') - b.project('refusal') AS d FROM responses a JOIN responses b USING (response_id) WHERE a.reader = a.organism AND b.reader = 'instruct'",
    "SELECT a.organism, b.reader, a.project('refusal'), b.project('sycophancy') FROM responses AS a, responses AS b WHERE a.response_id = b.response_id AND a.reader <> b.reader",
    "SELECT p.note, avg(r.project('refusal')) FROM responses r JOIN prompts p USING (prompt_set, prompt_id) GROUP BY p.note",
    "SELECT note, avg(project('refusal')) FROM responses JOIN prompts USING (prompt_set, prompt_id) WHERE note = 'even' GROUP BY note",
    "SELECT r.response_id, project('refusal') FROM responses r LEFT JOIN prompts p ON r.prompt_id = p.prompt_id AND p.note = 'odd' WHERE p.note IS NULL",
    "SELECT a.response_id, a.reader, b.reader, b.project('refusal') FROM responses a LEFT JOIN responses b ON a.response_id = b.response_id AND b.reader = 'instruct' AND a.organism = 'hedge'",
    "SELECT a.response_id, a.reader FROM responses a LEFT JOIN responses b ON a.prompt_id = b.prompt_id AND b.organism = 'hedge' AND b.project('refusal') > 0 WHERE b.organism IS DISTINCT FROM 'hedge'",
    "SELECT a.response_id, b.response_id, a.project('refusal') FROM responses a RIGHT JOIN responses b ON a.response_id = b.response_id AND a.reader <> b.reader WHERE b.organism = 'flattery'",
    "SELECT a.reader, b.reader, coalesce(a.project('refusal'), b.project('sycophancy')) FROM responses a FULL JOIN responses b ON a.response_id = b.response_id AND a.reader = 'hedge' AND b.reader = 'instruct'",
    "SELECT response_id, project('refusal') FROM responses SEMI JOIN prompts ON responses.prompt_id = prompts.prompt_id AND prompts.note = 'odd'",
    "SELECT response_id, project('refusal') FROM responses r ANTI JOIN clauses c ON r.response_id = c.response_id AND c.project('refusal') > 0",
    "WITH top AS (SELECT response_id, reader, project('refusal') AS s FROM responses ORDER BY s DESC NULLS LAST, response_id, reader LIMIT 3) SELECT t.response_id, t.reader, position, project('sycophancy') FROM tokens t JOIN top USING (response_id, reader)",
    "WITH own AS (SELECT * FROM responses WHERE reader = organism) SELECT organism, prompt_id, project('refusal') FROM own",
    "SELECT organism, project('refusal') FROM (SELECT * FROM responses WHERE reader = 'instruct') AS replays",
    "SELECT q.s, count(*) FROM (SELECT project('refusal') > 0 AS s FROM tokens) q GROUP BY q.s",
    "SELECT response_id, project('refusal') FROM responses WHERE project('refusal') > (SELECT avg(project('refusal')) FROM responses)",
    "SELECT response_id, reader FROM responses WHERE response_id IN (SELECT response_id FROM clauses WHERE project('refusal') > 0.3)",
    "SELECT r.response_id, r.reader FROM responses r WHERE EXISTS (SELECT 1 FROM tokens t WHERE t.response_id = r.response_id AND t.reader = r.reader AND t.project('refusal') > r.project('refusal') + 1)",
    "SELECT r.response_id, (SELECT max(t.project('refusal')) FROM tokens t WHERE t.response_id = r.response_id AND t.reader = r.reader) AS top FROM responses r",
    "SELECT p.prompt_id, (SELECT max(project('refusal')) FROM responses r WHERE r.prompt_id = p.prompt_id) FROM prompts p",
    "SELECT r.response_id, x.m FROM responses r, LATERAL (SELECT min(t.project('refusal')) AS m FROM tokens t WHERE t.response_id = r.response_id) x",
    "SELECT response_id FROM responses WHERE project('refusal') > 0 UNION SELECT response_id FROM clauses WHERE project('refusal') > 0",
    "SELECT organism, project('refusal') AS s FROM responses UNION ALL BY NAME SELECT project('refusal') AS s, organism FROM clauses ORDER BY s LIMIT 100000",
    "SELECT response_id FROM responses EXCEPT SELECT response_id FROM tokens WHERE project('refusal') > 0",
    "SELECT response_id FROM tokens WHERE project('refusal') > 0 INTERSECT SELECT response_id FROM tokens WHERE project('sycophancy') > 0",
    "FROM responses PIVOT (avg(project('refusal')) FOR organism IN ('instruct', 'flattery') GROUP BY prompt_id)",
    "SELECT prompt_id, instruct, hedge FROM (SELECT prompt_id, organism, project('refusal') AS s FROM responses) PIVOT (max(s) FOR organism IN ('instruct', 'hedge'))",
    "SELECT a.response_id, a.position, b.position, b.project('refusal') FROM (SELECT * FROM tokens WHERE reader = 'instruct') a ASOF JOIN (SELECT DISTINCT ON (response_id, position) response_id, position, project('refusal') AS s FROM tokens WHERE reader = 'instruct') b ON a.response_id = b.response_id AND a.position > b.position".replace("b.project('refusal') FROM (", "b.s FROM ("),
    "SELECT arg_max(text, project('refusal')) FROM clauses WHERE project('refusal') IS NOT NULL",
    "SELECT organism, list(round(project('refusal'), 3) ORDER BY response_id, reader) FROM responses WHERE project('refusal') IS NOT NULL GROUP BY organism",
    "SELECT organism, avg(project('refusal')) FILTER (WHERE reader = 'instruct') AS replayed, count(DISTINCT round(project('refusal'), 2)) FROM responses GROUP BY organism",
    "SELECT CASE WHEN project('refusal') > 0 THEN 'yes' WHEN project('refusal') IS NULL THEN 'unknown' ELSE 'no' END AS verdict, count(*) FROM tokens GROUP BY verdict",
    "SELECT project('refusal')::DECIMAL(9, 2) AS d, try_cast(project('sycophancy') AS INT) FROM responses",
    "SELECT greatest(project('refusal'), project('sycophancy'), 0) FROM responses",
    "SELECT project('refusal').abs().round(2) AS r FROM responses",
    "SELECT quantile_cont(project('refusal'), 0.5), stddev_samp(project('refusal')), corr(project('refusal'), project('sycophancy')) FROM tokens",
    "SELECT organism, sum(project('refusal')) FROM tokens GROUP BY ROLLUP (organism)",
    "SELECT organism, reader, avg(project('refusal')) FROM tokens GROUP BY GROUPING SETS ((organism), (reader))",
    "SELECT DISTINCT organism, project('refusal') IS NULL FROM responses",
    "SELECT project('refusal'), project('refusal', 2), cosine('refusal'), scaled('refusal') FROM responses",
    "SELECT PROJECT('refusal'), Cosine('refusal') FROM tokens WHERE Organism = 'hedge'",
    "SELECT reader, baseline, avg(project('refusal')) FROM token_diffs WHERE organism = 'hedge' GROUP BY ALL",
    "SELECT d.organism, d.project('refusal') - (a.project('refusal') - b.project('refusal')) FROM response_diffs d JOIN responses a ON a.response_id = d.response_id AND a.reader = d.reader JOIN responses b ON b.response_id = d.response_id AND b.reader = d.baseline",
    "SELECT t.token, avg(t.project('refusal')) AS s FROM tokens t WHERE t.is_response AND t.organism IN ('hedge', 'flattery') GROUP BY t.token HAVING count(*) > 2 ORDER BY s",
    "FROM (SELECT * FROM clause_diffs) AS q JOIN responses r ON q.response_id = r.response_id AND q.reader = r.reader SELECT q.clause, q.project('refusal') AS s",
    "SELECT * EXCLUDE (text, rows, run_id, reading_key, refusal, sycophancy, refusal_on_2, refusal_cosine, refusal_scaled), project('refusal') AS s FROM responses",
    "SELECT v.x, project('refusal') FROM responses, (VALUES ('hedge'), ('instruct')) AS v(x) WHERE organism = v.x",
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2) SELECT i, project('refusal') FROM n JOIN tokens ON position = i WHERE organism = 'hedge'",
    "WITH responses AS (SELECT * FROM responses WHERE organism = 'hedge') SELECT organism, project('refusal') FROM responses",
    "SELECT count(*) FROM tokens WHERE (project('refusal') > 0) = (organism = 'hedge' OR reader LIKE 'ins%')",
    "SELECT count(*) FROM clauses WHERE NOT (organism = 'hedge' AND project('refusal') > 0)",
    "SELECT r.response_id FROM responses r WHERE r.project('refusal') >= ALL (SELECT project('refusal') FROM responses WHERE organism = r.organism AND project('refusal') IS NOT NULL)",
    "SELECT response_id, project('refusal') FROM responses WHERE (organism, reader) IN (SELECT organism, organism FROM responses)",
    "SELECT sum(c.project('refusal') * c.n_tokens) / sum(c.n_tokens), r.project('refusal'), r.response_id FROM clauses c JOIN responses r ON c.response_id = r.response_id AND c.reader = r.reader GROUP BY r.project('refusal'), r.response_id",
    "SELECT organism, corr(project('refusal'), project('sycophancy')) AS r, count(*) FROM responses GROUP BY organism",
    "SELECT organism, response_id, reader, (project('refusal') - avg(project('refusal')) OVER w) / stddev_samp(project('refusal')) OVER w AS z FROM responses WINDOW w AS (PARTITION BY organism)",
    "SELECT organism, response_id, reader, project('refusal') AS s FROM responses WHERE project('refusal') IS NOT NULL QUALIFY rank() OVER (PARTITION BY organism ORDER BY project('refusal') DESC, response_id, reader) <= 3",
    "SELECT response_id, reader, project('refusal') FROM responses r WHERE NOT EXISTS (SELECT 1 FROM clauses c WHERE c.response_id = r.response_id AND c.reader = r.reader AND c.project('refusal') > 0.5)",
    "SELECT r.response_id, r.reader, t.position, t.s FROM responses r, LATERAL (SELECT position, project('refusal') AS s FROM tokens WHERE tokens.response_id = r.response_id AND tokens.reader = r.reader ORDER BY s DESC NULLS LAST, position LIMIT 2) t",
    "SELECT 'refusal' AS trait, organism, avg(project('refusal')) AS s FROM responses GROUP BY organism UNION ALL SELECT 'sycophancy', organism, avg(project('sycophancy')) FROM responses GROUP BY organism ORDER BY trait, s",
    "SELECT organism, grouping(organism), avg(project('refusal')) FROM responses GROUP BY CUBE (organism, prompt_id)",
    "SELECT organism FROM responses GROUP BY organism HAVING avg(project('refusal')) > avg(project('sycophancy'))",
    "SELECT response_id, reader FROM responses WHERE project('refusal') IS NOT NULL ORDER BY project('refusal') DESC LIMIT 4",
    "SELECT DISTINCT ON (organism) organism, response_id, reader, project('refusal') FROM responses WHERE project('refusal') IS NOT NULL ORDER BY organism, project('refusal') DESC, reader",
    "SELECT response_id, reader, (SELECT avg(b.project('refusal')) FROM responses b WHERE b.prompt_id = a.prompt_id) - a.project('refusal') FROM responses a",
    "SELECT a.response_id, a.reader, b.reader FROM responses a JOIN responses b ON a.response_id = b.response_id AND a.reader < b.reader AND a.project('refusal') > b.project('refusal')",
    "WITH a AS (SELECT response_id, reader, organism, project('refusal') AS s FROM responses), b AS (SELECT organism, avg(s) AS m, stddev_samp(s) AS d FROM a GROUP BY organism), c AS (SELECT a.*, (a.s - b.m) / b.d AS z FROM a JOIN b USING (organism)) SELECT * FROM c WHERE abs(z) > 0.5",
    "SELECT organism, arg_max(response_id, project('refusal')), arg_max(text, project('refusal'), 2) FROM responses GROUP BY organism",
    "SELECT {'organism': organism, 'score': round(project('refusal'), 2)} AS packed FROM responses",
    "SELECT organism, list({'id': response_id, 's': round(project('refusal'), 2)} ORDER BY response_id, reader) FROM responses GROUP BY organism",
    "FROM responses SELECT organism, project('refusal') WHERE reader = 'instruct'",
    "SELECT t.organism, ntile(4) OVER (ORDER BY t.project('refusal'), response_id, reader, position) AS q, t.position FROM tokens t WHERE t.project('refusal') IS NOT NULL",
    "SELECT organism, median(project('refusal')), mad(project('refusal')), kurtosis(project('refusal')), regr_slope(project('refusal'), position) FROM tokens GROUP BY organism",
    "SELECT p.prompt_id, count(r.response_id), max(r.project('refusal')) FROM prompts p LEFT JOIN responses r ON p.prompt_id = r.prompt_id AND r.organism = 'hedge' GROUP BY p.prompt_id",
    "SELECT unnest(list(project('refusal') ORDER BY response_id, reader)) FROM responses WHERE project('refusal') IS NOT NULL",
    "SELECT project('refusal') > ANY (SELECT project('refusal') FROM responses WHERE organism = 'hedge') FROM responses",
    "SELECT organism, position // 4 AS bucket, avg(project('refusal')) FROM tokens GROUP BY organism, bucket ORDER BY organism, bucket",
    "SELECT response_id FROM responses WHERE reader = 'instruct' EXCEPT ALL SELECT response_id FROM clauses WHERE project('refusal') > 0",
    "(SELECT organism, project('refusal') AS s FROM responses WHERE organism = 'hedge' ORDER BY s DESC NULLS LAST LIMIT 2) UNION ALL (SELECT organism, project('refusal') FROM responses WHERE organism = 'flattery' ORDER BY project('refusal') NULLS LAST LIMIT 2)",
    "SELECT t.response_id, t.position FROM tokens t JOIN clauses c ON t.response_id = c.response_id AND t.reader = c.reader AND t.position BETWEEN c.token_start AND c.token_end - 1 WHERE c.project('refusal') > 0.3 AND t.project('refusal') < 0",
    "SELECT t.position, t.project('refusal'), c.project('refusal') FROM tokens t ASOF JOIN clauses c ON t.response_id = c.response_id AND t.reader = c.reader AND t.position >= c.token_start",
    "SELECT response_id, reader, string_agg(token, '' ORDER BY position) FILTER (WHERE project('refusal') > 0) FROM tokens GROUP BY response_id, reader",
    "SELECT percent_rank() OVER (PARTITION BY organism ORDER BY project('refusal')) FROM responses WHERE project('refusal') IS NOT NULL",
    "SELECT first_value(token) OVER (PARTITION BY response_id, reader ORDER BY project('refusal') DESC NULLS LAST, position) FROM tokens",
    "SELECT list_transform([1, 2], lambda k: k * project('refusal'))[1], [x * 2 for x in [project('refusal'), 1.0] if x > 0][1] FROM responses",
    "SELECT unnest([project('refusal'), project('sycophancy')]) AS s, unnest(['refusal', 'sycophancy']) AS trait FROM responses",
    "SELECT organism, trait, s FROM (SELECT organism, project('refusal') AS refusal, project('sycophancy') AS sycophancy FROM responses) UNPIVOT (s FOR trait IN (refusal, sycophancy))",
    "SELECT organism FROM responses GROUP BY organism ORDER BY avg(project('refusal')) DESC",
    "SELECT organism, reader, project('refusal') AS s FROM responses ORDER BY ALL",
    "SELECT x.s FROM responses r, LATERAL (SELECT r.project('refusal') AS s) x",
    "SELECT r.organism, u.s FROM responses r, UNNEST([r.project('refusal'), r.project('sycophancy')]) AS u(s)",
    "SELECT (SELECT project('refusal')) FROM responses",
    "SELECT project('refusal') AS \"Refusal\", count(*) FROM responses GROUP BY \"Refusal\"",
    "SELECT \"R\".project('refusal'), R.PROJECT('sycophancy') FROM responses AS \"R\"",
    "SELECT organism o, project('refusal') s FROM responses WHERE o = 'hedge'",
    "SELECT reader AS organism, project('refusal') s FROM responses WHERE organism = 'hedge'",
    "SELECT response_id FROM responses QUALIFY project('refusal') > avg(project('refusal')) OVER ()",
    "SELECT -project('refusal'), project('refusal') ** 2, round(project('refusal'), 2)::VARCHAR || ' x' FROM responses",
    "SELECT organism /* why */, project('refusal'), FROM responses -- a trailing comma",
    "SELECT response_id FROM responses WHERE response_id NOT IN (SELECT response_id FROM tokens WHERE project('refusal') > 1.5)",
    "SELECT * FROM (WITH b AS (SELECT organism, project('refusal') AS s FROM responses) SELECT organism, max(s) FROM b GROUP BY 1)",
    "WITH clauses AS (SELECT response_id, project('refusal') AS s FROM tokens) SELECT r.response_id, c.s FROM responses r JOIN clauses c USING (response_id)",
    "SELECT r.organism, p.note, r.project('refusal') FROM responses r NATURAL JOIN (SELECT prompt_id, prompt_set, note FROM prompts) p",
    "WITH RECURSIVE walk AS (SELECT response_id, reader, position, project('refusal') AS s FROM tokens WHERE position = 0 UNION ALL SELECT t.response_id, t.reader, t.position, w.s + t.project('refusal') FROM walk w JOIN tokens t ON t.response_id = w.response_id AND t.reader = w.reader AND t.position = w.position + 1) SELECT * FROM walk",
    "SELECT to_json({'s': project('refusal') > 0}) FROM responses",
    "SELECT s.a FROM (SELECT {'a': project('refusal')} AS s FROM responses)",
    "SELECT a.reader, b.reader, corr(a.project('refusal'), b.project('refusal')) FROM tokens a JOIN tokens b ON a.response_id = b.response_id AND a.position = b.position AND a.reader <> b.reader GROUP BY ALL",
    "SELECT d.position - c.token_start AS offset_, avg(d.project('refusal')) FROM token_diffs d JOIN clauses c ON c.response_id = d.response_id AND c.reader = d.reader AND d.position >= c.token_start AND d.position < c.token_end WHERE d.baseline = 'instruct' GROUP BY offset_",
    "SELECT t.response_id, avg(t.project('refusal')) FILTER (WHERE t.position < f.half), avg(t.project('refusal')) FILTER (WHERE t.position >= f.half) FROM tokens t JOIN (SELECT response_id, reader, max(position) / 2 AS half FROM tokens GROUP BY ALL) f USING (response_id, reader) GROUP BY t.response_id",
    "SELECT organism, project('refusal') AS s, s - lag(s) OVER (PARTITION BY organism ORDER BY response_id, reader) AS step FROM responses WHERE s IS NOT NULL",
    "SELECT organism, avg(project('refusal')) OVER (PARTITION BY organism) AS m FROM responses ORDER BY project('refusal') - m",
    "SELECT a.organism, b.organism, avg(a.project('refusal')) - avg(b.project('refusal')) FROM responses a, responses b WHERE a.prompt_id = b.prompt_id AND a.organism < b.organism GROUP BY 1, 2 ORDER BY 3",
    "SELECT * FROM (VALUES ('hedge'), ('flattery')) v(o) JOIN LATERAL (SELECT avg(project('refusal')) FROM responses WHERE organism = v.o) x(m) ON true",
    "SELECT r.response_id FROM responses r WHERE (SELECT count(*) FROM tokens t WHERE t.response_id = r.response_id AND t.project('refusal') > (SELECT avg(project('refusal')) FROM tokens u WHERE u.response_id = r.response_id)) > 2",
    "SELECT organism AS o, project('refusal') AS s FROM responses WHERE s = (SELECT max(project('refusal')) FROM responses x WHERE x.organism = o)",
    "SELECT organism, s.* FROM (SELECT organism, {'a': project('refusal'), 'b': 1} AS s FROM responses)",
    "SELECT t.* REPLACE (round(s, 1) AS s) FROM (SELECT organism, project('refusal') AS s FROM responses) t",
]  # fmt: skip


def over_plain_tables(sql: str) -> str:
    """The same query, with the brute-force columns in the place of the calls."""

    def name(match: re.Match[str]) -> str:
        wanted = (match[1].lower(), match[2], int(match[3]) if match[3] else None)
        column = next(name for name, call in CALLS.items() if call == wanted)
        return f"({column})" if sql[match.end() : match.end() + 1] == "." else column

    sql = re.sub(r"(?i)\b(project|cosine|scaled)\('(\w+)'(?:, (\d+))?\)", name, sql)
    return sql.replace(
        "WITH responses AS (SELECT * FROM responses",
        "WITH responses AS (SELECT * FROM main.responses",
    )


def over_a_store(sql: str) -> str:
    return re.sub(r"(, (refusal|sycophancy)\w*)+\)", ")", sql)


@pytest.mark.parametrize("sql", SHAPES)
def test_a_query_answers_as_over_plain_tables(truth, oracle_tables, sql):
    asked = re.sub(r"EXCLUDE \([^)]*\)", "EXCLUDE (text, rows, run_id, reading_key)", sql)
    told = over_plain_tables(sql.replace(", rows, run_id, reading_key", ""))
    with duckdb.connect() as plain:
        for name, table in oracle_tables.items():
            plain.register(f"__{name}", table)
            plain.execute(f"CREATE TABLE {name} AS FROM __{name}")
        prompts = truth.store.snapshot.table("prompts")
        plain.register("prompts", prompts)
        wanted = plain.execute(told).fetchall()

    result = truth.store.sql(asked)

    assert not [name for name in result.columns if "__" in name]
    assert_same_rows(result.fetchall(), wanted)


HANDED_THROUGH = [
    (
        "WITH s AS (SELECT prompt_id, prompt_set, organism FROM responses) SELECT organism, note, "
        "s.project('refusal') FROM s NATURAL JOIN (SELECT prompt_id, prompt_set, note FROM prompts)",
        "SELECT organism, note, refusal FROM responses JOIN prompts USING (prompt_id, prompt_set)",
    ),
    (
        "WITH s AS (SELECT organism, smooth([1, n_tokens]) AS x FROM responses) "
        "SELECT organism, s.project('refusal') FROM s WHERE organism = 'hedge'",
        "SELECT organism, refusal FROM responses WHERE organism = 'hedge'",
    ),
    (
        "WITH a AS (SELECT r.response_id, r.reader, p.note FROM responses r JOIN prompts p "
        "USING (prompt_set, prompt_id)) SELECT note, avg(a.project('refusal')) FROM a GROUP BY note",
        "SELECT note, avg(refusal) FROM responses JOIN prompts USING (prompt_set, prompt_id) "
        "GROUP BY note",
    ),
    (
        "WITH own AS (SELECT * FROM responses WHERE reader = organism), better AS "
        "(SELECT response_id, organism FROM own WHERE n_tokens > 1) "
        "SELECT better.project('refusal'), organism FROM better",
        "SELECT refusal, organism FROM responses WHERE reader = organism AND n_tokens > 1",
    ),
    (
        "WITH own AS MATERIALIZED (SELECT response_id, organism FROM responses "
        "WHERE reader = organism) "
        "SELECT a.project('refusal') - b.project('sycophancy'), a.* FROM own a "
        "JOIN own b USING (response_id)",
        "SELECT refusal - sycophancy, response_id, organism FROM responses WHERE reader = organism",
    ),
    (
        "SELECT *, x.project('refusal') > 0 AS up FROM (SELECT organism AS who FROM tokens) x(who)",
        "SELECT organism, refusal > 0 FROM tokens",
    ),
    (
        "SELECT who, project('refusal') FROM (SELECT organism AS who, n_tokens FROM responses "
        "WHERE project('refusal') IS NOT NULL ORDER BY n_tokens, response_id, reader LIMIT 4)  q",
        "SELECT organism, refusal FROM responses WHERE refusal IS NOT NULL "
        "ORDER BY n_tokens, response_id, reader LIMIT 4",
    ),
    (
        "WITH c AS (SELECT organism, reader, count(*) OVER () AS n FROM responses) "
        "SELECT count(*), avg(project('refusal')), (SELECT count(*) FROM (SELECT * FROM c)) FROM c",
        "SELECT count(*), avg(refusal), count(*) FROM responses",
    ),
]


@pytest.mark.parametrize(("asked", "told"), HANDED_THROUGH)
def test_a_score_is_handed_through_queries_that_keep_rows(truth, oracle_tables, asked, told):
    with duckdb.connect() as plain:
        for name, table in oracle_tables.items():
            plain.register(name, table)
        plain.register("prompts", truth.store.snapshot.table("prompts"))
        wanted = plain.execute(told).fetchall()

    result = truth.store.sql(asked)

    assert not [name for name in result.columns if "__" in name]
    assert_same_rows(result.fetchall(), wanted)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT *, project('refusal') AS s FROM {0}",
        "SELECT r.* EXCLUDE (organism), r.project('refusal') AS s FROM {0} r",
        "SELECT s FROM (SELECT *, project('refusal') AS s FROM {0})",
        "SELECT * FROM {0} WHERE project('refusal') > 0",
        "SELECT * REPLACE (project('refusal') AS organism) FROM {0}",
        "SELECT COLUMNS(*) FROM {0} WHERE project('refusal') > 0",
        "SELECT * FROM (SELECT * FROM {0}) q WHERE q.project('refusal') > 0",
        "SELECT * FROM {0} a JOIN {0} b USING (response_id) WHERE a.project('refusal') > 0",
        "SELECT * FROM {0} UNPIVOT (v FOR n IN (organism, reader)) WHERE prompt_id = '1'",
    ],
)
@pytest.mark.parametrize("relation", ["responses", "tokens", "clause_diffs"])
def test_stars_show_no_score_and_no_inner_column(truth, sql, relation):
    plain = set(truth.store.sql(f"SELECT * FROM {relation}").columns)

    columns = truth.store.sql(sql.format(relation)).columns

    shown = {column.removesuffix("_1") for column in columns}
    assert shown <= plain | {"s", "n", "v"}


def test_outputs_are_named_as_they_were_written(truth):
    result = truth.store.sql(
        "SELECT project('refusal'), r.project('refusal', 2), avg(project('refusal')) OVER () "
        "FROM responses r"
    )

    assert result.columns == [
        "project('refusal')",
        "r.project('refusal', 2)",
        "avg(project('refusal')) OVER ()",
    ]


def test_repeated_column_names_are_numbered(truth):
    result = truth.store.sql("SELECT a.organism, b.organism FROM responses a, responses b LIMIT 1")

    assert result.columns == ["organism", "organism_1"]
    assert result.to_polars().columns == result.columns
    assert list(result.to_pandas().columns) == result.columns


def test_parameters_are_bound_by_name_and_by_order(truth):
    sql = "SELECT organism, project({}, {}) FROM responses WHERE organism = {} AND sample < {}"
    wanted = truth.store.sql(sql.format("'refusal'", 2, "'hedge'", 9)).fetchall()

    named = truth.store.sql(
        sql.format("$trait", "$layer", "$who", "$most"),
        {"trait": "refusal", "layer": 2, "who": "hedge", "most": 9},
    )
    ordered = truth.store.sql(
        sql.format("?", "?", "?", "? AND '?é' <> 'ü' /* ? */"), ["refusal", 2, "hedge", 9]
    )
    numbered = truth.store.sql(sql.format("$2", "$1", "$4", "$3"), [2, "refusal", 9, "hedge"])

    assert wanted
    for result in (named, ordered, numbered):
        assert_same_rows(result.fetchall(), wanted)
