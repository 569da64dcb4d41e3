"""`compact`, `rm` and `repair`: what they print, what they leave alone, what they exit with."""

from __future__ import annotations

import json

import pytest

import tistore
from command_line import rows, run
from example_readings import make_reading
from tistore.errors import TistoreError
from tistore.store.layout import HEADER, commit_path


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Three readings of two organisms, each with a commit of its own."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    store = tistore.create(tmp_path / "s.tistore")
    for seed in range(3):
        organism = "hedge" if seed == 2 else "flattery"
        with store.writer() as writer:
            writer.add(**make_reading(seed, organism=organism, reader=organism))
    return store.path


def code(*arguments):
    """The exit code of an error, which `main` turns into the process's."""
    error = run(*arguments).exception
    assert isinstance(error, TistoreError)
    return error.exit_code


def test_compact_says_what_it_merged_and_what_frees_the_rest(path):
    told = run("compact", path, "--dry-run")
    assert "nothing was merged" in told.stderr
    assert tistore.open(path).snapshot.number == 3

    done = run("compact", path, "--target", "1GB")

    assert done.exit_code == 0
    assert f"tistore gc {path}" in done.stderr
    assert len(tistore.open(path).snapshot.segments) == 1
    assert "there is nothing to merge" in run("compact", path).stderr
    assert code("compact", path, "--target", "much") == 2


def test_rm_removes_nothing_without_yes(path):
    told = run("rm", path, "--where", "organism = 'flattery'")

    assert "nothing was removed; --yes removes them" in told.stderr
    assert "2 readings and 2 responses, of 3 readings" in told.stderr
    assert tistore.open(path).info().readings == 3


def test_rm_lists_what_it_removed(path):
    removed = rows("rm", path, "--where", "organism = 'flattery'", "--reason", "wrong", "--yes")

    assert removed == [
        {
            "organism": "flattery",
            "reader": "flattery",
            "prompt_set": "audit/discovery",
            "readings": 2,
            "tokens": 10,
        }
    ]
    assert tistore.open(path).info().readings == 1
    assert code("rm", path, "--where", "organism = 'flattery'") == 1


def test_repair_of_a_sound_store_says_so(path):
    told = run("repair", path, "--yes")

    assert told.exit_code == 0
    assert "there is nothing to repair" in told.stderr


def test_repair_mends_a_store_that_cannot_be_opened(path):
    (path / commit_path(1)).unlink()
    assert code("info", path) == 4

    told = run("repair", path)
    assert "nothing was changed; --yes repairs" in told.stderr
    assert code("info", path) == 4
    (mended,) = rows("repair", path, "--yes")

    assert mended["path"] == commit_path(1)
    assert run("verify", path).exit_code == 0
    assert tistore.open(path).info().readings == 2


def test_repair_names_the_readings_that_are_lost(path):
    (shard,) = (
        path / file.path
        for file in tistore.open(path).snapshot.segments[1].files
        if "/residual.zarr/c/" in file.path
    )
    shard.write_bytes(b"\x00" * 100)

    told = run("repair", path, "--yes")

    assert "lost: 1 readings by flattery of flattery on audit/discovery" in told.stderr
    assert "1 readings are lost, 2 are kept" in told.stderr


def test_repair_says_that_nobody_can_tell_what_a_lost_commit_held(path):
    (path / commit_path(2)).unlink()

    told = run("repair", path)

    assert "0 readings are lost, 2 are kept" in told.stderr
    assert f"what {commit_path(2)} said is lost, too" in told.stderr
    assert list(rows("repair", path)[0]) == ["path", "problem", "action", "lost", "kept"]


def test_verify_lists_each_damaged_file_once(path):
    (tokens,) = path.glob(f"segments/{segment_of_commit(path, 2)}/tokens.parquet")
    tokens.unlink()

    told = run("verify", path)
    listed = json.loads(run("verify", path, "--json").stdout)

    assert "tokens.parquet" not in told.stdout
    assert str(told.exception).count("tokens.parquet: missing") == 1
    assert [one["problem"] for one in listed["problems"]] == ["missing"]


def test_verify_tells_of_segments_that_no_commit_names(path):
    for number in (1, 2, 3):
        (path / commit_path(number)).unlink()

    told = run("verify", path)

    assert "every byte of 0 files in 0 commits is as committed" in told.stderr
    assert "3 folders of segments are of no commit" in told.stderr


def segment_of_commit(path, number):
    return tistore.open(path).snapshot.commits[number - 1].body["segments"][0]["uuid"]


def test_a_lost_header_is_an_integrity_error(path):
    (path / HEADER).write_bytes(b"{}")

    assert code("repair", path, "--yes") == 4
