"""`tistore report` as people call it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import tistore
from reported_store import LOUD, ORGANISMS, write_reported_store
from tistore.cli.main import app
from tistore.errors import ConfigError, QueryError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_reported_store(tmp_path_factory.mktemp("report") / "s.tistore").path


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("tistore.audit.report.report.draw_figures", lambda *_: [])


def call(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_a_report_is_two_files_and_the_verdict(path, tmp_path):
    done = call(path, LOUD, "-o", tmp_path / "out", "--json")

    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["file"] for row in rows] == [
        str(tmp_path / "out" / name) for name in ("summary.md", "report.html")
    ]
    assert all(row["size_bytes"] > 1000 for row in rows)
    assert "stands out from the 4 other organisms" in done.stderr and "tone/loud" in done.stderr
    assert "not covered: multi-turn" in done.stderr


def test_a_report_is_of_the_commit_it_was_asked_of(path, tmp_path):
    number = tistore.open(path).snapshot.number - 1

    done = call(path, LOUD, "-o", tmp_path / "out", "--at", number)

    assert done.exit_code == 0, done.output
    assert f"at commit {number}\n" in (tmp_path / "out" / "summary.md").read_text()
    assert f"not logged: the store is open at commit {number}" in done.stderr


def test_the_key_of_a_blind_report_is_written_only_where_it_was_asked_for(path, tmp_path):
    done = call(path, LOUD, "-o", tmp_path / "out", "--blind")
    assert done.exit_code == 0 and LOUD not in done.output.replace(str(tmp_path), "")
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["report.html", "summary.md"]

    done = call(path, LOUD, "-o", tmp_path / "out", "--blind", "--key", tmp_path / "key.json")
    assert done.exit_code == 0
    key = json.loads((tmp_path / "key.json").read_text())
    assert sorted(key["organisms"].values()) == sorted(ORGANISMS)


def test_a_key_is_refused_where_it_tells_nothing_or_lies_beside_the_report(path, tmp_path):
    open_key = call(path, LOUD, "-o", tmp_path / "out", "--key", tmp_path / "key.json")
    beside = call(path, LOUD, "-o", tmp_path, "--blind", "--key", tmp_path / "key.json")

    for done, told in ((open_key, "add --blind"), (beside, "another folder")):
        assert isinstance(done.exception, ConfigError) and told in str(done.exception)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.*"))


def test_an_unknown_organism_leaves_nothing_behind(path, tmp_path):
    done = call(path, "zebra-organisn", "-o", tmp_path / "out")

    assert isinstance(done.exception, QueryError) and LOUD in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_traits_prompt_sets_and_families_narrow_a_report(path, tmp_path):
    done = call(
        path, LOUD, "-o", tmp_path, "-t", "loud", "--prompt-set", "audit/one",
        "--families", "^(zebra|yak)", "--seed", "4",
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    summary = (tmp_path / "summary.md").read_text()
    assert "the 4 other organisms" in summary and "tone/shy" not in summary


def test_a_report_does_not_go_into_the_store(path):
    before = sorted(one.name for one in path.iterdir())
    for folder in (path, path / "report"):
        done = call(path, LOUD, "-o", folder)
        assert isinstance(done.exception, ConfigError) and "inside of the store" in str(
            done.exception
        )
    assert sorted(one.name for one in path.iterdir()) == before
