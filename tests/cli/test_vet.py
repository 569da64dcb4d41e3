"""`tistore vectors vet`: what a user types and sees, with a judge over real HTTP."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from judge_server import completion, failure, serve_judge
from tistore.cli.main import app
from vetting_store import TRAIT, write_scenarios, write_trait


@pytest.fixture
def store(tmp_path):
    return write_scenarios(tmp_path / "s.tistore")


@pytest.fixture
def trait(tmp_path):
    return write_trait(tmp_path)


def run(*arguments):
    return CliRunner().invoke(app, ["vectors", "vet", *map(str, arguments)])


def by_side(request, number):
    return completion("90" if "positive" in request["messages"][1]["content"] else "10")


def test_a_trait_is_a_row_and_in_json_a_scenario_is(store, trait):
    with serve_judge(by_side) as server:
        judge = ("--judge", server.url, "--judge-model", "judge-1")
        listed = run(store.path, trait, *judge, "--format", "md")
        long = run(store.path, trait, *judge, "--json")

    assert listed.exit_code == long.exit_code == 0, listed.stderr
    assert len(server.requests) == 24
    names, _, values = (line.strip("| ").split(" | ") for line in listed.stdout.splitlines())
    row = dict(zip(names, values, strict=True))
    assert row["trait"] == TRAIT
    assert (row["judged"], row["positive"], row["negative"]) == ("24", "12", "12")
    assert (row["dropped"], row["unjudged"]) == ("0", "0")
    assert "judged 24 scenarios" in listed.stderr
    assert "24 were judged before" in long.stderr
    rows = json.loads(long.stdout)
    assert len(rows) == 24
    assert rows[0] | {"response_id": "", "rubric_hash": ""} == {
        "trait": TRAIT, "side": "positive", "prompt_id": "1", "sample": 0, "response_id": "",
        "score": 90.0, "verdict": "kept", "judge": "judge-1", "rubric_hash": "",
    }  # fmt: skip


def test_without_a_judge_nobody_is_asked_and_other_thresholds_can_be_tried(store, trait):
    with serve_judge(by_side) as server:
        run(store.path, trait, "--judge", server.url, "--judge-model", "judge-1")

    known = run(store.path, TRAIT.rpartition("/")[2], "--json")  # or with its category
    strict = run(store.path, TRAIT, "--threshold", "95/5", "--json")

    assert known.exit_code == 0, known.output
    assert len(json.loads(known.stdout)) == 24
    assert {row["verdict"] for row in json.loads(strict.stdout)} == {"too low", "too high"}
    assert strict.exit_code == 1
    assert "0 of 12 positive" in str(strict.exception)


def test_a_judge_that_goes_away_ends_with_what_can_be_resumed(store, trait):
    def script(request, number):
        return by_side(request, number) if number < 10 else failure(401, "expired")

    with serve_judge(script) as server:
        judge = ("--judge", server.url, "--judge-model", "judge-1")
        broken = run(store.path, trait, *judge, "--judge-concurrency", 1)

    assert broken.exception.exit_code == 1
    assert "expired" in str(broken.exception)
    partly = run(store.path, TRAIT, "--minimum", 1)
    assert partly.exception.exit_code == 1
    assert "10 of 12 positive (2 not judged)" in str(partly.exception)
    with serve_judge(by_side) as server:
        judge = ("--judge", server.url, "--judge-model", "judge-1")
        assert run(store.path, trait, *judge).exit_code == 0
        assert len(server.requests) == 14


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--judge", "http://judge/v1"], "--judge-model"),
        (["--judge", "judge", "--judge-model", "m"], "no http or https URL"),
        (["--judge", "http://j/v1", "--judge-model", "m", "--threshold", "60"], "60/40"),
        (["--judge", "http://j/v1", "--judge-model", "m", "--threshold", "4/60"], "thresholds"),
    ],
)
def test_a_mistake_is_named_before_anything_is_asked(store, trait, arguments, said):
    done = run(store.path, trait, *arguments)

    assert done.exception.exit_code == 2
    assert said in str(done.exception)


def test_what_was_never_judged_says_how_to(store):
    done = run(store.path, TRAIT)

    assert done.exception.exit_code == 1
    assert "--judge URL" in str(done.exception)
