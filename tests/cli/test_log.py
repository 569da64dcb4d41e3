"""`tistore log`, `tistore gc` and `--at`, as people and programs meet them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from example_readings import HIDDEN, make_reading
from tistore.cli.main import app
from tistore.errors import ConfigError, NotStoredError
from tistore.query.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    """Two readings, a commit each; a vector that is removed; and a merge."""
    store = Store.create(tmp_path / "s.tistore")
    for seed in range(2):
        with store.writer() as writer:
            writer.add(**make_reading(seed))
    store.add_vector("tone/flattery", np.arange(1, HIDDEN + 1), layer=5)
    return store


def run(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def rows(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def test_the_log_lists_what_each_commit_did_the_newest_last(store):
    with store.writer() as writer:
        writer.remove_vectors(store.snapshot.vectors())
    store.compact()

    listed = rows("log", store.path)

    assert [row["number"] for row in listed] == list(range(1, store.snapshot.number + 1))
    assert [row["operation"] for row in listed[:4]] == ["append"] * 4
    assert listed[-1]["operation"] == "compact"
    assert [row["readings"] for row in listed[:3]] == [1, 1, 0]
    assert (listed[0]["segments"], listed[0]["tokens"], listed[0]["rows"]) == (1, 5, "models 1")
    assert (listed[2]["vectors"], listed[2]["rows"]) == (1, "vectors 1")
    assert listed[3]["removed"] == "vectors 1"
    assert sum(row["segments_replaced"] for row in listed) == 2
    assert listed[0]["writer"] == store.snapshot.commits[0].body["writer"]
    wanted = sum(
        path.stat().st_size
        for path in (store.path / "segments" / listed_segment(store, 0)).rglob("*")
        if path.is_file()
    )
    assert listed[0]["bytes"] == wanted
    assert all(row["can_be_opened"] for row in listed)


def listed_segment(store, place):
    return store.snapshot.commits[place].body["segments"][0]["uuid"]


def test_the_keys_of_the_log_are_stable(store):
    assert list(rows("log", store.path)[0]) == [
        "number", "created_at", "operation", "writer", "segments", "readings", "tokens",
        "vectors", "rows", "removed", "segments_replaced", "table_files_replaced", "bytes",
        "oldest", "can_be_opened",
    ]  # fmt: skip


def test_only_the_newest_commits_are_listed_when_asked(store):
    listed = rows("log", store.path, "-n", 1)

    assert [row["number"] for row in listed] == [3]


def test_the_log_says_which_commits_were_given_up(store):
    store.compact()
    run("gc", store.path, "--yes", "--keep-days", 0)

    listed = rows("log", store.path)
    told = run("log", store.path)

    assert [row["number"] for row in listed if row["can_be_opened"]] == [4, 5]
    assert (listed[-1]["operation"], listed[-1]["oldest"]) == ("expire", 4)
    assert "commits 4 to 5 can be opened" in told.stderr
    assert "gives up commits before 4" in told.stdout


def test_an_empty_store_has_an_empty_log(tmp_path):
    Store.create(tmp_path / "e.tistore")

    assert rows("log", tmp_path / "e.tistore") == []


def test_analyses_are_asked_for_by_name(store):
    rows("top", store.path, "--trait", "flattery")

    (asked,) = rows("log", store.path, "--analyses")
    by_command = rows("log", store.path, "--command", "top")
    others = rows("log", store.path, "--command", "rank")

    assert (asked["command"], by_command, others) == ("top", [asked], [])


def test_gc_lists_first_and_acts_when_told(store):
    store.compact()
    commits = len(list((store.path / "commits").iterdir()))

    listed = rows("gc", store.path, "--keep-days", 0)
    told = run("gc", store.path, "--keep-days", 0)
    untouched = len(list((store.path / "commits").iterdir()))
    done = run("gc", store.path, "--keep-days", 0, "--trash-days", 0, "--yes")
    after = run("gc", store.path, "--keep-days", 0)

    assert list(listed[0]) == ["path", "kind", "action", "files", "bytes", "why", "until"]
    assert {row["action"] for row in listed} == {"move to trash"}
    assert "nothing was touched; with --yes" in told.stderr
    assert untouched == commits
    assert "MB deleted" in done.stderr
    assert "were given up" in done.stderr
    assert after.stdout == ""
    assert "nothing to take away" in after.stderr
    assert rows("verify", store.path)["ok"]


def test_gc_keeps_what_it_is_told_to_keep(store):
    store.compact()

    by_default = rows("gc", store.path)
    by_number = rows("gc", store.path, "--keep-days", 0, "--keep-commits", 2)

    assert {row["action"] for row in by_default + by_number} == {"leave"}
    with pytest.raises(ConfigError):
        run("gc", store.path, "--keep-days", -1)


def test_reading_commands_read_an_earlier_commit(store):
    query = "SELECT count(*) AS n FROM responses"

    assert rows("sql", store.path, query, "--at", 1) == [{"n": 1}]
    assert rows("sql", store.path, query) == [{"n": 2}]
    assert rows("info", store.path, "--at", 1)["readings"] == 1
    assert len(rows("vectors", "ls", store.path, "--at", 3)) == 1
    assert rows("vectors", "ls", store.path, "--at", 2) == []
    with store.writer() as writer:
        writer.add(**make_reading(9))
    spans = ("top", store.path, "--trait", "flattery", "--by", "response")
    assert (len(rows(*spans, "--at", 3)), len(rows(*spans))) == (2, 3)
    with pytest.raises(NotStoredError, match="no commit 99"):
        run("sql", store.path, query, "--at", 99)
