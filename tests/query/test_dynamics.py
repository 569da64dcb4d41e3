# ruff: noqa: E501 - a query reads best on one line
"""Trajectories list what `project()` gives the tokens; the functions over them agree with NumPy."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tistore.errors import SqlError
from tistore.query.dynamics import FUNCTIONS, create_functions

from .conftest import _clauses, assert_same_rows, same


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as opened:
        create_functions(opened)
        yield opened


# ---- trajectory()


def token_scores(truth, reading) -> dict[int, float] | None:
    direction, layer = truth.vectors["refusal"]
    unit = direction.astype(np.float64) / np.linalg.norm(direction.astype(np.float64))
    scores = reading.token_scores("project", unit, layer)
    if reading.states(layer) is None:
        return None
    return dict(enumerate(scores, start=reading.first_position))


def trajectories(truth, relation):
    """(response, reader, baseline, first token of the clause, scores) by brute force."""
    for reading in truth.readings:
        mine = token_scores(truth, reading)
        others = [None]
        if relation.endswith("_diffs"):
            others = [
                other
                for other in truth.readings
                if other.response_id == reading.response_id and other.reader != reading.reader
            ]
        for other in others:
            scores = mine
            if other is not None:
                theirs = token_scores(truth, other)
                scores = None
                if mine is not None and theirs is not None:
                    scores = {at: mine[at] - theirs[at] for at in mine if at in theirs}
            name = (reading.response_id, reading.reader, other.reader if other else None)
            if relation.startswith("response"):
                told = scores and [s for at, s in scores.items() if reading.is_response[at]]
                yield (*name, None, None if scores is None else told)
            else:
                for clause in _clauses(truth.store, reading):
                    span = range(clause["token_start"], clause["token_end"])
                    told = scores and [scores[at] for at in span if at in scores]
                    yield (*name, span.start, None if scores is None else told)


@pytest.mark.parametrize("relation", ["responses", "clauses", "response_diffs", "clause_diffs"])
def test_a_trajectory_lists_token_scores_in_order(truth, relation):
    baseline = "baseline" if relation.endswith("_diffs") else "NULL"
    start = "token_start" if relation.startswith("clause") else "NULL"

    found = truth.store.sql(
        f"SELECT response_id, reader, {baseline}, {start}, trajectory('refusal') FROM {relation}"
    ).fetchall()

    def key(row):
        return tuple(map(str, row[:4]))

    wanted = sorted(trajectories(truth, relation), key=key)
    assert {type(row[4]) for row in wanted} == {list, type(None)}
    assert len(found) == len(wanted)
    for left, right in zip(sorted(found, key=key), wanted, strict=True):
        assert key(left) == key(right)
        assert (left[4] is None) == (right[4] is None), left
        if left[4] is not None:
            assert len(left[4]) == len(right[4])
            assert all(same(a, b) for a, b in zip(left[4], right[4], strict=True))


def test_a_response_without_tokens_has_an_empty_trajectory_and_one_without_the_layer_none(truth):
    lacking = {(r.response_id, r.reader) for r in truth.readings if 5 not in r.layers}

    rows = truth.store.sql(
        "SELECT response_id, reader, n_tokens, trajectory('refusal') FROM responses"
    ).fetchall()

    assert any(scores == [] for *_, scores in rows)
    for response_id, reader, n_tokens, scores in rows:
        assert (scores is None) == ((response_id, reader) in lacking)
        assert scores is None or len(scores) == n_tokens


@pytest.mark.parametrize(
    ("listed", "grouped"),
    [
        (
            "SELECT response_id, reader, trajectory('refusal') FROM responses WHERE n_tokens > 0 AND project('refusal') IS NOT NULL",
            "SELECT response_id, reader, list(project('refusal') ORDER BY position) FROM tokens WHERE is_response AND project('refusal') IS NOT NULL GROUP BY ALL",
        ),
        (
            "SELECT response_id, reader, baseline, trajectory('refusal', 2) FROM response_diffs WHERE n_tokens > 0",
            "SELECT response_id, reader, baseline, list(project('refusal', 2) ORDER BY position) FROM token_diffs WHERE is_response GROUP BY ALL",
        ),
    ],
)
def test_it_is_what_project_lists_over_tokens(truth, listed, grouped):
    left, right = (sorted(truth.store.sql(sql).fetchall()) for sql in (listed, grouped))

    assert len(left) > 5
    assert left == right


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT trajectory('refusal')[1], trajectory('refusal')[-1], len(trajectory('refusal')) FROM responses",
        "SELECT r.trajectory('refusal').list_max() FROM responses r",
        "SELECT unnest(trajectory('refusal')) FROM responses",
        "SELECT r.organism, t.s FROM responses r, UNNEST(r.trajectory('refusal')) AS t(s)",
        "SELECT list_transform(trajectory('refusal'), lambda x: x - project('refusal')) FROM responses",
        "WITH t AS (SELECT organism, trajectory('refusal') AS x FROM responses) SELECT organism, list_avg(x) FROM t WHERE organism = 'hedge'",
        "SELECT *, trajectory('refusal') AS x FROM clauses",
        "SELECT a.trajectory('refusal')[1] - b.trajectory('refusal')[1] FROM responses a JOIN responses b USING (response_id)",
    ],
)  # fmt: skip
def test_a_trajectory_stands_wherever_a_list_can(truth, sql):
    assert len(truth.store.sql(sql)) > 0


@pytest.mark.parametrize("relation", ["tokens", "token_diffs", "scores"])
def test_a_token_has_no_trajectory(truth, relation):
    with pytest.raises(SqlError, match="a token has one score") as caught:
        truth.store.sql(f"SELECT trajectory('refusal') FROM {relation}")

    assert "project('refusal')" in str(caught.value.mend)


def test_functions_over_a_trajectory_run_in_a_query(truth):
    found = truth.store.sql(
        "SELECT response_id, reader, peak_velocity(trajectory('refusal')), persistence(trajectory('refusal')) FROM responses WHERE n_tokens > 1"
    ).fetchall()

    wanted = truth.store.sql(
        "SELECT response_id, reader, peak_velocity(list(project('refusal') ORDER BY position)), persistence(list(project('refusal') ORDER BY position)) FROM tokens WHERE is_response GROUP BY ALL HAVING count(*) > 1"
    ).fetchall()
    assert_same_rows(
        [row for row in found if row[2] is not None], [row for row in wanted if row[2] is not None]
    )


# ---- the functions, with NumPy as the oracle; NaN is a gap


def velocity(x):
    return None if len(x) < 2 else np.diff(x)


def acceleration(x):
    return None if len(x) < 2 else np.diff(x, n=2)


def peak_velocity(x):
    return None if len(x) < 2 or np.isnan(np.diff(x)).all() else np.nanmax(np.abs(np.diff(x)))


def mean_velocity(x):
    return None if len(x) < 2 or np.isnan(np.diff(x)).all() else np.nanmean(np.abs(np.diff(x)))


def commitment_point(x, threshold=0.1):
    if len(x) < 2:
        return None
    small = np.flatnonzero(np.abs(np.diff(x, n=2)) < threshold)
    return int(small[0]) if len(small) else None


def persistence(x):
    if len(x) < 2 or np.isnan(x).all():
        return None
    sizes = np.abs(x)
    peak = int(np.nanargmax(sizes))
    return sum(bool(size > 0.5 * sizes[peak]) for size in sizes[peak + 1 :])


def smooth(x, width=5):
    if len(x) < width:
        return x
    half = width // 2
    means = [
        np.nan if np.isnan(value) else np.nanmean(x[max(0, at - half) : at + half + 1])
        for at, value in enumerate(x)
    ]
    return np.array(means)


def top_mean(x, n):
    known = np.sort(x[~np.isnan(x)])[::-1][:n]
    return None if len(known) == 0 else known.mean()


CALLS = [
    ("velocity(x)", velocity),
    ("acceleration(x)", acceleration),
    ("peak_velocity(x)", peak_velocity),
    ("mean_velocity(x)", mean_velocity),
    ("commitment_point(x)", commitment_point),
    ("commitment_point(x, 2.5)", lambda x: commitment_point(x, 2.5)),
    ("persistence(x)", persistence),
    ("smooth(x)", smooth),
    ("smooth(x, 1)", lambda x: smooth(x, 1)),
    ("smooth(x, 3)", lambda x: smooth(x, 3)),
    ("smooth(x, 4)", lambda x: smooth(x, 4)),
    ("top_mean(x, 1)", lambda x: top_mean(x, 1)),
    ("top_mean(x, 3)", lambda x: top_mean(x, 3)),
]  # fmt: skip

NUMBERS = st.one_of(
    st.floats(-50, 50), st.integers(-3, 3).map(float), st.sampled_from([0.0, 0.05, 0.1, -0.05])
)


@settings(max_examples=300, deadline=None)
@given(values=st.lists(NUMBERS, max_size=14), gaps=st.sets(st.integers(0, 13), max_size=3))
def test_every_function_agrees_with_numpy(connection, values, gaps):
    given_list = [None if at in gaps else value for at, value in enumerate(values)]
    array = np.array([np.nan if value is None else value for value in given_list])
    columns = ", ".join(call for call, _ in CALLS)

    row = connection.execute(
        f"SELECT {columns} FROM (SELECT $x::DOUBLE[] AS x)", {"x": given_list}
    ).fetchone()

    for (call, oracle), found in zip(CALLS, row, strict=True):
        wanted = oracle(array)
        if wanted is None or found is None:
            assert found is None and wanted is None, (call, given_list)
        else:
            told = np.array(found, dtype=np.float64)
            assert told.shape == np.shape(wanted), (call, given_list)
            assert np.allclose(told, wanted, rtol=1e-9, atol=1e-9, equal_nan=True), call


def test_every_function_is_tested():
    assert {call.partition("(")[0] for call, _ in CALLS} == FUNCTIONS


def test_nothing_gives_null_and_so_does_a_width_or_number_below_one(connection):
    columns = ", ".join(call.replace("x", "NULL", 1) for call, _ in CALLS)
    assert set(connection.execute(f"SELECT {columns}").fetchone()) == {None}
    assert connection.execute("SELECT smooth([1, 2], 0), top_mean([1, 2], 0)").fetchone() == (
        None,
        None,
    )


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        # Columns with the names of the parameters, lists of other types, aggregates, windows.
        ("SELECT velocity(list(x ORDER BY i)) FROM (VALUES (1, 5, 0), (2, 7, 0)) t(i, x, n)", [2.0]),
        ("SELECT top_mean(list(n), max(x)) FROM (VALUES (1, 2), (3, 1)) t(n, x)", 2.0),
        ("SELECT smooth(list(width ORDER BY width), 3) FROM (VALUES (1), (4), (1)) t(width)", [1.0, 2.0, 2.5]),
        ("SELECT velocity([3, 1]::UTINYINT[])", [-2.0]),
        ("SELECT velocity([1.5, 2.5]::FLOAT[])", [1.0]),
        ("SELECT peak_velocity(list(x) OVER ()) FROM (VALUES (1), (4)) t(x) LIMIT 1", 3.0),
        ("SELECT list_transform([[1, 2], [5, 9]], lambda x: mean_velocity(x))", [1.0, 4.0]),
        ("SELECT persistence(x) AS p FROM (VALUES ([4, 3, 1, 3])) t(x) GROUP BY ALL HAVING p > 1 ORDER BY p", 2),
        ("SELECT persistence([10, 5.5, 5.0, -5.1])", 2),
        ("SELECT persistence([1, 4, 1, -4, 3])", 2),
        ("SELECT velocity(smooth(x, 3)) FROM (VALUES ([0, 3, 6])) t(x)", [1.5, 1.5]),
    ],
)  # fmt: skip
def test_functions_take_any_list_of_numbers(connection, sql, wanted):
    assert connection.execute(sql).fetchone()[0] == wanted


def test_the_functions_survive_the_lock():
    with duckdb.connect() as fenced:
        create_functions(fenced)
        fenced.execute("SET lock_configuration=true")

        assert fenced.cursor().execute("SELECT velocity([1, 2])").fetchone() == ([1.0],)
