"""`tistore vectors`: what a user types and sees."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tistore
from command_line import run
from tistore.errors import ConfigError, KeyConflictError, UnknownVectorError


@pytest.fixture
def store(tmp_path):
    made = tistore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(0)
    for trait, layer in (("tone/refusal", 5), ("tone/flattery", 5), ("tone/flattery", 7)):
        made.add_vector(trait, rng.standard_normal(8), layer=layer, method="probe", model="base")
    return made


def test_a_vector_made_of_others_is_added_under_a_name(store):
    done = run("vectors", "add", store.path, "made/blend",
               "--expression", "refusal - 0.5*flattery@5")  # fmt: skip

    assert done.exit_code == 0, done.stderr
    assert "added made/blend:combination@5, 8 wide" in done.stderr
    store.refresh()
    added = store.vector("made/blend")
    assert added.model == "base"
    np.testing.assert_array_equal(added.values, store.vector("refusal - 0.5*flattery@5").values)
    listed = json.loads(run("vectors", "ls", store.path, "--json").stdout)
    assert "made/blend:combination@5" in [row["reference"] for row in listed]


def test_a_cleaned_vector_is_added_at_the_layer_asked_for(store):
    done = run("vectors", "add", store.path, "tone/clean",
               "-e", "flattery without 3, 5", "--layer", 7)  # fmt: skip

    assert done.exit_code == 0, done.stderr
    store.refresh()
    added = store.vector("clean")
    assert added.reference == "tone/clean:cleaned@7"
    assert np.flatnonzero(added.values == 0).tolist() == [3, 5]


def test_a_vector_from_a_file_is_added_as_before(store, tmp_path):
    np.save(tmp_path / "v.npy", np.arange(8.0))

    done = run("vectors", "add", store.path, "tone/file", tmp_path / "v.npy", "--layer", 3,
               "--method", "probe")  # fmt: skip

    assert done.exit_code == 0, done.stderr
    store.refresh()
    assert store.vector("file").reference == "tone/file:probe@3"
    assert store.vector("file").component == "residual"


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["x.npy", "-e", "refusal"], ConfigError, "without a file"),
        (["-e", "refusal", "--method", "probe"], ConfigError, "without --method"),
        (["x.npy"], ConfigError, "a file and its --layer, or an --expression"),
        ([], ConfigError, "a file and its --layer, or an --expression"),
        (["-e", "refusal + flatery@5"], UnknownVectorError, "'flattery'"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(store, arguments, kind, said):
    before = store.snapshot.number

    done = run("vectors", "add", store.path, "made/x", *arguments)

    assert isinstance(done.exception, kind)
    assert said in str(done.exception)
    store.refresh()
    assert store.snapshot.number == before


def test_a_name_is_not_given_to_another_direction(store):
    run("vectors", "add", store.path, "made/x", "-e", "refusal + flattery@5")

    done = run("vectors", "add", store.path, "made/x", "-e", "refusal - flattery@5")

    assert isinstance(done.exception, KeyConflictError)
