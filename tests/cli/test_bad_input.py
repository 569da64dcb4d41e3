"""Bad input: what a user sees, the exit code, and a store that is as it was."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

import tistore
from example_readings import HIDDEN, make_reading
from tistore.cli.main import main


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as its entry point does, in the tests' own process: starting one costs most."""
    argv = ["tistore", *map(str, arguments)]
    written, err = io.BytesIO(), io.StringIO()
    out = io.TextIOWrapper(written, "utf-8", write_through=True)
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", argv)
        main()
    said = written.getvalue().decode()
    return subprocess.CompletedProcess(argv, ended.value.code or 0, said, err.getvalue())


def start(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "tistore.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True)


@pytest.fixture
def store(tmp_path: Path) -> tistore.query.store.Store:
    made = tistore.create(tmp_path / "s.tistore")
    with made.writer() as writer:
        writer.add(**make_reading(0))
        writer.add(**make_reading(0, reader="instruct"))
    made.add_vector("tone/flattery", np.ones(HIDDEN), layer=5)
    return made


def fingerprint(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "scores" not in path.parts
    }


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["sql", "{store}", "SELECT project('flatery') FROM responses"], 1, "'flattery'"),
        (["sql", "{store}", "SELECT nonsense FROM responses"], 1, "nonsense"),
        (["sql", "{store}", "DROP TABLE responses"], 1, "only queries"),
        (["sql", "{store}", "SELECT 1", "-p", "novalue"], 2, "NAME=VALUE"),
        (["top", "{store}", "--trait", "flattery", "--organism", "flatery"], 1, "'flattery'"),
        (["top", "{store}", "--trait", "flattery", "--by", "word"], 1, "clause, response"),
        (["info", "{store}/none"], 1, "no store at"),
        (["info", "{store}/tistore.json"], 1, "is a file"),
        (["verify", "{store}", "--colour"], 2, "No such option"),
        (
            ["vectors", "add", "{store}", "tone/x", "{store}/tistore.json", "--layer", "5"],
            1,
            ".npy",
        ),
        (["plan", "{store}/none.toml"], 2, "cannot read"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(store, arguments, exit_code, said):
    before = fingerprint(store.path)

    done = run(*(argument.format(store=store.path) for argument in arguments))

    assert done.returncode == exit_code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert fingerprint(store.path) == before


def test_a_vector_of_another_width_is_refused_by_name(store):
    store.add_vector("tone/wide", np.ones(HIDDEN + 1), layer=5)

    done = run("sql", store.path, "SELECT project('wide') FROM responses")

    assert done.returncode == 1
    assert "9" in done.stderr
    assert "8" in done.stderr
    assert "tone/wide" in done.stderr


def test_a_damaged_store_exits_with_4_and_names_the_file(store):
    record = next(r for r in store.snapshot.files if r.path.endswith("tokens.parquet"))
    path = store.path / record.path
    path.write_bytes(path.read_bytes()[:-1])

    done = start("verify", store.path, "--json")

    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert [problem["path"] for problem in report["problems"]] == [record.path]


def test_a_sound_store_verifies(store):
    done = run("verify", store.path, "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is True


def test_top_prints_the_contracts_keys(store):
    done = run(
        "top", store.path, "--trait", "flattery", "--by", "clause", "--min-tokens", 1, "--json"
    )

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert rows
    for row in rows:
        assert set(row) >= {
            "organism",
            "reader",
            "baseline",
            "prompt_set",
            "prompt_id",
            "token_start",
            "token_end",
            "text",
            "score",
        }


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv", "md"])
def test_every_format_prints_every_row(store, format):
    done = run("sql", store.path, "SELECT reader, n_tokens FROM responses", "--format", format)

    assert done.returncode == 0, done.stderr
    assert "flattery" in done.stdout
    assert "instruct" in done.stdout
    if format == "json":
        assert len(json.loads(done.stdout)) == 2


def test_parquet_goes_out_as_a_file(store, tmp_path):
    import pyarrow.parquet as pq

    done = start("sql", store.path, "SELECT reader FROM responses", "--format", "parquet")

    assert done.returncode == 0, done.stderr
    path = tmp_path / "out.parquet"
    path.write_bytes(done.stdout)
    assert sorted(pq.read_table(path)["reader"].to_pylist()) == ["flattery", "instruct"]
