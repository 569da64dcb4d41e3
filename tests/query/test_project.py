# ruff: noqa: E501 - a query reads best on one line
"""`project()` means what its relation means, on every relation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import CALLS, assert_same_rows, build_truth

KEYS = {
    "responses": ["response_id", "reader"],
    "clauses": ["response_id", "reader", "token_start", "token_end", "text"],
    "tokens": ["response_id", "reader", "position", "token_id"],
}
KEYS |= {f"{name[:-1]}_diffs": [*keys, "baseline"] for name, keys in list(KEYS.items())}


@pytest.mark.parametrize("relation", KEYS)
@pytest.mark.parametrize("call", CALLS)
def test_every_function_agrees_with_brute_force(truth, oracle_tables, relation, call):
    measure, vector, layer = CALLS[call]
    written = f"{measure}('{vector}'{f', {layer}' if layer is not None else ''})"
    keys = KEYS[relation]

    found = truth.store.sql(f"SELECT {', '.join(keys)}, {written} FROM {relation}").fetchall()

    wanted = oracle_tables[relation].select([*keys, call])
    assert_same_rows(found, list(zip(*wanted.to_pydict().values(), strict=True)))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**20),
    hidden=st.integers(1, 40),
    per_commit=st.integers(1, 9),
    overflow=st.booleans(),
    lacks_last=st.booleans(),
)
def test_scores_of_random_stores_agree_with_brute_force(
    tmp_path_factory, seed, hidden, per_commit, overflow, lacks_last
):
    truth = build_truth(
        tmp_path_factory.mktemp("random") / "store",
        seed,
        hidden=hidden,
        n_prompts=2,
        overflow=overflow,
        lacks_last=lacks_last,
        per_commit=per_commit,
    )
    sizes = {
        (r.response_id, r.reader): float(np.abs(r.values).max(initial=0)) for r in truth.readings
    }

    for relation, keys in KEYS.items():
        for vector, layer in (("refusal", None), ("sycophancy", 5)):
            wanted = truth.rows(relation, "project", vector, layer)
            if not any(row["score"] is not None for row in wanted):
                continue
            second = "" if layer is None else f", {layer}"
            found = truth.store.sql(
                f"SELECT {', '.join(keys)}, project('{vector}'{second}) AS score FROM {relation}"
            )
            assert_same_rows(
                [_measure_in_own_size(row, keys, sizes) for row in found],
                [_measure_in_own_size(row, keys, sizes) for row in wanted],
            )


def _measure_in_own_size(row, keys, sizes):
    """A row whose score is told in the size of its own readings' activations, large or small."""
    readers = {row["reader"], row.get("baseline", row["reader"])}
    size = max(sizes[row["response_id"], reader] for reader in readers)
    score = None if row["score"] is None else row["score"] / size
    return (*(row[key] for key in keys), score)


def test_the_mean_of_token_projections_is_the_projection_of_the_mean(truth):
    of_responses = truth.store.sql(
        "SELECT response_id, reader, project('refusal') FROM responses WHERE n_tokens > 0"
    ).fetchall()

    of_tokens = truth.store.sql(
        "SELECT response_id, reader, avg(project('refusal')) FROM tokens WHERE is_response GROUP BY ALL"
    ).fetchall()
    shown = {row[:2] for row in of_tokens}
    assert_same_rows([row for row in of_responses if row[:2] in shown], of_tokens)


def test_a_difference_is_the_reader_minus_the_baseline(truth):
    there = truth.store.sql(
        "SELECT response_id, position, project('refusal') AS d FROM token_diffs "
        "WHERE reader = organism AND baseline = 'instruct' AND d IS NOT NULL"
    ).fetchall()

    back = truth.store.sql(
        "SELECT response_id, position, -project('refusal') AS d FROM token_diffs "
        "WHERE reader = 'instruct' AND baseline = organism AND d IS NOT NULL"
    ).fetchall()
    assert len(there) > 20
    assert_same_rows(there, back)


def test_response_ranking_reads_no_token_activations(truth, monkeypatch):
    from tistore.store.segment import Segment

    for way in ("read", "stream"):
        monkeypatch.setattr(Segment, way, lambda *args: pytest.fail("read activations"))

    result = truth.store.sql("SELECT project('refusal@5', 2), scaled('sycophancy') FROM responses")

    assert len(result) == len(truth.readings)


def test_readings_without_the_layer_are_null_and_counted(truth):
    lacking = sum(5 not in reading.layers for reading in truth.readings)

    result = truth.store.sql(
        "SELECT count(*) - count(project('refusal')) FROM responses WHERE n_tokens > 0"
    )

    assert lacking > 0
    assert any(
        f"NULL for {lacking} of {len(truth.readings)} readings" in n
        for n in truth.store.sql("SELECT project('refusal') FROM responses").notes
    )
    assert result.fetchall()[0][0] == sum(
        5 not in reading.layers and any(reading.is_response) for reading in truth.readings
    )
