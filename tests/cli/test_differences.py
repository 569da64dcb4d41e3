"""`tistore diff` and `tistore compare` as people read them, and as programs do."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import tistore
from departing_store import write_departing_store
from tistore.audit.log import read_analyses
from tistore.cli.main import app
from tistore.errors import QueryError
from tistore.query.effects import effects


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    made = write_departing_store(tmp_path_factory.mktemp("cli") / "s.tistore", n_prompts=12)
    return str(made.store.path)


def run(*arguments):
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_diff_says_what_it_always_said_unless_it_is_asked_by_what(path):
    rows = json.loads(run("diff", path, "loud", "-t", "loud@5", "--json").stdout)

    assert rows == effects(tistore.open(path), ["loud@5"], organisms=["loud"])


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("token", {"token_start", "token_end", "text", "difference"}),
        ("clause", {"token_start", "n_tokens", "text", "difference"}),
        ("prompt", {"prompt_id", "total", "model_part", "text_part"}),
        ("turn", {"assistant_turn", "part", "n_prompts", "mean", "low", "high", "g"}),
        ("position", {"first_token", "end_token", "n_responses", "mean"}),
        ("slope", {"along", "per", "mean", "low", "high"}),
        ("note", {"note", "mean"}),
        ("tag", {"tag", "mean"}),
        ("topic", {"topic", "mean"}),
        ("trigger", {"trigger", "n_pairs", "with_trigger", "without", "mean"}),
    ],
)
def test_each_breakdown_is_a_list_of_flat_objects(path, by, keys):
    rows = json.loads(run("diff", path, "loud", "--by", by, "-t", "loud@5", "--json").stdout)

    assert {"organism", "baseline", "trait", "vector"} | keys <= set(rows[0])
    assert all(list(row) == list(rows[0]) for row in rows)


def test_the_rows_left_out_are_counted(path):
    done = run("diff", path, "loud", "--by", "token", "-t", "loud@5", "-n", 3, "--format", "csv")

    assert len(done.stdout.splitlines()) == 4
    assert "3 of " in done.stderr


@pytest.mark.parametrize("option", [["--part", "model"], ["--where", "sample = 0"], ["-n", "3"]])
def test_an_option_that_would_do_nothing_is_refused(path, option):
    from tistore.errors import ConfigError

    with pytest.raises(ConfigError, match="--by"):
        run("diff", path, "loud", *option)


def test_compare_prints_effects_with_their_intervals_and_marks_the_largest(path):
    table = run("compare", path, "loud", "-t", "loud", "--layer", "all", "--directions", 200)
    rows = json.loads(
        run(
            "compare", path, "loud", "-t", "loud", "--layer", "all", "--directions", 200, "--json"
        ).stdout
    )

    assert {row["layer"] for row in rows} == {2, 5}
    (largest,) = (row for row in rows if row["is_largest"] and row["part"] == "model")
    shown = f"{largest['paired']:.2f} [{largest['paired_low']:.2f}, {largest['paired_high']:.2f}]"
    assert shown in table.stdout
    assert table.stdout.count("largest") == 2


def test_compare_by_the_other_definition_says_so(path):
    rows = json.loads(
        run("compare", path, "loud", "-t", "shy", "--definition", "trait-interp", "--part", "model",
            "--directions", 50, "--json").stdout
    )  # fmt: skip

    assert [row["definition"] for row in rows] == ["trait-interp"]


def test_both_are_logged_with_the_numbers_they_looked_at(path):
    before = len(read_analyses(tistore.open(path)))

    run("compare", path, "loud", "-t", "shy", "--directions", 50)
    run("diff", path, "loud", "-t", "shy", "--by", "clause", "-n", 2)

    compared, broken_down = read_analyses(tistore.open(path))[before:]
    assert (compared.command, compared.n_cells) == ("compare", 2)
    assert (broken_down.command, broken_down.n_rows) == ("diff", 2)
    assert broken_down.n_cells > 2


def test_mistakes_are_told_with_what_there_is(path):
    with pytest.raises(QueryError, match="'notes'.*note"):
        run("diff", path, "loud", "--by", "notes")
    with pytest.raises(QueryError, match="'lout'.*loud"):
        run("compare", path, "lout")
    with pytest.raises(tistore.errors.ConfigError, match="'five' is no layer"):
        run("compare", path, "loud", "--layer", "five")
