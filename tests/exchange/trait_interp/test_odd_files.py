"""Files that disagree, or whose names no output could hold: what a dry run and a list say."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from typer.testing import CliRunner

import tistore
from tistore.cli.main import app
from tistore.exchange.trait_interp.run import import_experiment

RAW = "inference/flattery/raw/residual/odd"


def run(*arguments):
    return CliRunner().invoke(app, ["import", "trait-interp", *map(str, arguments)])


def save(path, ids=(3, 4, 5), seed=0, names=("residual",)):
    """Write a capture of two prompt tokens and a response, a row each."""
    generator = torch.Generator().manual_seed(seed)
    content = {
        half: {
            "text": "x" * len(own),
            "tokens": ["x"] * len(own),
            "token_ids": list(own),
            "activations": {
                2: {name: torch.randn(len(own), 8, generator=generator) for name in names}
            },
        }
        for half, own in (("prompt", (1, 2)), ("response", ids))
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


@pytest.fixture
def experiment(tmp_path):
    """An experiment of one response."""
    folder = tmp_path / "experiment"
    save(folder / RAW / "1.pt")
    variants = {"flattery": {"model": "m", "lora": "l"}, "instruct": {"model": "m"}}
    defaults = {"application": "flattery"}
    config = {"defaults": defaults, "model_variants": variants}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def list_outcomes(report):
    return {file.path: (file.outcome, file.reason) for file in report.files}


def test_a_dry_run_refuses_what_the_import_does(experiment, tmp_path):
    """A response of other tokens than its activations, and a second capture of one response."""
    other = {"prompt": "a", "response": "b", "token_ids": [1, 2, 3, 4, 6], "prompt_end": 2}
    responses = experiment / "inference" / "flattery" / "responses" / "odd"
    responses.mkdir(parents=True)
    (responses / "1.json").write_text(json.dumps(other))
    save(experiment / "inference" / "raw" / "residual" / "odd" / "1.pt", seed=1)

    foreseen = import_experiment(None, experiment, dry_run=True)
    report = import_experiment(tistore.create(tmp_path / "s"), experiment)

    assert foreseen.counts == report.counts
    assert report.count("refused") == 2
    for path, (outcome, _) in list_outcomes(report).items():
        assert list_outcomes(foreseen)[path][0] == outcome, path


def test_names_that_are_no_text_are_listed_in_every_format(experiment, tmp_path):
    for name in (b"bad\xff.pt", b"new\nline.pt"):
        shutil.copy(experiment / RAW / "1.pt", experiment / RAW / os.fsdecode(name))

    for form in ("json", "jsonl", "csv", "parquet", "md"):
        done = run(tmp_path / "s", experiment, "--dry-run", "--format", form)
        assert done.exit_code == 0, (form, done.stderr)
        assert f"refused {RAW}/bad\\udcff.pt: " in done.stderr
        assert f"refused {RAW}/new\\nline.pt: " in done.stderr


def test_a_replay_of_a_model_nobody_declared_is_told(experiment, tmp_path):
    save(experiment / "inference" / "instruct" / "raw" / "residual" / "odd_replay_nobody" / "1.pt")

    report = import_experiment(tistore.create(tmp_path / "s"), experiment)

    outcome, reason = list_outcomes(report)[
        "inference/instruct/raw/residual/odd_replay_nobody/1.pt"
    ]
    assert outcome == "imported"
    assert reason == "taken for its own response: config.json declares no model 'nobody'"


def test_a_reason_does_not_repeat_the_path(experiment, tmp_path):
    path = experiment / "inference" / "flattery" / "responses" / "odd" / "2.json"
    path.parent.mkdir(parents=True)
    path.write_text("{nope")

    report = import_experiment(tistore.create(tmp_path / "s"), experiment)

    _, reason = list_outcomes(report)["inference/flattery/responses/odd/2.json"]
    assert reason.startswith("is not valid JSON at line 1")


def test_a_precision_that_comes_too_late_is_told(experiment, tmp_path):
    """All is present, so nothing would be refused, and nothing changes."""
    run(tmp_path / "s", experiment)

    done = run(tmp_path / "s", experiment, "--quantization", "4bit")

    assert done.exit_code == 0, done.stderr
    assert "'flattery' has quantization None, the experiment's '4bit': what is stored stays" in (
        done.stderr
    )
    assert "0 imported, 1 present" in done.stderr


def test_components_left_out_before_are_told(experiment, tmp_path):
    """The file counts as present: without a word, its other components would seem to be there."""
    save(experiment / RAW / "1.pt", names=("residual", "attn_contribution"))
    first = run(tmp_path / "s", experiment, "--component", "residual", "--json")
    again = run(tmp_path / "s", experiment)

    reasons = {file["path"]: file["reason"] for file in json.loads(first.stdout)}
    assert reasons[f"{RAW}/1.pt"] == "left out by --component: attn_contribution"
    assert "1 files are present without the components" in again.stderr


def test_a_copy_below_another_path_is_present(experiment, tmp_path):
    copy = experiment / "inference" / "raw" / "residual" / "odd" / "1.pt"
    copy.parent.mkdir(parents=True)
    shutil.copy(experiment / RAW / "1.pt", copy)

    foreseen = import_experiment(None, experiment, dry_run=True)
    report = import_experiment(tistore.create(tmp_path / "s"), experiment)

    assert foreseen.counts == report.counts
    assert report.readings == foreseen.readings == 1
    assert (report.count("present"), report.count("refused")) == (1, 0)
