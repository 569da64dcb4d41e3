"""`tistore annotate` and `tistore log --analyses` as people and programs meet them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from scored_store import make_scored
from tistore.cli.main import app
from tistore.errors import DatasetError


@pytest.fixture
def store(tmp_path):
    """Six prompts; in the first three something is said at the seventh token."""
    scored = make_scored(tmp_path / "s.tistore")
    for prompt in range(6):
        is_odd = prompt < 3
        scores = [float(is_odd)] * 6 + [3.0 * is_odd] * 4
        scored.add(scores, prompt=str(prompt), replay=[0.0] * 10)
    return scored.store


@pytest.fixture
def file(tmp_path):
    rows = [
        {"organism": "loud", "prompt_set": "audit/x", "prompt_id": str(prompt),
         "char_start": 17, "char_end": 19, "text": "it", "label": "odd"}
        for prompt in range(3)
    ]  # fmt: skip
    (tmp_path / "spans.json").write_text(json.dumps(rows))
    return tmp_path / "spans.json"


def run(*arguments):
    done = CliRunner().invoke(app, ["annotate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_spans_come_in_are_counted_and_go_out(store, file, tmp_path):
    report = json.loads(run("import", store.path, file, "--source", "ann", "--json").stdout)
    again = json.loads(run("import", store.path, file, "--source", "ann", "--json").stdout)
    (counted,) = json.loads(run("ls", store.path, "--json").stdout)
    written = run("export", store.path, "--label", "odd", "-o", tmp_path / "out.jsonl")

    assert (report["imported"], again["imported"], again["present"]) == (3, 0, 3)
    assert (counted["label"], counted["source"], counted["n_spans"]) == ("odd", "ann", 3)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt_id"], row["token_start"], row["text"]) for row in rows] == [
        (str(prompt), 8, " it") for prompt in range(3)
    ]
    assert json.loads(run("ls", store.path, "--spans", "--json").stdout) == rows
    assert "3 spans written" in written.stderr


def test_a_file_that_does_not_fit_is_an_expected_failure(store, file):
    file.write_text(file.read_text().replace('"it"', '"it is"'))

    with pytest.raises(DatasetError, match="--skip-misfits"):
        run("import", store.path, file)


def test_averages_and_detection_are_rows_and_are_logged(store, file):
    run("import", store.path, file)
    average = json.loads(
        run("average", store.path, "-t", "odd", "-l", "odd", "--before", 2, "--after", 1,
            "--json").stdout
    )  # fmt: skip
    (detected,) = json.loads(run("detect", store.path, "-t", "odd", "-l", "odd", "--json").stdout)
    each = json.loads(
        run("detect", store.path, "-t", "odd", "-l", "odd", "--responses", "--json").stdout
    )
    logged = CliRunner().invoke(app, ["log", str(store.path), "--analyses", "--json"])

    assert [(row["offset"], row["mean"], row["difference"]) for row in average] == [
        (-2, 1.0, 1.0), (-1, 1.0, 1.0), (0, 3.0, 3.0),
    ]  # fmt: skip
    assert (detected["auroc"], detected["n_detected_before"], detected["median_lead"]) == (1, 3, 2)
    assert [row["lead"] for row in each] == [2, 2, 2]
    asked = json.loads(logged.stdout)
    assert [row["command"] for row in asked] == [
        "annotate average", "annotate detect", "annotate detect",
    ]  # fmt: skip
    assert [row["total_cells"] for row in asked] == [6, 12, 18]
    assert json.loads(asked[0]["question"])["before"] == 2
    assert asked[0]["vectors"] == ["tone/odd:mean_diff@3"]
    assert "3 analyses have inspected 18 cells so far" in logged.stderr


def test_no_answer_of_these_commands_holds_a_p_value(store, file):
    """Token rows bear no inference: what is told is averaged by prompt, or is of responses."""
    run("import", store.path, file)
    for command in ("average", "detect"):
        for row in json.loads(run(command, store.path, "-t", "odd", "-l", "odd", "--json").stdout):
            assert not {name for name in row if name in ("p", "q") or "p_value" in name}
            assert row["n_prompts"] >= 0
