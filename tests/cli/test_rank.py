"""`tistore rank` as people read it, and as programs do."""

from __future__ import annotations

import inspect
import json
import re

import pytest
from typer.testing import CliRunner

import tistore
from ranked_store import ORGANISMS, write_ranked_store
from tistore.audit.families import read_families
from tistore.audit.log import read_analyses
from tistore.cli.main import app
from tistore.errors import ConfigError, TistoreError


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("rank") / "s.tistore"
    write_ranked_store(path)
    return str(path)


UNCERTAIN = re.compile(r"(.*_)?(p|q|p_value|low|high|error)")
"""Names of columns that tell how sure something is."""


def run(*arguments: str):
    return CliRunner().invoke(app, ["rank", *arguments, "--permutations", "200"])


def read(*arguments: str) -> list[dict]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_who_does_something_of_its_own_comes_first(path):
    rows = read(path, "--families", "^[^-]+")

    flags = {(row["organism"], row["trait"]): row["flags"] for row in rows if row["flags"]}
    assert "mean" in flags["loud-a", "tone/loud"]
    assert "mean" in flags["loud-b", "tone/loud"]
    assert "slope" in flags["ramp-a", "tone/rising"]
    assert "turn" in flags["ramp-a", "tone/rising"]
    assert {organism for organism, _ in flags} == {"loud-a", "loud-b", "ramp-a"}
    assert len(rows) == len(ORGANISMS) * 3
    assert {row["family"] for row in rows} == {"loud", "plain", "ramp", "shy"}


def test_a_table_shows_what_says_something_and_the_rest_is_told(path):
    done = run(path, "-n", "2")

    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert "worst_prompt" in lines[0]
    assert len(lines) == 4
    assert "16 more rows" in done.stderr
    assert "not covered: stance" in done.stderr
    assert "clean" not in done.output


def test_the_noise_of_second_readings_is_beside_the_effect(path):
    rows = read(path)

    floors = {row["organism"] for row in rows if row["noise_floor"] is not None}
    assert floors == {"loud-a"}


def test_options_reach_the_ranking(path):
    rows = read(
        path, "--organism", "loud-a", "--trait", "loud", "--part", "model", "--no-slopes",
        "--subset", "note:even", "--prompt-set", "audit/ranked", "--seed", "3",
    )  # fmt: skip

    (row,) = rows
    assert (row["organism"], row["trait"], row["part"]) == ("loud-a", "tone/loud", "model")
    assert row["slope"] is None
    assert row["subset"] == "note:even"


def test_every_ranking_is_in_the_log(path):
    before = len(read_analyses(tistore.open(path)))

    run(path, "--organism", "shy-a")

    analyses = read_analyses(tistore.open(path))
    assert len(analyses) == before + 1
    assert (analyses[-1].command, analyses[-1].n_cells) == ("rank", 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--organism", "lout-a"], "did you mean 'loud-a'"),
        (["--subset", "note:evn"], "did you mean 'note:even'"),
        (["--families", "("], "no regular expression"),
        (["--families", "zzz"], "fits no organism"),
        (["--families", "absent.json"], "cannot be read"),
        (["--cluster", "nte"], "did you mean 'note'"),
        (["--baseline", "instrct"], "did you mean 'instruct'"),
        (["--q", "0"], "between 0 and 1"),
    ],
)
def test_mistakes_say_what_would_work(arguments, told, path):
    done = run(path, *arguments)

    assert isinstance(done.exception, TistoreError)
    assert told in str(done.exception)


def commands_with(*options: str) -> list[str]:
    return sorted(
        command.name or command.callback.__name__
        for command in app.registered_commands
        if set(options) & set(inspect.signature(command.callback).parameters)
    )


def test_no_command_that_tests_anything_can_take_another_unit_than_the_prompt():
    """A test whose unit is the token finds something in noise half of the time."""
    assert "rank" in commands_with("q", "permutations")
    assert not set(commands_with("q", "permutations")) & set(commands_with("by", "unit"))


@pytest.mark.parametrize("command", commands_with("by"))
def test_what_is_told_of_tokens_has_no_p_and_no_interval(command, path):
    """Whichever command can go down to tokens, and whatever it says of them."""
    arguments = {
        "top": ["--trait", "tone/loud"],
        "diff": ["loud-a", "instruct", "--trait", "tone/loud"],
    }
    done = CliRunner().invoke(
        app, [command, path, *arguments.get(command, []), "--by", "token", "--json"]
    )

    if done.exit_code == 2:
        assert "'token' is not one of" in done.output
        return
    assert done.exit_code == 0, done.output
    for row in json.loads(done.stdout):
        told = {key for key, value in row.items() if value is not None}
        assert not {key for key in told if UNCERTAIN.fullmatch(key)}, command


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("families.json", '{"loud-a": "noisy", "loud-b": "noisy", "elsewhere": "x"}'),
        ("families.json", '{"noisy": ["loud-a", "loud-b"]}'),
        ("families.csv", "organism,family\nloud-a,noisy\nloud-b,noisy\n"),
        ("families.tsv", "organism\tfamily\nloud-a\tnoisy\nloud-b\tnoisy\n"),
    ],
)
def test_families_come_from_a_file(name, text, tmp_path):
    (tmp_path / name).write_text(text)

    assert read_families(str(tmp_path / name), ORGANISMS) == {"loud-a": "noisy", "loud-b": "noisy"}


def test_families_are_cut_out_of_names():
    assert read_families("^[^-]+", ORGANISMS)["ramp-a"] == "ramp"
    assert read_families("-(.)$", ORGANISMS)["ramp-a"] == "a"
    assert read_families("^loud", ORGANISMS) == {"loud-a": "loud", "loud-b": "loud"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.json", "[1]"),
        ("f.json", '{"a": 3}'),
        ("f.json", "{"),
        ("f.csv", "name,kind\na,b\n"),
        ("f.json", "{}"),
        ("f.csv", "organism,family\nloud-a\n"),
    ],
)
def test_a_file_that_names_no_families_is_refused(name, text, tmp_path):
    (tmp_path / name).write_text(text)

    with pytest.raises(ConfigError, match="f\\.(json|csv)"):
        read_families(str(tmp_path / name), ORGANISMS)
