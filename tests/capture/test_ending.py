"""A run ends in one of few ways; what it has read outlasts each of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tistore.capture.run import ingest
from tistore.capture.running import executor, filing
from tistore.capture.running.progress import SilentProgress
from tistore.capture.running.stop import StopRequestedError
from tistore.errors import NoRoomError
from tistore.store.base import BaseStore


@pytest.fixture
def store(tmp_path: Path) -> BaseStore:
    return BaseStore.create(tmp_path / "run.tistore")


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, message: str) -> None:
        self.heard.append(message)


def count_readings(store: BaseStore) -> int:
    store.refresh()
    return sum(segment.n_readings for segment in store.snapshot.segments)


def test_a_log_that_cannot_be_written_is_told_once_and_stops_nothing(store, configure):
    store.events.path.mkdir()
    notes = Notes()

    report = ingest(store, configure(), progress=notes)

    assert report.readings == count_readings(store) == 25
    (told,) = (note for note in notes.heard if "events.jsonl" in note)
    assert "tistore status" in told


def test_what_was_read_before_a_failure_is_committed_and_the_log_says_so(
    store, configure, monkeypatch
):
    add = filing.Writer.add
    added: list[str] = []

    def fill_up(writer, **reading):
        if len(added) == 7:
            raise NoRoomError("the disk is full")
        added.append(add(writer, **reading))

    monkeypatch.setattr(filing.Writer, "add", fill_up)

    with pytest.raises(NoRoomError, match="the disk is full"):
        ingest(store, configure())

    assert count_readings(store) == 7
    last = store.events.read()[-1]
    assert (last["event"], last["error"], last["readings"]) == ("failed", "the disk is full", 7)
    assert "tistore-store" not in {thread.name for thread in threading.enumerate()}


def test_a_second_interrupt_while_the_rest_is_written_leaves_the_writer_alone(
    store, configure, monkeypatch
):
    """A thread may be at it still: both at once could commit a key without its reading."""
    commits: list[str] = []

    def stop(*_):
        raise StopRequestedError(2)

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(executor.Executor, "do", stop)
    monkeypatch.setattr(filing.WriteQueue, "close", interrupt)
    monkeypatch.setattr(
        filing.Writer, "close", lambda _: commits.append(threading.current_thread().name)
    )

    with pytest.raises(KeyboardInterrupt):
        ingest(store, configure())

    assert commits == []
    assert "tistore-store" not in {thread.name for thread in threading.enumerate()}
