"""A direction is fitted at a component of any width, where the readings agree in it."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from example_readings import LAYERS, make_reading
from tistore.errors import VectorMismatchError
from tistore.vectors.extract import extract_vectors
from tistore.vectors.scenario_readings import scenario_set


@pytest.fixture
def written():
    rng = np.random.default_rng(0)
    return {
        (side, seed): {
            "heads": rng.standard_normal((5, len(LAYERS), 16)).astype(np.float16),
            "attention": rng.random((5, len(LAYERS), 64 * (1 + seed % 2))).astype(np.float16),
        }
        for side in ("positive", "negative")
        for seed in range(6)
    }


@pytest.fixture
def store(tmp_path, written):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for (side, seed), states in written.items():
            reading = make_reading(seed, reader="instruct", organism="instruct")
            reading |= {"prompt_set": scenario_set("tone/calm", side), "activations": states}
            writer.add(**reading)
    return store


def test_a_direction_is_fitted_at_heads_wider_than_the_stream(store, written):
    vectors = extract_vectors(store, "tone/calm", component="heads")

    assert [vector.layer for vector in vectors] == list(LAYERS)
    for place, vector in enumerate(vectors):
        means = {
            side: np.mean(
                [states["heads"][:, place].astype(float).mean(axis=0)
                 for (of, _), states in written.items() if of == side], axis=0,
            )
            for side in ("positive", "negative")
        }  # fmt: skip
        np.testing.assert_allclose(vector.values, means["positive"] - means["negative"], atol=1e-6)
    assert store.sql("SELECT count(project('calm@5')) FROM responses").fetchall() == [(12,)]


def test_patterns_of_several_lengths_have_no_direction_in_common(store):
    with pytest.raises(VectorMismatchError, match="are 64 and 128 wide at attention@2"):
        extract_vectors(store, "tone/calm", component="attention")
    assert store.snapshot.vectors() == ()
