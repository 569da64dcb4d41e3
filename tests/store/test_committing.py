from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from example_readings import make_reading
from tistore.errors import DeviceError, StoreError
from tistore.store import committing, log
from tistore.store.base import BaseStore
from tistore.store.posix import PosixFiles


def folders(store: BaseStore) -> set[str]:
    return {path.name for path in (store.path / "segments").iterdir()}


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Work that others do just before a writer's turn comes, one piece a turn."""
    waiting: list[Any] = []
    real = PosixFiles.turn

    @contextmanager
    def turn(files: PosixFiles, *arguments: Any) -> Iterator[Any]:
        if waiting:
            waiting.pop(0)()
        with real(files, *arguments) as end_turn:
            yield end_turn

    monkeypatch.setattr(PosixFiles, "turn", turn)
    yield waiting
    assert not waiting


def add(path: Path, seed: int) -> None:
    with BaseStore.open(path).writer() as writer:
        writer.add(**make_reading(seed))


def test_a_writer_that_was_overtaken_commits_the_files_it_has(
    filled: BaseStore, overtaken: list[Any]
):
    """Its number was taken by something else: nothing has to be written anew."""
    before = folders(filled)
    writer = filled.writer()
    writer.add(**make_reading(10))
    known: list[set[str]] = []

    def overtake() -> None:
        known.append(folders(filled))
        add(filled.path, 11)

    overtaken.append(overtake)
    writer.close()

    own = known[0] - before
    assert own == {filled.snapshot.segments[-1].uuid}
    assert filled.snapshot.number == BaseStore.open(filled.path).snapshot.number == 4
    assert len(folders(filled) - before) == 2


def test_a_writer_that_was_overtaken_with_the_same_reading_leaves_nothing_behind(
    filled: BaseStore, overtaken: list[Any]
):
    before = folders(filled)
    writer = filled.writer()
    writer.add(**make_reading(10))
    overtaken.append(lambda: add(filled.path, 10))

    number = writer.commit()
    writer.close()

    assert number == 3
    assert len(folders(filled) - before) == 1
    filled.verify()


def test_a_number_that_is_taken_by_what_cannot_be_read_ends_the_attempts(
    filled: BaseStore, monkeypatch: pytest.MonkeyPatch
):
    """Rather than trying for ever; and nothing of the attempt is left."""
    before = folders(filled)
    monkeypatch.setattr(committing, "_PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(PosixFiles, "put_if_absent", lambda *_: False)
    writer = filled.writer()
    writer.add(**make_reading(10))

    with pytest.raises(StoreError, match="commit 3 cannot be written, and cannot be read either"):
        writer.commit()

    assert folders(filled) == before


def test_the_queue_is_no_longer_held_once_others_see_the_commit(
    filled: BaseStore, monkeypatch: pytest.MonkeyPatch
):
    """The next writer need not wait for this one's last fsync."""
    ended: list[str] = []

    @contextmanager
    def turn(*_: object) -> Iterator[Any]:
        yield lambda: ended.append("turn")

    monkeypatch.setattr(PosixFiles, "turn", turn)
    real = PosixFiles._link
    monkeypatch.setattr(PosixFiles, "_link", lambda *args: (real(*args), ended.append("link"))[0])
    add(filled.path, 10)

    assert ended == ["link", "turn"]


def test_a_commit_that_others_see_late_is_waited_for(
    filled: BaseStore, monkeypatch: pytest.MonkeyPatch
):
    """Its number is taken, and it cannot be read yet, as may be on a file server."""
    late = BaseStore.open(filled.path)
    writer = late.writer()
    writer.add(**make_reading(10))
    add(filled.path, 11)
    unseen = [filled.snapshot.number + 1] * 6
    monkeypatch.setattr(committing.time, "sleep", lambda seconds: None)
    real = log._list_numbers

    def list_numbers(*arguments: Any) -> list[int]:
        hidden = unseen.pop() if unseen else None
        return [number for number in real(*arguments) if number != hidden]

    monkeypatch.setattr(log, "_list_numbers", list_numbers)

    assert writer.commit() == filled.snapshot.number + 2
    assert not unseen


def test_files_of_a_commit_of_which_nobody_can_tell_whether_it_lasts_are_left(
    filled: BaseStore, monkeypatch: pytest.MonkeyPatch
):
    """The disk fails, and then does not even say whether the commit is there."""
    before = folders(filled)
    writer = filled.writer()
    writer.add(**make_reading(10))

    def fail(*_: object, **__: object) -> Any:
        raise DeviceError("the disk failed")

    monkeypatch.setattr(committing, "append_commit", fail)
    monkeypatch.setattr(committing, "is_named", fail)

    with pytest.raises(DeviceError, match="not confirmed to be durable"):
        writer.commit()

    assert len(folders(filled) - before) == 1
