"""How writers say that they live, and what others make of it."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from threading import Timer

import pytest

from example_readings import make_reading
from tistore.errors import IntegrityError
from tistore.store import leases
from tistore.store.base import BaseStore
from tistore.store.leases import (
    EXPIRY_SECONDS,
    HeldLease,
    Machine,
    read_leases,
    take_lease,
    this_machine,
    uptime_seconds,
)
from tistore.store.posix import PosixFiles
from tistore.store.system import System

HERE = this_machine()


@pytest.fixture
def files(store):
    return store._files


def leave(files, machine: Machine | None = HERE, text: str | None = None) -> None:
    """Leave a lease that nobody holds."""
    content = {"writer": "w", "pid": 1, "started_at": "2026-01-01", **asdict(machine or HERE)}
    path = files.root / "leases" / "w.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content) if text is None else text)


def state(files, now: float | None = None) -> str:
    (lease,) = read_leases(files, now)
    return lease.state


def list_files(store) -> list[str]:
    folder = store.path / "leases"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_writer_holds_a_lease_from_its_first_file_to_its_end(store):
    with store.writer() as writer:
        before = list_files(store)
        writer.add(**make_reading(0))
        writer.commit()
        during = list_files(store)

    assert before == []
    assert during == [f"{writer._committer.writer}.json"]
    assert list_files(store) == []


def test_its_folders_bear_its_name(store):
    with store.writer() as writer:
        writer.add(**make_reading(0))
        writer.commit()

    (segment,) = store.snapshot.segments
    assert segment.uuid[:16] == store.snapshot.commits[0].body["writer"][:16]


def test_a_writer_that_is_forgotten_or_fails_gives_its_lease_up(store):
    writer = store.writer()
    writer.add(**make_reading(0))
    writer.commit()
    with pytest.raises(ZeroDivisionError), store.writer() as failing:
        failing.add(**make_reading(1))
        failing.commit()
        _ = 1 / 0
    n_held = len(list_files(store))
    del writer
    gc.collect()

    assert (n_held, list_files(store)) == (1, [])


def test_the_end_of_the_interpreter_ends_the_lease(store):
    code = (
        "import sys; from tistore.store.base import BaseStore\n"
        "c = BaseStore.open(sys.argv[1]).committer(); c.new_segment(); print(c.writer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True
    )

    assert len(done.stdout.strip()) == 32
    assert list_files(store) == []


def test_a_forked_child_does_not_end_its_parents_lease(store):
    committer = store.committer()
    committer.new_segment()
    child = os.fork()
    if child == 0:
        try:
            committer.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert state(store._files) == "live"
    committer.close()
    assert list_files(store) == []


def test_a_killed_writer_is_dead_at_once(store):
    reader, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            committer = BaseStore.open(store.path).committer()
            committer.new_segment()
            os.write(sender, committer.writer.encode())
            time.sleep(60)
        finally:
            os._exit(1)
    writer = os.read(reader, 32).decode()
    before = state(store._files)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert list_files(store) == [f"{writer}.json"]
    assert (before, state(store._files)) == ("live", "dead")


def test_readers_leave_no_trace(store):
    with store.writer() as writer:
        writer.add(**make_reading(0))
    (store.path / "leases").rmdir()
    reader = BaseStore.open(store.path)
    reader.info()
    reader.verify()
    reader.log()
    reader.gc()
    reader.compact(dry_run=True)

    assert not (store.path / "leases").exists()


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (HERE, "dead"),  # its lock is free
        (Machine(HERE.host, "m", "before"), "dead"),  # before this machine was started
        (Machine("far", "m", "before"), "silent"),
        (Machine(HERE.host, "other", "before"), "silent"),  # a namesake, such as a container
        (Machine(HERE.host, None, "before"), "silent"),
        (Machine("far", None, None), "silent"),
    ],
)
def test_only_what_is_proven_is_dead(files, monkeypatch, machine, expected):
    here = Machine(HERE.host, "m", HERE.boot_id or "now")
    monkeypatch.setattr(leases, "this_machine", lambda: here)
    monkeypatch.setattr(leases, "uptime_seconds", lambda: -1.0)
    leave(files, here if machine is HERE else machine)

    assert state(files) == expected
    assert state(files, time.time() + EXPIRY_SECONDS - 60) == expected
    assert state(files, time.time() + EXPIRY_SECONDS + 60) in {"dead", "expired"}


def test_a_namesake_that_was_heard_of_since_this_machine_was_started_is_another(files, monkeypatch):
    """Copies of one container have one name, and may have one machine id."""
    here = Machine(HERE.host, "m", "now")
    monkeypatch.setattr(leases, "this_machine", lambda: here)
    monkeypatch.setattr(leases, "uptime_seconds", lambda: 3600.0)
    leave(files, Machine(HERE.host, "m", "another"))

    assert state(files) == "silent"
    assert state(files, time.time() + 3700) == "dead"


def test_where_there_are_no_locks_nothing_is_proven_here_either(files, monkeypatch):
    leave(files)
    monkeypatch.setattr(PosixFiles, "is_held", lambda self, path: None)

    assert state(files) == "silent"
    assert state(files, time.time() + EXPIRY_SECONDS + 60) == "expired"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "far"}'])
def test_a_lease_that_says_nothing_protects_for_a_week(files, text):
    """Its writer was killed while it wrote it, or is just doing so."""
    leave(files, text=text)

    assert state(files) == "silent"
    assert state(files, time.time() + EXPIRY_SECONDS + 60) == "expired"


def test_the_lock_counts_whatever_the_clock_says(files):
    held = HeldLease(files, "w")

    assert state(files, time.time() + 10 * EXPIRY_SECONDS) == "live"
    assert state(files, 0.0) == "live"
    held.release()
    held.release()
    assert read_leases(files) == []


def test_a_clock_that_was_set_back_expires_nothing(files, monkeypatch):
    monkeypatch.setattr(leases, "this_machine", lambda: Machine("near", "n", "c"))
    leave(files, Machine("far", "m", "b"))

    assert state(files, 0.0) == "silent"


def test_a_writer_that_goes_on_renews_its_lease(files, monkeypatch):
    held = HeldLease(files, "w")
    path = files.root / "leases" / "w.json"
    os.utime(path, (0, 0))
    held.renew_if_due()
    before = path.stat().st_mtime
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", 0.0)
    held.renew_if_due()

    assert before == 0
    assert path.stat().st_mtime > 0
    held.release()


def test_a_lease_that_is_released_while_others_are_read_is_none(files, monkeypatch):
    leave(files)
    plain = PosixFiles.is_held

    def is_held(self, path):
        (files.root / path).unlink()
        return plain(self, path)

    monkeypatch.setattr(PosixFiles, "is_held", is_held)

    assert read_leases(files) == []


class LookedAt(System):
    """Somebody looks whether a file is locked before its creator can lock it."""

    def create(self, path):
        descriptor = super().create(path)
        looker = os.open(path, os.O_RDONLY)
        fcntl.flock(looker, fcntl.LOCK_SH)
        Timer(0.05, os.close, [looker]).start()
        return descriptor


def test_who_looks_at_a_lock_does_not_keep_a_writer_from_taking_it(files):
    """Both happen at once when `gc` runs beside a writer that starts."""
    watched = PosixFiles(files.root, LookedAt())
    held = HeldLease(watched, "w")

    assert state(files) == "live"
    held.release()


def test_a_lease_that_cannot_be_read_is_no_proof(files, monkeypatch):
    leave(files)

    def is_held(self, path):
        raise IntegrityError("it is not a plain file")

    monkeypatch.setattr(PosixFiles, "is_held", is_held)

    with pytest.raises(IntegrityError):
        read_leases(files)


def test_only_a_lease_that_is_still_there_is_taken(files):
    leave(files)
    (lease,) = read_leases(files)

    assert take_lease(files, lease)
    assert not take_lease(files, lease)
    assert read_leases(files) == []


def test_machines_that_tell_nothing_of_themselves_are_never_proven_dead(files, monkeypatch):
    monkeypatch.setattr(leases.Path, "read_text", lambda self: _refuse())
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    this_machine.cache_clear()
    try:
        here = this_machine()
        assert (here.machine_id, here.boot_id) == (None, None)
        assert uptime_seconds() == float("inf")
        leave(files, here)
    finally:
        monkeypatch.undo()
        this_machine.cache_clear()

    assert state(files) == "silent"


def _refuse():
    raise PermissionError
