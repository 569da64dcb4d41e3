# ruff: noqa: E501 - a query reads best on one line
"""`centered()` is the score above the midpoint of the vector's two training sides."""

from __future__ import annotations

import numpy as np
import pytest

from tistore.errors import VectorMismatchError

from .conftest import assert_same_rows, build_truth

MIDPOINT = 1.375
KEYS = {
    "responses": ["response_id", "reader"],
    "clauses": ["response_id", "reader", "token_start", "token_end"],
    "tokens": ["response_id", "reader", "position"],
}


@pytest.fixture(scope="module")
def centred(tmp_path_factory):
    """A store with a vector that has a midpoint, `formal`, and one that has none, `refusal`."""
    truth = build_truth(tmp_path_factory.mktemp("centred") / "store", seed=11)
    values = np.random.default_rng(5).standard_normal(8).astype(np.float32)
    truth.store.add_vector("style/formal", values, layer=5, method="probe", midpoint=MIDPOINT)
    truth.vectors["formal"] = (values, 5)
    return truth


@pytest.mark.parametrize("relation", KEYS)
def test_it_is_the_score_minus_the_midpoint(centred, relation):
    keys = KEYS[relation]

    found = centred.store.sql(f"SELECT {', '.join(keys)}, centered('formal') FROM {relation}")

    rows = centred.rows(relation, "project", "formal")
    assert any(row["score"] is None for row in rows)
    wanted = [
        (
            *(row[key] for key in keys),
            None if row["score"] is None else row["score"] - MIDPOINT,
        )
        for row in rows
    ]
    assert_same_rows(found.fetchall(), wanted)


@pytest.mark.parametrize("relation", KEYS)
def test_differences_are_those_of_project(centred, relation):
    diffs = f"{relation[:-1]}_diffs"

    result = centred.store.sql(
        f"SELECT count(centered('formal')), count(*) FILTER (centered('formal') IS DISTINCT FROM project('formal')) FROM {diffs}"
    )

    n_rows, n_different = result.fetchall()[0]
    assert n_rows > 5
    assert n_different == 0


def test_a_vector_without_midpoint_is_refused(centred):
    with pytest.raises(VectorMismatchError, match="refusal.* has no midpoint") as caught:
        centred.store.sql("SELECT centered('refusal') FROM responses")

    assert "midpoint=" in str(caught.value.mend)


def test_a_midpoint_belongs_to_its_own_layer(centred):
    assert len(centred.store.sql("SELECT centered('formal', 5) FROM responses"))
    with pytest.raises(
        VectorMismatchError, match="applied to layer 2, but its midpoint .* layer 5"
    ):
        centred.store.sql("SELECT centered('formal', 2) FROM tokens")
