"""Vectors of any component are asked by name, each against states as wide as itself."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from example_readings import LAYERS, make_reading
from tistore.errors import VectorMismatchError

WIDTHS = {"residual": 8, "heads": 16, "k_proj": 4}
READERS = ("flattery", "instruct")


def make_states(seed, widths, rows=5):
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((rows, len(LAYERS), width)).astype(np.float16)
        for name, width in widths.items()
    }


@pytest.fixture
def written():
    """For each prompt and reader, its states: three components, and patterns of two lengths."""
    return {
        (seed, reader): make_states(10 * seed + at, WIDTHS | {"attention": 64 * (1 + seed // 2)})
        for seed in range(4)
        for at, reader in enumerate(READERS)
    }


@pytest.fixture
def store(tmp_path, written):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for (seed, reader), states in written.items():
            writer.add(**make_reading(seed, reader=reader, activations=states))
    for name, width in (WIDTHS | {"attention": 64}).items():
        values = np.random.default_rng(width).standard_normal(width)
        store.add_vector(f"of/{name}", values, layer=5, component=name)
    return store


def project(store, states, name):
    values = store.vector(name).values.astype(np.float64)
    return states[name][:, LAYERS.index(5)].astype(np.float64) @ values / np.linalg.norm(values)


@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_project_scores_a_component_of_any_width(store, written, name):
    tokens = store.sql(
        f"SELECT prompt_id, reader, position, project('{name}') FROM tokens ORDER BY ALL"
    ).fetchall()
    means = store.sql(f"SELECT prompt_id, reader, project('{name}') FROM responses").fetchall()
    differences = store.sql(
        f"SELECT prompt_id, position, project('{name}') FROM token_diffs "
        "WHERE baseline = 'instruct' ORDER BY ALL"
    ).fetchall()

    truth = {key: project(store, states, name) for key, states in written.items()}
    for prompt_id, reader, position, score in tokens:
        assert score == pytest.approx(truth[int(prompt_id), reader][position - 2], abs=1e-4)
    for prompt_id, reader, score in means:
        assert score == pytest.approx(truth[int(prompt_id), reader].mean(), abs=1e-4)
    for prompt_id, position, score in differences:
        wanted = truth[int(prompt_id), "flattery"] - truth[int(prompt_id), "instruct"]
        assert score == pytest.approx(wanted[position - 2], abs=1e-4)
    assert len(tokens) == 40 and len(means) == 8 and len(differences) == 20


def test_a_vector_is_held_against_its_own_components_width(store):
    store.add_vector("wrong/heads", np.ones(8), layer=5, component="heads")

    with pytest.raises(VectorMismatchError) as caught:
        store.sql("SELECT project('wrong/heads') FROM responses")

    assert "wrong/heads" in str(caught.value)
    assert "is 8 wide, but the heads activations of flattery on" in str(caught.value)
    assert "are 16 wide" in str(caught.value)


def test_patterns_are_asked_of_readings_as_long_as_the_vector_was_made_for(store, written):
    with pytest.raises(VectorMismatchError, match="narrow the query to readings of about one len"):
        store.sql("SELECT project('attention') FROM responses")

    found = store.sql(
        "SELECT prompt_id, reader, project('attention') FROM responses WHERE prompt_id < '2'"
    ).fetchall()

    assert len(found) == 4
    for prompt_id, reader, score in found:
        truth = project(store, written[int(prompt_id), reader], "attention")
        assert score == pytest.approx(truth.mean(), abs=1e-4)


def test_what_a_query_reads_is_counted_by_its_components_width(store):
    wide, narrow = (
        store.explain(f"SELECT project('{name}') FROM tokens").read_bytes
        for name in ("heads", "k_proj")
    )

    assert wide > narrow
