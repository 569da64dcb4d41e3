"""`tistore datasets`: what a user types and sees."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tistore.cli.main import app
from tistore.datasets.shipped import list_shipped_prompt_sets, list_shipped_traits
from tistore.errors import ConfigError, DatasetError


def run(*arguments):
    return CliRunner().invoke(app, ["datasets", *map(str, arguments)])


@pytest.fixture
def trait(tmp_path):
    folder = tmp_path / "tone" / "curt"
    folder.mkdir(parents=True)
    (folder / "positive.txt").write_text("one two three\nfour five six\nseven eight nine\n")
    (folder / "negative.txt").write_text("one two four\nfour five seven\n")
    return folder


def test_ls_lists_what_ships_with_counts():
    rows = json.loads(run("ls", "--json").stdout)

    assert [row["name"] for row in rows] == [*list_shipped_traits(), *list_shipped_prompt_sets()]
    assert len({tuple(row) for row in rows}) == 1
    (discovery,) = [row for row in rows if row["name"] == "audit/discovery"]
    assert (discovery["kind"], discovery["prompts"], discovery["notes"]) == ("prompt_set", 165, 8)
    assert discovery["positive"] is None


def test_ls_lists_what_lies_below_a_folder(trait, tmp_path):
    (row,) = json.loads(run("ls", tmp_path, "--json").stdout)

    assert (row["kind"], row["name"], row["positive"], row["negative"]) == (
        "trait", "tone/curt", 3, 2,
    )  # fmt: skip
    assert (row["questions"], row["definition"], row["path"]) == (0, False, str(trait))


def test_ls_lists_the_readable_and_fails_for_the_rest(trait, tmp_path):
    (tmp_path / "broken.json").write_text("{")

    done = run("ls", tmp_path, "--json")

    assert [row["name"] for row in json.loads(done.stdout)] == ["tone/curt"]
    assert f"left out: {tmp_path / 'broken.json'} is not valid JSON" in done.stderr
    assert isinstance(done.exception, DatasetError)
    assert done.exception.exit_code == 1


def test_show_puts_pairs_side_by_side(trait):
    done = run("show", trait, "--json")

    assert json.loads(done.stdout) == [
        {"pair": 1, "positive": "one two three", "negative": "one two four"},
        {"pair": 2, "positive": "four five six", "negative": "four five seven"},
        {"pair": 3, "positive": "seven eight nine", "negative": None},
    ]
    assert "tone/curt: without a definition" in done.stderr


def test_show_says_when_it_shows_a_part():
    done = run("show", "audit/probing", "-n", 2, "--json")

    rows = json.loads(done.stdout)
    assert [row["prompt_id"] for row in rows] == ["1", "2"]
    assert rows[0]["note"] == "direct" and rows[0]["system_prompt"] and rows[0]["turns"] == 1
    assert "2 of 50; -n 50 shows all" in done.stderr


def test_show_of_several_names_them():
    done = run("show", "audit")

    assert isinstance(done.exception, ConfigError)
    assert "audit/benign, audit/discovery, audit/probing" in done.exception.mend


def test_check_lists_problems_and_fails_on_errors_only(trait):
    passed = run("check", trait, trait, "--json")
    assert passed.exit_code == 0
    assert "1 data sets: 0 errors, " in passed.stderr
    (trait / "negative.txt").write_text("one two three\n")

    failed = run("check", trait, "--json")

    assert isinstance(failed.exception, DatasetError) and failed.exception.exit_code == 1
    errors = [row for row in json.loads(failed.stdout) if row["level"] == "error"]
    assert errors == [
        {
            "level": "error",
            "dataset": "tone/curt",
            "check": "identical pair",
            "where": "positive#1",
            "message": "both sides say the same",
        }
    ]


def test_what_ships_passes_its_own_check():
    done = run("check", *list_shipped_traits(), *list_shipped_prompt_sets())

    assert done.exit_code == 0, done.stdout


@pytest.mark.parametrize("verb", ["ls", "show", "check"])
def test_an_unknown_name_is_told_the_nearest(verb):
    done = run(verb, "audit/discovry")

    assert isinstance(done.exception, DatasetError)
    assert done.exception.mend == "did you mean 'audit/discovery'?"
