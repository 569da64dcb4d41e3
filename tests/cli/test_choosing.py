"""`tistore vectors best`, `rm` and `check`: what a user types and sees."""

from __future__ import annotations

import json

import numpy as np
import pytest

from audited_store import HIDDEN, write_audited_store
from command_line import rows, run
from tistore.errors import (
    AmbiguousVectorError,
    ChoiceError,
    ConfigError,
    NotStoredError,
    UnknownVectorError,
)


@pytest.fixture
def store(tmp_path):
    made, _ = write_audited_store(tmp_path / "s.tistore", n_prompts=1, response=10)
    for layer in (2, 5):
        values = np.random.default_rng(layer).standard_normal(HIDDEN)
        made.add_vector("tone/warm", values, layer=layer, method="probe", model="instruct")
    early = made.vector("warm@2")
    row = {"trait": "tone/warm", "vector_hash": early.content_hash, "coefficient": 4.0, "n": 20}
    made.add_rows(
        "steering", [row | {"trait_mean": 61.5, "coherence_mean": 75.0, "baseline_mean": 12.0}]
    )
    return made


def test_best_prints_a_row_a_trait_and_the_list_marks_it(store):
    (row,) = rows("vectors", "best", store.path, "warm", "--coherence", 70)

    assert row["vector"] == "tone/warm:probe@2"
    assert (row["rule"], row["is_new"], row["selection_score"]) == ("steering", True, 49.5)
    listed = rows("vectors", "ls", store.path)
    assert [one["reference"] for one in listed if one["chosen"]] == ["tone/warm:probe@2"]
    (again,) = rows("vectors", "best", store.path, "warm", "--coherence", 70)
    assert again == row | {"is_new": False}


def test_best_decides_what_it_can_and_fails_for_the_rest(store):
    """The gate of 77 leaves nothing that tells the two vectors apart."""
    done = run("vectors", "best", store.path, "--json")

    assert isinstance(done.exception, ChoiceError)
    assert done.exception.exit_code == 1
    assert {row["rule"] for row in json.loads(done.stdout)} == {"only"}
    store.refresh()
    assert len(store.snapshot.choices) == 3


def test_best_names_a_vector_by_hand(store):
    (row,) = rows("vectors", "best", store.path, "--pick", "warm@5", "--dry-run")
    assert row["rule"] == "named"
    store.refresh()
    assert store.snapshot.choices == {}

    rows("vectors", "best", store.path, "--pick", "warm@5", "--pick", "flattery")

    store.refresh()
    assert {key[0]: c.layer for key, c in store.snapshot.choices.items()} == {
        "tone/warm": 5,
        "tone/flattery": 5,
    }


def test_best_follows_the_incumbent_s_rule_with_its_offset(store):
    (row,) = rows("vectors", "best", store.path, "warm", "--rule", "incumbent",
                  "--coherence", 70, "--offset", 2)  # fmt: skip

    assert (row["vector"], row["rule"]) == ("tone/warm:probe@5", "incumbent")
    assert "nearest to 4" in row["reason"]


def test_rm_removes_and_says_what_else_is_to_do(store):
    run("vectors", "best", store.path, "--pick", "warm@5")
    run("sql", store.path, "SELECT sum(project('warm')) FROM tokens")

    done = run("vectors", "rm", store.path, "warm@5", "--reason", "planted", "--json")

    assert done.exit_code == 0, done.output
    assert [row["reference"] for row in json.loads(done.stdout)] == ["tone/warm:probe@5"]
    assert "files of cached scores removed" in done.stderr
    assert f"tistore vectors best {store.path} tone/warm" in done.stderr
    left = [row["reference"] for row in rows("vectors", "ls", store.path)]
    assert "tone/warm:probe@5" not in left
    assert len(left) == 4


def test_check_answers_for_each_reader_and_fails_when_nothing_goes(store):
    found = rows("vectors", "check", store.path, "warm@5")
    assert [(row["reader"], row["verdict"]) for row in found] == [
        ("flattery", "with care"),  # nobody told the hashes of its tokenizer and template
        ("hedge", "with care"),
        ("instruct", "yes"),
    ]
    assert rows("vectors", "check", store.path, "warm@5", "--reader", "hedge") == found[1:2]
    store.add_vector("tone/wide", np.ones(HIDDEN + 1), layer=5, model="instruct")

    done = run("vectors", "check", store.path, "wide", "--json")

    assert done.exit_code == 1
    assert {row["width"] for row in json.loads(done.stdout)} == {"differs"}
    assert "none of these" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["best", "wram"], UnknownVectorError, "'warm'"),
        (["best", "--rule", "stering"], ConfigError, "'steering'"),
        (["best", "--offset", "2"], ConfigError, "--rule incumbent"),
        (["best", "warm", "--pick", "warm@2"], ConfigError, "leave the traits out"),
        (["best", "--pick", "warm"], AmbiguousVectorError, "probe@2, tone/warm:probe@5"),
        (["best", "warm", "--method", "prob"], UnknownVectorError, "'probe'"),
        (["rm", "warm"], AmbiguousVectorError, "--all"),
        (["rm", "warm@5", "wram"], UnknownVectorError, "no vector 'wram'"),
        (["check", "wram"], UnknownVectorError, "no vector 'wram'"),
        (["check", "warm@5", "--reader", "flattry"], NotStoredError, "'flattery'"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(store, arguments, kind, said):
    before = store.snapshot.number
    verb, *rest = arguments

    done = run("vectors", verb, store.path, *rest)

    assert isinstance(done.exception, kind)
    assert said in str(done.exception)
    store.refresh()
    assert store.snapshot.number == before
