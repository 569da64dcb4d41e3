"""A log that is long enough to be read by several threads."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from example_readings import make_reading
from tistore.errors import IntegrityError
from tistore.store.base import BaseStore
from tistore.store.layout import commit_path
from tistore.store.log import append_commit
from tistore.store.posix import PosixFiles
from tistore.store.system import System

N_COMMITS = 150


class UnsyncedSystem(System):
    """The system without its disk: nothing here has to outlast the test."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: str) -> None:
        pass


@pytest.fixture
def long_store(tmp_path: Path) -> Path:
    """A store of a reading, and of commits of nothing before and after it."""
    root = tmp_path / "s.tistore"
    store = BaseStore.create(root, system=UnsyncedSystem())
    add_empty_commits(store, 0, N_COMMITS // 2)
    with BaseStore.open(root, system=UnsyncedSystem()).writer() as writer:
        writer.add(**make_reading(0))
    add_empty_commits(store, N_COMMITS // 2 + 1, N_COMMITS)
    return root


def add_empty_commits(store: BaseStore, start: int, stop: int) -> None:
    store.refresh()
    last = store.snapshot.commits[-1] if start else None
    for number in range(start, stop):
        last = append_commit(
            PosixFiles(store.path, UnsyncedSystem()),
            parent=last,
            header_hash=store.header.sha256,
            writer="0" * 32,
            commit_uuid=f"{number:032x}",
            additions={"segments": [], "tables": [], "keys": {}},
        )


def test_its_commits_are_read_in_their_order(long_store: Path):
    store = BaseStore.open(long_store)

    assert [commit.number for commit in store.snapshot.commits] == list(range(1, N_COMMITS + 1))
    assert store.snapshot.commits[10].body["commit_uuid"] == f"{10:032x}"
    assert store.info().readings == 1


def test_a_commit_that_is_missing_is_named(long_store: Path):
    (long_store / commit_path(100)).unlink()

    with pytest.raises(IntegrityError, match="commit 100 is missing from the log, but commit 101"):
        BaseStore.open(long_store)


def test_a_commit_that_is_damaged_is_named(long_store: Path):
    path = long_store / commit_path(70)
    path.write_bytes(path.read_bytes().replace(b"append", b"amend "))

    with pytest.raises(IntegrityError, match=f"{commit_path(70)} is damaged"):
        BaseStore.open(long_store)


def test_a_handle_that_follows_opens_no_segment_twice(long_store: Path):
    follower = BaseStore.open(long_store)
    before = follower.snapshot.segments
    BaseStore.open(long_store).add_vector("tone/flattery", [1.0] * 8, layer=5)
    with BaseStore.open(long_store).writer() as writer:
        writer.add(**make_reading(1))

    follower.refresh()

    assert follower.snapshot.number == N_COMMITS + 2
    assert follower.snapshot.segments[: len(before)] == before
    assert len(follower.snapshot.segments) == len(before) + 1


def test_opening_leaves_the_collector_as_it_was(long_store: Path):
    """It is paused meanwhile, also where opening fails."""
    gc.disable()
    try:
        BaseStore.open(long_store)
        assert not gc.isenabled()
    finally:
        gc.enable()
    (long_store / commit_path(100)).unlink()

    with pytest.raises(IntegrityError):
        BaseStore.open(long_store)

    assert gc.isenabled()
