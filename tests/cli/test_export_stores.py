"""`tistore export store` and `tistore export scores`: what a user types and sees."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tistore
from audited_store import HIDDEN, write_audited_store
from command_line import run
from tistore.errors import ConfigError, NotStoredError, StoreExistsError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "s.tistore"
    return write_audited_store(path, n_prompts=2, response=20)[0]


def test_a_sub_store_is_made_and_gone_on_with(store, tmp_path):
    arguments = ("export", "store", store.path, tmp_path / "sub", "--layers", "5",
                 "--where", "organism = 'hedge'", "--json")  # fmt: skip

    first, second = run(*arguments), run(*arguments)

    assert first.exit_code == second.exit_code == 0, first.stderr
    assert "readings" in first.stderr
    made, again = json.loads(first.stdout), json.loads(second.stdout)
    assert made["destination"] == str(tmp_path / "sub")
    assert (made["readings"], made["present"]) == (again["present"], again["readings"])
    assert made["readings"] == 3
    assert tistore.open(tmp_path / "sub").info().layers == (5,)


def test_a_bundle_is_asked_like_a_store(store, tmp_path):
    done = run("export", "scores", store.path, tmp_path / "b", "--vector", "flattery", "--json")

    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["vectors"] == ["tone/flattery:mean_diff@5"]
    assert made["size_bytes"] > 0 < made["activation_bytes"]
    top = ("-t", "flattery", "--by", "token", "--json")
    mine, theirs = run("top", tmp_path / "b", *top), run("top", store.path, *top)
    assert mine.exit_code == 0, mine.stderr
    for left, right in zip(json.loads(mine.stdout), json.loads(theirs.stdout), strict=True):
        assert left.pop("score") == pytest.approx(right.pop("score"), rel=1e-5)
        assert left == right
    query = "SELECT count(project('flattery')) AS n FROM clauses"
    assert run("sql", tmp_path / "b", query, "--json").stdout == (
        run("sql", store.path, query, "--json").stdout
    )
    assert json.loads(run("info", tmp_path / "b", "--json").stdout)["raw_bytes"] == 0


def test_what_is_not_in_a_bundle_is_told(store, tmp_path):
    run("export", "scores", store.path, tmp_path / "b", "--vector", "flattery")

    refused = run("sql", tmp_path / "b", "SELECT project('hedging') FROM tokens")
    again = run("export", "scores", store.path, tmp_path / "b", "--vector", "early")
    unknown = run("export", "store", store.path, tmp_path / "c", "--layers", "7")
    percent = run("export", "store", store.path, tmp_path / "c", "--layers", "50%")

    assert isinstance(refused.exception, NotStoredError)
    assert "It has tone/flattery:mean_diff@5" in str(refused.exception)
    assert isinstance(again.exception, StoreExistsError)
    assert isinstance(unknown.exception, NotStoredError)
    assert isinstance(percent.exception, ConfigError)
    assert not (tmp_path / "c").exists()


def test_a_note_tells_of_readings_without_the_layers(store, tmp_path):
    with store.writer() as writer:
        writer.add(
            organism="hedge",
            reader="other",
            prompt_set="extra",
            prompt_id="1",
            token_ids=[1, 2],
            prompt_length=1,
            layers=[2],
            activations={"residual": np.ones((2, 1, HIDDEN))},
        )

    done = run("export", "store", store.path, tmp_path / "sub", "--layers", "5")

    assert done.exit_code == 0, done.stderr
    assert "note: 1 readings hold none of the layers" in done.stderr
