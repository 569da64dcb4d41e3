"""`tistore import trait-interp`: what it prints, where, and how it ends."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

import tistore
from tistore.cli.main import app
from tistore.errors import TistoreError


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments):
    """Run the command; errors end as in `main`, by their exit code and message."""
    result = CliRunner().invoke(app, ["import", "trait-interp", *map(str, arguments)])
    if isinstance(result.exception, TistoreError):
        told = f"{result.stderr}error: {result.exception}"
        return Done(result.exception.exit_code, result.stdout, told)
    return Done(result.exit_code, result.stdout, result.stderr)


def test_counts_go_to_stdout_and_refusals_to_stderr(tree, tmp_path):
    done = run(tmp_path / "s", tree.experiment("december"))

    assert done.returncode == 0, done.stderr
    last = done.stdout.rstrip().splitlines()[-1].split()
    assert last == ["all", "14", "0", "1", "7", "3", "0"]
    assert "refused inference/raw/residual/audit/discovery/internals.pt: it has no token ids" in (
        done.stderr
    )
    assert "14 imported, 0 present, 1 refused; 5 readings" in done.stderr
    assert len(tistore.open(tmp_path / "s").snapshot.keys["readings"]) == 5


def test_json_lists_every_file_and_a_dry_run_makes_no_store(tree, tmp_path):
    done = run(tmp_path / "s", tree.experiment("december"), "--dry-run", "--json")

    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)
    keys = {"path", "kind", "outcome", "variety", "size_bytes", "value_bytes", "reason"}
    assert all(file.keys() == keys for file in files)
    assert sum(file["outcome"] == "imported" for file in files) == 14
    assert "would be: 14 imported" in done.stderr
    assert not (tmp_path / "s").exists()


def test_nothing_to_import_at_all_is_a_failure(tree, tmp_path):
    folder = tmp_path / "experiment" / "inference" / "base" / "raw" / "residual" / "broken"
    folder.mkdir(parents=True)
    shutil.copy(next(path for path in tree.refused if path.name == "text.pt"), folder)

    done = run(tmp_path / "s", tmp_path / "experiment")

    assert done.returncode == 1
    assert "nothing of" in done.stderr and "can be imported" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{none}"], "no experiment at"),
        (["{experiment}", "--component", "residul"], "did you mean 'residual'?"),
        (["{experiment}", "--tokenizer", "{none}"], "nothing lies at"),
    ],
)
def test_bad_arguments_cost_nothing(tree, tmp_path, arguments, told):
    places = {"none": tmp_path / "none", "experiment": tree.experiment("december")}

    done = run(tmp_path / "s", *(argument.format(**places) for argument in arguments))

    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "s").exists()


def test_check_sums_up_how_projections_agree(tree, tmp_path):
    done = run(tmp_path / "s", tree.experiment("december"), "--check", "--format", "csv")
    table = run(tmp_path / "s", tree.experiment("december"), "--check")

    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert table.returncode == 0, table.stderr
    scores = sum(int(row["n_scores"]) for row in rows)
    lines = [line.split() for line in table.stdout.splitlines() if " agreed " in line]
    assert sum(int(line[2]) for line in lines) == len(rows)
    assert sum(int(line[3]) for line in lines) == scores > 0
    assert f"{len(rows)} agree with the store" in table.stderr
    left = sum(int(row["n_projections"]) - int(row["n_checked"]) for row in rows)
    assert f"{left} projections in these files were not compared" in table.stderr


def test_check_prints_how_projections_agree(tree, tmp_path):
    done = run(tmp_path / "s", tree.experiment("december"), "--check", "--json")

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["verdict"] for row in rows} == {"agreed"}
    assert len(rows) == 4
