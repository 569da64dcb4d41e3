"""What `tistore doctor` tells of a store, sound or not."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

import tistore.store.verifying.health as health
from example_readings import make_reading
from tistore.store.base import BaseStore
from tistore.store.leases import Lease
from tistore.store.place import Place
from tistore.store.system import System
from tistore.store.verifying.health import Check, check_store


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What is remembered of passes lies in a folder of the test's own."""
    monkeypatch.setenv("TISTORE_CACHE_DIR", str(tmp_path / "cache"))


def look(store: BaseStore, *system: System) -> dict[str, Check]:
    return {check.check: check for check in check_store(store.path, *system)}


def test_nothing_is_wrong_with_a_sound_store(filled):
    before = sorted(filled.path.rglob("*"))

    checks = look(filled)

    assert {check.state for check in checks.values()} == {"ok"}
    assert list(checks) == [
        "store", "log", "file system", "room", "exclusive creates", "fsync", "writers",
        "unfinished segments", "temporary files", "small files", "verified",
    ]  # fmt: skip
    assert filled.header.uuid in checks["store"].detail
    assert "2 commits" in checks["log"].detail
    assert sorted(filled.path.rglob("*")) == before


def test_what_is_no_store_is_one_problem(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        (check,) = check_store(path)

        assert (check.check, check.state) == ("store", "problem")


def test_a_damaged_log_is_a_problem_and_the_rest_is_looked_at(filled):
    first, _ = sorted((filled.path / "commits").iterdir())
    first.write_bytes(first.read_bytes()[:-30])

    checks = look(filled)

    assert checks["log"].state == "problem"
    assert first.name in checks["log"].detail
    assert "tistore repair" in (checks["log"].mend or "")
    assert checks["unfinished segments"].state == "warning"
    assert checks["fsync"].state == checks["small files"].state == "ok"


def test_a_header_that_is_gone_does_not_hide_the_rest(filled):
    (filled.path / "tistore.json").unlink()

    checks = look(filled)

    assert checks["store"].state == checks["log"].state == "problem"
    assert checks["writers"].state == "ok"


def test_a_log_shorter_than_when_it_was_verified_is_a_problem(filled):
    filled.verify()
    _, last = sorted((filled.path / "commits").iterdir())
    last.unlink()

    assert look(filled)["log"].state == "problem"


def test_what_writers_left_is_told_from_what_they_are_at(filled):
    writer = filled.writer()
    writer.add(**make_reading(9))
    segment = filled.path / "segments" / "0123456789abcdef0123456789abcdef"
    segment.mkdir()
    (segment / "tokens.parquet").write_bytes(bytes(1000))
    (filled.path / "commits" / ".tmp-0123").write_bytes(b"half")

    checks = look(filled)

    assert checks["unfinished segments"].state == checks["temporary files"].state == "warning"
    assert "1 folders of 0.0 MB" in checks["unfinished segments"].detail
    assert "tistore gc" in (checks["unfinished segments"].mend or "")


def test_a_writer_at_work_is_no_warning(filled, monkeypatch):
    """Its lease protects what it has not committed yet."""
    seen = []

    class Looking(System):
        def link(self, source: str, target: str) -> None:
            if target.endswith(".json"):
                seen.append(look(filled))
            super().link(source, target)

    store = BaseStore.open(filled.path, system=Looking())
    with store.writer() as writer:
        writer.add(**make_reading(9))

    (checks,) = seen
    assert checks["writers"].detail == "1 live"
    assert checks["unfinished segments"] == Check("unfinished segments", "ok", "1 being written")
    assert look(filled)["writers"].detail == "none"


def test_writers_that_ended_without_closing_are_told(filled, monkeypatch):
    writers = [
        Lease(f"{number:032x}", 1, None, 0.0, None, state)
        for number, state in enumerate(("dead", "live", "silent", "expired"))
    ]
    monkeypatch.setattr(health, "read_leases", lambda files: writers)

    check = look(filled)["writers"]

    assert check.state == "warning"
    assert check.detail.startswith("1 dead, 1 expired, 1 live, 1 silent")


def test_the_last_pass_is_remembered_with_what_it_found(filled):
    assert look(filled)["verified"].detail == "never, from here"
    filled.verify()
    assert look(filled)["verified"].state == "ok"
    assert "up to commit 2" in look(filled)["verified"].detail
    target = filled.path / filled.snapshot.files[0].path
    target.write_bytes(b"")
    filled.verify(strict=False)

    check = look(filled)["verified"]

    assert check.state == "problem"
    assert "1 files were damaged" in check.detail


def test_a_pass_over_another_store_in_the_same_place_does_not_count(filled):
    filled.verify()
    shutil.rmtree(filled.path)

    assert look(BaseStore.create(filled.path))["verified"].detail == "never, from here"


@pytest.mark.parametrize(
    ("place", "check", "state", "words"),
    [
        (Place("fuse.s3fs", "/", False, 10**12, None), "file system", "problem", "object storage"),
        (Place("tmpfs", "/", False, 10**12, None), "file system", "warning", "in memory"),
        (Place("nfs4", "/", False, 10**12, None), "file system", "ok", "network"),
        (Place("xfs", "/", True, 10**12, None), "file system", "ok", "reading only"),
        (Place("ext4", "/", False, 10**8, 10**6), "room", "warning", "a commit takes"),
        (Place("ext4", "/", False, 10**12, 100), "room", "warning", "100 inodes"),
        (Place("btrfs", "/", False, 10**12, None), "room", "ok", "1000.0 GB"),
    ],
)
def test_a_place_that_does_not_suit_is_told(filled, monkeypatch, place, check, state, words):
    monkeypatch.setattr(health, "describe_place", lambda root: place)

    found = look(filled)[check]

    assert found.state == state
    assert words in found.detail
    assert (found.mend is None) == (state == "ok")


def test_a_file_system_that_does_not_keep_writers_apart_is_a_problem(filled):
    class Replacing(System):
        def create(self, path: str) -> int:
            return os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)

    check = look(filled, Replacing())["exclusive creates"]

    assert check.state == "problem"
    assert "creates a file that exists" in check.detail


def test_a_disk_that_cannot_be_synced_is_a_problem_and_a_slow_one_a_warning(filled, monkeypatch):
    class Failing(System):
        def sync(self, descriptor: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(health, "_SLOW_FSYNC_SECONDS", 0.0)

    assert look(filled, Failing())["fsync"].state == "problem"
    assert look(filled)["fsync"].state == "warning"
    assert not [path for path in (filled.path / "commits").iterdir() if path.name[0] == "."]


def test_nothing_is_tried_where_nothing_can_be_written(filled, monkeypatch):
    class Untouched(System):
        def create(self, path: str) -> int:
            raise AssertionError(path)

    monkeypatch.setattr("tistore.store.posix.PosixFiles.is_writable", lambda self: False)

    checks = look(filled, Untouched())

    assert "not tried" in checks["fsync"].detail
    assert "not tried" in checks["exclusive creates"].detail


def test_many_small_segments_are_told_and_what_merging_would_leave(store, monkeypatch):
    monkeypatch.setattr(health, "_FEW_FILES", 10)
    with store.writer() as writer:
        for seed in range(4):
            writer.add(**make_reading(seed))
            writer.commit()

    check = look(store)["small files"]

    assert check.state == "warning"
    assert "in 4 segments" in check.detail
    assert "tistore compact" in (check.mend or "")


def test_files_that_cannot_be_merged_are_no_warning(filled, monkeypatch):
    monkeypatch.setattr(health, "_FEW_FILES", 1)

    check = look(filled)["small files"]

    assert check.state == "ok"
    assert "no neighbours" in check.detail
