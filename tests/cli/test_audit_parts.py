"""`decompose`, `layers`, `fingerprint`, `cluster`, `correlate`: for programs and people."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import tistore
from command_line import run
from made_store import AUTHORS, make_store
from tistore.audit.log import read_analyses
from tistore.errors import ConfigError, QueryError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "s.tistore"
    make_store(folder, swapped=True)
    return str(folder)


COMMANDS = {
    "cluster": ("cluster", "STORE", "--resamples", "3"),
    "cluster clauses": ("cluster", "STORE", "--by", "clause", "-k", "2", "--resamples", "2"),
    "cluster responses": ("cluster", "STORE", "--by", "response", "-k", "2", "--resamples", "2"),
    "correlate": ("correlate", "STORE", "--resamples", "20"),
    "correlate organisms": ("correlate", "STORE", "--by", "organism"),
    "correlate tokens": ("correlate", "STORE", "--by", "token", "--lags", "1"),
    "covariates": ("decompose", "STORE", "loud", "--covariates", "--cluster", "prompt_id"),
    "decompose": ("decompose", "STORE", "loud", "--resamples", "20"),
    "fingerprint": ("fingerprint", "STORE", "loud", "shy"),
    "layers": ("layers", "STORE", "loud", "--resamples", "20"),
    "layer pairs": ("layers", "STORE", "loud", "--pairs", "--part", "model"),
}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_prints_flat_objects_of_the_same_keys_and_a_table(path, name):
    command = [path if word == "STORE" else word for word in COMMANDS[name]]

    done, table = run(*command, "--json"), run(*command)

    assert done.exit_code == table.exit_code == 0, (done.exception, table.exception)
    rows = json.loads(done.stdout)
    assert rows and len({tuple(row) for row in rows}) == 1
    assert not any(isinstance(value, dict | list) for row in rows for value in row.values())
    assert "tone/first" in table.stdout or "cluster" in table.stdout


def test_the_parts_that_are_printed_add_up_in_all_three_orders(path):
    rows = json.loads(run("decompose", path, "shy", "-t", "first", "--json").stdout)

    assert [row["order"] for row in rows] == ["reader first", "text first", "average"]
    for row in rows:
        assert row["model_part"] + row["text_part"] == row["total"]
        assert row["total_low"] < row["total"] < row["total_high"]


def test_what_no_token_can_tell_is_not_printed(path):
    """Neighbouring tokens are no independent evidence."""
    rows = json.loads(run("correlate", path, "--by", "token", "--lags", "2", "--json").stdout)

    assert {row["low"] for row in rows} == {row["high"] for row in rows} == {None}
    assert not any(key in ("p", "q") for row in rows for key in row)


def test_each_answer_is_logged_with_the_cells_that_were_looked_at(path):
    before = len(read_analyses(tistore.open(path)))

    run("fingerprint", path, "--json")
    run("decompose", path, "loud", "--json")

    one, other = read_analyses(tistore.open(path))[before:]
    assert (one.command, one.n_cells, one.n_organisms) == ("fingerprint", 2 * len(AUTHORS), 5)
    assert (other.command, other.n_traits) == ("decompose", 2)


def test_each_answers_as_of_an_earlier_commit_and_logs_nothing_then(path, tmp_path):
    shutil.copytree(path, tmp_path / "s.tistore")
    store = tistore.open(tmp_path / "s.tistore")
    number = store.snapshot.number
    later = np.zeros(store.info().hidden, dtype=np.float32)
    later[0], later[1] = 3.0, 4.0
    store.add_vector("tone/later", later, layer=3, method="mean_diff")

    for name in ("cluster", "correlate", "decompose", "fingerprint", "layers"):
        first, *others = COMMANDS[name]
        now, before = (
            run(first, store.path, *others[1:], "--json", *at) for at in ((), ("--at", number))
        )

        assert "tone/later" in now.stdout, name
        assert before.exit_code == 0 and "tone/later" not in before.stdout, name
        assert f"not logged: the store is open at commit {number}" in before.stderr, name


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("decompose", "STORE", "lowd"), QueryError, "'loud'"),
        (("cluster", "STORE", "-k", "4"), QueryError, "cannot be 4 groups"),
        (("cluster", "STORE", "--by", "clause", "--part", "total"), QueryError, "own or model"),
        (("correlate", "STORE", "--lags", "3"), ConfigError, "--by token"),
        (("cluster", "STORE", "--by", "response", "--linkage", "ward"), ConfigError, "--linkage"),
        (("layers", "STORE", "loud", "--part", "own"), QueryError, "no part 'own'"),
        (("fingerprint", "STORE", "nobody"), QueryError, "'nobody'"),
        (("correlate", "STORE", "-t", "first"), QueryError, "goes with no other"),
    ],
)
def test_a_question_that_makes_no_sense_says_what_would(path, arguments, kind, said):
    done = run(*(path if word == "STORE" else word for word in arguments))

    assert isinstance(done.exception, kind) and said in str(done.exception)
    assert not done.stdout
